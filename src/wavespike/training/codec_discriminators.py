"""Discriminators of AudioDec's training: multi-scale (Kumar et al., MelGAN, 2019; Kong et al., HiFi-GAN, 2020) and multi-resolution on magnitudes
(Jang et al., UnivNet, 2021). Each maps waveforms [B, T] to (scores [B, N], feature maps), as those in `discriminators`.

Departures: the norms are really applied (upstream looks for another kind of layer and applies none); UnivNet's spectra are padded once.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from wavespike.config import Config
from wavespike.errors import ConfigError
from wavespike.training.discriminators import DiscriminatorGroup, Judgement


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiScaleConfig(Config):
    """The published sizes. The first scale has spectral normalisation, the others weight normalisation, as in HiFi-GAN."""

    type_name: ClassVar[str] = "multi-scale"

    scales: int = 3
    channels: int = 128
    max_channels: int = 1024
    max_groups: int = 16
    strides: tuple[int, ...] = (4, 4, 4, 4, 1)

    def __post_init__(self) -> None:
        if self.scales < 1 or self.channels < 4 or not self.strides:
            raise ConfigError(f"discriminator: expected scales >= 1, channels >= 4 and strides, got {self.scales}, {self.channels} and {self.strides}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiSpectralConfig(Config):
    """UnivNet's three resolutions: FFT, hop and window in samples."""

    type_name: ClassVar[str] = "multi-spectral"

    resolutions: tuple[tuple[int, int, int], ...] = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
    channels: int = 32
    negative_slope: float = 0.2


class ScaleDiscriminator(nn.Module):
    """Convolutions over the waveform, long kernels in groups: [B, T] -> scores and the map of every layer."""

    def __init__(self, config: MultiScaleConfig, spectral: bool):
        super().__init__()
        norm = spectral_norm if spectral else weight_norm
        c, width, groups = config, config.channels, 4
        layers: list[nn.Module] = [norm(nn.Conv1d(1, width, 15, padding=7))]
        for stride in c.strides:
            wider = min(2 * width, c.max_channels) if layers[1:] else width  # the first strided layer keeps the width
            layers.append(norm(nn.Conv1d(width, wider, 41, stride, 20, groups=min(groups, width))))
            width, groups = wider, min(4 * groups, c.max_groups)
        layers.append(norm(nn.Conv1d(width, min(2 * width, c.max_channels), 5, padding=2)))
        self.layers = nn.ModuleList(layers)
        self.post = norm(nn.Conv1d(min(2 * width, c.max_channels), 1, 3, padding=1))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Judgement:
        h, maps = x[:, None], []
        for layer in self.layers:
            h = F.leaky_relu(layer(h), 0.1)
            maps.append(h)
        score = self.post(h)
        return score.flatten(1), [*maps, score]


class ScaleGroup(DiscriminatorGroup):
    """Scale discriminators on the waveform and on its averages (4, stride 2, padding 2)."""

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[list[Tensor], list[list[Tensor]]]:
        scores, maps = [], []
        for i, member in enumerate(self.members):
            if i:
                x = F.avg_pool1d(x[:, None], 4, 2, 2)[:, 0]
            score, layers = member(x)
            scores.append(score)
            maps.append(layers)
        return scores, maps


class SpectralDiscriminator(nn.Module):
    """Six convolutions over one magnitude spectrogram [B, 1, F, L]; strides halve the frames as published."""

    def __init__(self, resolution: tuple[int, int, int], config: MultiSpectralConfig):
        super().__init__()
        self.resolution, self.slope = resolution, config.negative_slope
        c = config.channels
        kernels = [((3, 9), (1, 1)), *[((3, 9), (1, 2))] * 3, ((3, 3), (1, 1))]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(1 if i == 0 else c, c, k, s, ((k[0] - 1) // 2, (k[1] - 1) // 2))) for i, (k, s) in enumerate(kernels)
        )
        self.post = weight_norm(nn.Conv2d(c, 1, (3, 3), padding=(1, 1)))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Judgement:
        n_fft, hop, window = self.resolution
        spectrum = torch.stft(x, n_fft, hop, window, torch.hann_window(window, device=x.device, dtype=x.dtype), return_complex=True)
        h, maps = spectrum.abs()[:, None], []
        for layer in self.layers:
            h = F.leaky_relu(layer(h), self.slope)
            maps.append(h)
        score = self.post(h)
        return score.flatten(1), [*maps, score]


def make_codec_discriminator(config: MultiScaleConfig | MultiSpectralConfig) -> DiscriminatorGroup:
    """The group that a configuration describes."""
    if isinstance(config, MultiScaleConfig):
        return ScaleGroup([ScaleDiscriminator(config, spectral=i == 0) for i in range(config.scales)])
    return DiscriminatorGroup([SpectralDiscriminator(r, config) for r in config.resolutions])
