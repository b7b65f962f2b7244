"""WaveGrad's U-Net (Chen et al., 2021), the network of the SpecGrad paper: the noisy waveform goes down to the frames, the mel comes up to the samples, and
feature-wise affine maps (FiLM) from the one, which know the noise level, steer the other.

Sizes are those of WaveGrad Base. Departures: the hop may be any product of `factors`; frames may be centred (see `nn.diffwave.upsampled`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavespike.config import Config
from wavespike.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaveGradConfig(Config):
    """Upsampling `factors` of the blocks from frames to samples and their `channels`; `down_channels` counts from the samples, one fewer."""

    type_name: ClassVar[str] = "wavegrad"

    n_mels: int = 128
    mel_channels: int = 768
    factors: tuple[int, ...] = (5, 5, 3, 2, 2)
    channels: tuple[int, ...] = (512, 512, 256, 128, 128)
    first_channels: int = 32
    down_channels: tuple[int, ...] = (128, 128, 256, 512)

    def __post_init__(self) -> None:
        if not len(self.factors) == len(self.channels) == len(self.down_channels) + 1:
            raise ConfigError(f"denoiser: expected as many channels as factors and one down_channels fewer, got {len(self.channels)}, "
                              f"{len(self.factors)} and {len(self.down_channels)}")
        if min(*self.factors, *self.channels, *self.down_channels, self.first_channels, self.mel_channels, self.n_mels) < 1 or self.first_channels % 2:
            raise ConfigError("denoiser: expected factors and channels of 1 or more, first_channels even")

    @property
    def hop_length(self) -> int:
        """Samples a frame."""
        return math.prod(self.factors)


def dilated(inputs: int, outputs: int, dilation: int = 1) -> nn.Conv1d:
    """A convolution of width 3 that keeps the length, orthogonally initialised."""
    layer = nn.Conv1d(inputs, outputs, 3, padding=dilation, dilation=dilation)
    nn.init.orthogonal_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def level_encoding(level: Tensor, channels: int) -> Tensor:
    """Sines and cosines of 5000 times the noise level, [B] -> [B, channels]; odd channel counts end in a zero."""
    half = max(1, channels // 2)
    angle = 5000.0 * level.double()[:, None] * 10.0 ** (-4.0 * torch.arange(half, device=level.device, dtype=torch.float64) / half)
    return F.pad(torch.cat([torch.sin(angle), torch.cos(angle)], 1), (0, channels - 2 * half))[:, :channels]


class FiLM(nn.Module):
    """Hidden samples [B, C, T] and level [B] -> scale and shift [B, D, T]."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.embed, self.out = dilated(inputs, inputs), dilated(inputs, 2 * outputs)

    def forward(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        x = F.leaky_relu(self.embed(x), 0.2)
        x = x + level_encoding(level, x.shape[1]).to(x.dtype)[..., None]
        scale, shift = self.out(x).chunk(2, 1)
        return scale, shift


class DownBlock(nn.Module):
    """[B, C, T] -> [B, D, T / factor]"""

    def __init__(self, inputs: int, outputs: int, factor: int):
        super().__init__()
        self.factor = factor
        self.shortcut = nn.Conv1d(inputs, outputs, 1)
        self.layers = nn.ModuleList([dilated(inputs, outputs, 1), dilated(outputs, outputs, 2), dilated(outputs, outputs, 4)])

    def forward(self, x: Tensor) -> Tensor:
        kept = self.shortcut(x)[..., :: self.factor]
        h = x[..., :: self.factor]
        for layer in self.layers:
            h = layer(F.leaky_relu(h, 0.2))
        out: Tensor = h + kept
        return out


class UpBlock(nn.Module):
    """[B, C, L] -> [B, D, L * factor], modulated before all but the first convolution by scale and shift [B, D, L * factor]."""

    def __init__(self, inputs: int, outputs: int, factor: int, dilations: tuple[int, int, int, int]):
        super().__init__()
        self.factor = factor
        self.shortcut = nn.Conv1d(inputs, outputs, 1)
        sizes = (inputs, outputs, outputs, outputs)
        self.layers = nn.ModuleList(dilated(n, outputs, d) for n, d in zip(sizes, dilations, strict=True))

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        up = F.leaky_relu(x, 0.2).repeat_interleave(self.factor, -1)
        h = self.layers[0](up)
        h = self.layers[1](F.leaky_relu(scale * h + shift, 0.2))
        x = h + self.shortcut(x.repeat_interleave(self.factor, -1))
        h = self.layers[2](F.leaky_relu(scale * x + shift, 0.2))
        out: Tensor = x + self.layers[3](F.leaky_relu(scale * h + shift, 0.2))
        return out


class WaveGradDenoiser(nn.Module):
    """Noisy audio [B, T], mel [B, M, L] and level sqrt(abar) [B] -> the noise in it [B, T]."""

    def __init__(self, config: WaveGradConfig):
        super().__init__()
        self.config = config
        c = config
        self.mel_in = dilated(c.n_mels, c.mel_channels)
        self.audio_in = nn.Conv1d(1, c.first_channels, 5, padding=2)
        sizes = (c.first_channels, *c.down_channels)
        self.down = nn.ModuleList(DownBlock(a, b, f) for a, b, f in zip(sizes, sizes[1:], c.factors[:0:-1], strict=False))
        self.film = nn.ModuleList(FiLM(a, b) for a, b in zip(reversed(sizes), c.channels, strict=True))
        spans = [(1, 2, 1, 2) if i < 2 else (1, 2, 4, 8) for i in range(len(c.factors))]
        self.up = nn.ModuleList(UpBlock(a, b, f, d) for a, b, f, d in zip((c.mel_channels, *c.channels), c.channels, c.factors, spans, strict=False))
        self.out = dilated(c.channels[-1], 1)

    @property
    def context_frames(self) -> int:
        """Frames of mel or hops of audio, either side, that touch one hop of output (an upper bound)."""
        c = self.config
        reach, scale = 2.0, 1.0
        for factor in c.factors[:0:-1]:
            scale *= factor
            reach += 8 * scale
        scale = float(self.config.hop_length)
        up = scale
        for i, factor in enumerate(c.factors):
            scale /= factor
            up += (6 if i < 2 else 15) * scale
        return math.ceil((reach + up + 2 * self.config.hop_length) / self.config.hop_length) + 2

    def forward(self, noisy_audio: Tensor, mel: Tensor, level: Tensor) -> Tensor:
        length, frames = noisy_audio.shape[-1], mel.shape[-1]
        whole = frames * self.config.hop_length  # centred frames: half a hop before the first and after the last
        left = (whole - length) // 2
        x = self.audio_in(F.pad(noisy_audio, (left, whole - length - left))[:, None])
        hidden = [x]
        for down in self.down:
            hidden.append(down(hidden[-1]))
        h = self.mel_in(mel)
        for up, film, below in zip(self.up, self.film, reversed(hidden), strict=True):
            h = up(h, *film(below, level))
        out: Tensor = self.out(F.leaky_relu(h, 0.2))[:, 0]
        return out[:, left : left + length]
