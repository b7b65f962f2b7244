"""Waveform discriminators: multi-period (Kong et al., HiFi-GAN, 2020) and multi-resolution on complex spectra (Kumar et al., DAC, 2023, as in Vocos).

Every discriminator maps waveforms [B, T] (and a condition [B] where it has one) to (scores [B, N], feature maps); a group of them to lists of both.
Departures from the published Vocos: feature maps are those of the layers, never changed by the condition afterwards; the first layer's map is one of
them; the level of the waveform is not normalised away unless asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from wavespike.config import Config
from wavespike.errors import ConfigError
from wavespike.signal.stft import reflect_pad, stft

Judgement = tuple[Tensor, list[Tensor]]
SLOPE = 0.1
"""Of the leaky ReLU."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiPeriodConfig(Config):
    """The published sizes: 41 M parameters. `first_map` False leaves the first layer out of feature matching, as the published Vocos."""

    type_name: ClassVar[str] = "multi-period"

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)
    first_map: bool = True

    def __post_init__(self) -> None:
        if not self.periods or min(self.periods) < 1 or len(self.channels) < 2:
            raise ConfigError(f"discriminator: expected periods >= 1 and two channel counts or more, got {self.periods} and {self.channels}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiResolutionConfig(Config):
    """The published sizes. Light, for CPUs: windows (1024, 512, 256), channels 16, bands (0, 1).

    `windows` in samples (hop a quarter); `bands` the edges as fractions of the spectrum; `peak_normalise` removes the mean and scales the peak to 0.8
    before judging, as the published Vocos does, which blinds the discriminator to level.
    """

    type_name: ClassVar[str] = "multi-resolution"

    windows: tuple[int, ...] = (2048, 1024, 512)
    channels: int = 32
    bands: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    peak_normalise: bool = False
    first_map: bool = True

    def __post_init__(self) -> None:
        if not self.windows or min(self.windows) < 16 or self.channels < 1:
            raise ConfigError(f"discriminator: expected windows of 16 samples or more and channels >= 1, got {self.windows} and {self.channels}")
        if len(self.bands) < 2 or list(self.bands) != sorted(set(self.bands)) or self.bands[0] < 0 or self.bands[-1] > 1:
            raise ConfigError(f"discriminator.bands: expected rising fractions in 0..1, got {list(self.bands)}")


class Projection(nn.Module):
    """Conditional projection (Miyato and Koyama, 2018): sum_c e_c x_c of features [B, C, H, W] and an embedding row [B] -> [B, 1, H, W]. Starts at 0."""

    def __init__(self, num_embeddings: int, channels: int):
        super().__init__()
        self.embedding = nn.Embedding(num_embeddings, channels)
        nn.init.zeros_(self.embedding.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        row: Tensor = self.embedding(condition)[:, :, None, None]
        return (row * x).sum(1, keepdim=True)


def _conv(c_in: int, c_out: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> nn.Module:
    padding = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
    out: nn.Module = weight_norm(nn.Conv2d(c_in, c_out, kernel, stride, padding))
    return out


class PeriodDiscriminator(nn.Module):
    """Judges every p-th sample together: [B, T] -> [B, 1, T / p, p] -> five convolutions over time -> scores."""

    def __init__(self, period: int, config: MultiPeriodConfig, num_embeddings: int | None = None):
        super().__init__()
        self.period, self.first_map = period, config.first_map
        sizes = (1, *config.channels)
        strides = [(3, 1)] * (len(sizes) - 2) + [(1, 1)]
        self.convs = nn.ModuleList(_conv(a, b, (5, 1), s) for a, b, s in zip(sizes[:-1], sizes[1:], strides, strict=True))
        self.post = _conv(sizes[-1], 1, (3, 1))
        self.projection = None if num_embeddings is None else Projection(num_embeddings, sizes[-1])

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Judgement:
        x = reflect_pad(x, 0, -x.shape[-1] % self.period)
        h = x.reshape(x.shape[0], 1, -1, self.period)  # [B, 1, T / p, p]
        maps = []
        for i, conv in enumerate(self.convs):
            h = F.leaky_relu(conv(h), SLOPE)
            if i > 0 or self.first_map:
                maps.append(h)
        score = self.post(h)
        maps.append(score)
        if self.projection is not None and condition is not None:
            score = score + self.projection(h, condition)
        return score.flatten(1), maps


class ResolutionDiscriminator(nn.Module):
    """Judges real and imaginary parts of one STFT, band by band: [B, T] -> [B, 2, L, F] -> five convolutions a band -> joined -> scores."""

    def __init__(self, window: int, config: MultiResolutionConfig, num_embeddings: int | None = None):
        super().__init__()
        self.window, self.peak_normalise, self.first_map = window, config.peak_normalise, config.first_map
        bins, c = window // 2 + 1, config.channels
        self.edges = [(int(a * bins), int(b * bins)) for a, b in zip(config.bands[:-1], config.bands[1:], strict=True)]
        self.bands = nn.ModuleList(
            nn.ModuleList([_conv(2, c, (3, 9)), *(_conv(c, c, (3, 9), (1, 2)) for _ in range(3)), _conv(c, c, (3, 3))]) for _ in self.edges
        )
        self.post = _conv(c, 1, (3, 3))
        self.projection = None if num_embeddings is None else Projection(num_embeddings, c)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Judgement:
        if self.peak_normalise:
            x = x - x.mean(-1, keepdim=True)
            x = 0.8 * x / (x.abs().amax(-1, keepdim=True) + 1e-9)
        spectrum = stft(x, self.window, self.window // 4)
        h = torch.view_as_real(spectrum).permute(0, 3, 2, 1)  # [B, 2, L, F]
        maps, joined = [], []
        for (low, high), convs in zip(self.edges, self.bands, strict=True):
            band = h[..., low:high]
            assert isinstance(convs, nn.ModuleList)
            for i, conv in enumerate(convs):
                band = F.leaky_relu(conv(band), SLOPE)
                if i > 0 or self.first_map:
                    maps.append(band)
            joined.append(band)
        last = torch.cat(joined, -1)
        score = self.post(last)
        maps.append(score)
        if self.projection is not None and condition is not None:
            score = score + self.projection(last, condition)
        return score.flatten(1), maps


class DiscriminatorGroup(nn.Module):
    """Several discriminators of one kind: waveforms [B, T] -> (list of scores, list of lists of feature maps)."""

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[list[Tensor], list[list[Tensor]]]:
        judged = [member(x, condition) for member in self.members]
        return [score for score, _ in judged], [maps for _, maps in judged]


def make_discriminator(config: MultiPeriodConfig | MultiResolutionConfig, num_embeddings: int | None = None) -> DiscriminatorGroup:
    """The group that a configuration describes; `num_embeddings` is the number of conditions, None for an unconditional one."""
    if isinstance(config, MultiPeriodConfig):
        return DiscriminatorGroup([PeriodDiscriminator(p, config, num_embeddings) for p in config.periods])
    return DiscriminatorGroup([ResolutionDiscriminator(w, config, num_embeddings) for w in config.windows])
