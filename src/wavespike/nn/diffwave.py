"""DiffWave's network (Kong et al., 2021), as in the public SpecGrad and PriorGrad code: gated dilated convolutions over samples, told the mel and the step.

Equation: a layer computes h = x + P(step), (g, f) = dconv3(h) + C(mel), y = O(sigmoid(g) tanh(f)), x <- (x + y_1) / sqrt 2, skip += y_2.
Argument and parameter names are the public code's. Departure: the mel may have one frame too many or too few samples to cover (see `upsampled`).
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
class DiffWaveConfig(Config):
    """The published size. The product of `spec_upsample_strides` is the hop in samples."""

    type_name: ClassVar[str] = "diffwave"

    residual_channels: int = 64
    num_residual_layers: int = 30
    n_mels: int = 128
    dilation_cycle_length: int = 10
    max_timesteps: int = 50
    diffusion_embedding_dim: int = 64
    diffusion_projection_dim: int = 512
    leaky_relu_slope: float = 0.4
    spec_upsample_strides: tuple[int, ...] = (10, 30)

    def __post_init__(self) -> None:
        sizes = (self.residual_channels, self.num_residual_layers, self.n_mels, self.dilation_cycle_length, self.max_timesteps, self.diffusion_projection_dim)
        if min(*sizes, *self.spec_upsample_strides) < 1 or self.diffusion_embedding_dim < 2 or any(s % 2 for s in self.spec_upsample_strides):
            raise ConfigError("denoiser: expected sizes of 1 or more, diffusion_embedding_dim of 2 or more and even spec_upsample_strides")

    @property
    def hop_length(self) -> int:
        """Samples a frame."""
        return math.prod(self.spec_upsample_strides)


class DiffusionEmbedding(nn.Module):
    """Step [B], integer or between two integers, -> [B, projection]. Rows of sines and cosines; between them linear interpolation."""

    table: Tensor

    def __init__(self, max_timesteps: int, embedding_dim: int, projection_dim: int):
        super().__init__()
        angle = torch.arange(max_timesteps)[:, None] * 10.0 ** (torch.arange(embedding_dim) * 4.0 / (embedding_dim - 1))
        self.register_buffer("table", torch.cat([torch.sin(angle), torch.cos(angle)], 1), persistent=False)
        self.projection1 = nn.Linear(2 * embedding_dim, projection_dim)
        self.projection2 = nn.Linear(projection_dim, projection_dim)

    def forward(self, step: Tensor) -> Tensor:
        low = step.floor().long() if step.is_floating_point() else step
        rows = self.table[low]
        if step.is_floating_point():
            rows = torch.lerp(rows, self.table[step.ceil().long()], (step - low).to(rows.dtype)[:, None])
        out: Tensor = F.silu(self.projection2(F.silu(self.projection1(rows))))
        return out


class SpectrogramUpsampler(nn.Module):
    """Mel [B, M, L] -> [B, M, L * hop] by transposed convolutions over frequency and time."""

    def __init__(self, strides: tuple[int, ...], slope: float):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(1, 1, (3, 2 * s), stride=(1, s), padding=(1, s // 2)), nn.LeakyReLU(slope)) for s in strides
        )

    def forward(self, mel: Tensor) -> Tensor:
        x = mel[:, None]
        for layer in self.layers:
            x = layer(x)
        return x[:, 0]


def upsampled(x: Tensor, length: int) -> Tensor:
    """Cut what was upsampled from L frames [B, M, L * hop] to the samples: all of them, or for centred frames those between the first and the last frame."""
    spare = x.shape[-1] - length
    return x[..., spare // 2 : spare // 2 + length]


class ResidualLayer(nn.Module):
    """x [B, C, T], step [B, P], mel [B, M, T] -> (x, skip), each [B, C, T]."""

    def __init__(self, channels: int, n_mels: int, projection_dim: int, dilation: int):
        super().__init__()
        self.dilated_conv = nn.Conv1d(channels, 2 * channels, 3, padding=dilation, dilation=dilation)
        self.diffusion_projection = nn.Linear(projection_dim, channels)
        self.conditioner_projection = nn.Conv1d(n_mels, 2 * channels, 1)
        self.output_projection = nn.Conv1d(channels, 2 * channels, 1)

    def forward(self, x: Tensor, step: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        h = x + self.diffusion_projection(step)[..., None]
        gate, value = (self.dilated_conv(h) + self.conditioner_projection(mel)).chunk(2, 1)
        residual, skip = self.output_projection(torch.sigmoid(gate) * torch.tanh(value)).chunk(2, 1)
        return (x + residual) / math.sqrt(2.0), skip


class DiffWaveDenoiser(nn.Module):
    """Noisy audio [B, T], mel [B, M, L] and step [B] -> the noise in it [B, T]."""

    def __init__(self, config: DiffWaveConfig):
        super().__init__()
        self.config = config
        c = config
        self.diffusion_embedding = DiffusionEmbedding(c.max_timesteps, c.diffusion_embedding_dim, c.diffusion_projection_dim)
        self.spectrogram_upsampler = SpectrogramUpsampler(c.spec_upsample_strides, c.leaky_relu_slope)
        self.input_projection = nn.Conv1d(1, c.residual_channels, 1)
        self.residual_layers = nn.ModuleList(
            ResidualLayer(c.residual_channels, c.n_mels, c.diffusion_projection_dim, 2 ** (i % c.dilation_cycle_length)) for i in range(c.num_residual_layers)
        )
        self.skip_projection = nn.Conv1d(c.residual_channels, c.residual_channels, 1)
        self.output_projection = nn.Conv1d(c.residual_channels, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.output_projection.weight)

    @property
    def context_frames(self) -> int:
        """Frames of mel or hops of audio, either side, that touch one hop of output."""
        c = self.config
        reach: int = sum(2 ** (i % c.dilation_cycle_length) for i in range(c.num_residual_layers))
        return -(-reach // c.hop_length) + 3

    def forward(self, noisy_audio: Tensor, mel: Tensor, step: Tensor) -> Tensor:
        embedded = self.diffusion_embedding(step)
        condition = upsampled(self.spectrogram_upsampler(mel), noisy_audio.shape[-1])
        x = F.relu(self.input_projection(noisy_audio[:, None]))
        total = torch.zeros_like(x)
        for layer in self.residual_layers:
            x, skip = layer(x, embedded, condition)
            total = total + skip
        hidden = F.relu(self.skip_projection(total / math.sqrt(self.config.num_residual_layers)))
        out: Tensor = self.output_projection(hidden)[:, 0]
        return out
