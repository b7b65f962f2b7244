"""A causal codec in the Fourier domain: Vocos's frames and head (Siuzdak, 2023) around SoundStream's quantiser (Zeghidour et al., 2021).

Equation: X = transform(x), C = 4 X |X|^(c-1); codes = RVQ(W ConvNeXt(C) + P C), the sum of codewords is z; S = a + Q z, Y = exp(m) S/4 (|S/4|^(1/c-1) + e)
with m, a = V ConvNeXt(z), y = inverse(Y). The transform is a lapped STFT or an MDCT whose frames overlap their neighbours only; all convolutions are causal.
P and Q, the shortcut, start as the identity of the lowest coefficients: before any training the codec carries the waveform of the low frequencies.
Departures: lost frames are a learned vector to the decoder, which is trained to bridge them; the decoder's backbone may be spiking.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavespike.config import Config
from wavespike.errors import ConfigError
from wavespike.models.frame_codec import FrameCodec, check_backbones
from wavespike.nn.convnext import ConvNeXtBackbone, ConvNeXtConfig
from wavespike.nn.rvq import ResidualVQ, RVQConfig
from wavespike.nn.spiking import SpikingConvNeXtBackbone, SpikingConvNeXtConfig
from wavespike.signal.lapped import lapped_window
from wavespike.signal.mdct import imdct_frames, mdct_of_frames

Transform = Literal["stft", "mdct"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FourierCodecConfig(Config):
    """Frames of `frame_length` samples every `hop_length` (MDCT: exactly two hops); `compression` is the exponent c of the encoder's input.

    `shortcut` leads the lowest coefficients (by the initial weights: any) past both networks, so that the phase need not be learned from scratch.
    """

    type_name: ClassVar[str] = "fourier-codec"

    sample_rate: int = 24000
    transform: Transform = "mdct"
    hop_length: int = 300
    frame_length: int = 600
    compression: float = 0.5
    shortcut: bool = True
    encoder: ConvNeXtConfig = ConvNeXtConfig(input_channels=300, dim=192, intermediate_dim=576, num_layers=4, causal=True, embed_kernel_size=1)
    quantizer: RVQConfig = RVQConfig()
    decoder: ConvNeXtConfig | SpikingConvNeXtConfig = ConvNeXtConfig(input_channels=64, dim=192, intermediate_dim=576, num_layers=6, causal=True)

    def __post_init__(self) -> None:
        if not self.hop_length < self.frame_length <= 2 * self.hop_length or self.frame_length % 2:
            raise ConfigError(f"frame_length: expected an even number above {self.hop_length} (hop_length) and at most twice it, got {self.frame_length}")
        if self.transform == "mdct" and self.frame_length != 2 * self.hop_length:
            raise ConfigError(f"frame_length: expected two hops ({2 * self.hop_length}) for an MDCT, got {self.frame_length}")
        if not 0 < self.compression <= 1:
            raise ConfigError(f"compression: expected an exponent in 0..1, above 0, got {self.compression}")
        what = f"the {self.transform} of {self.frame_length} samples"
        check_backbones(self.encoder, self.input_features, what, self.decoder, self.quantizer.dim, "quantizer.dim")

    @property
    def bins(self) -> int:
        """Complex bins or real coefficients a frame."""
        return self.frame_length // 2 + 1 if self.transform == "stft" else self.hop_length

    @property
    def input_features(self) -> int:
        """Real numbers a frame that the encoder sees."""
        return 2 * self.bins if self.transform == "stft" else self.bins


SCALE = 4.0
"""Brings compressed coefficients of speech near 1."""
FLOOR = 0.03
"""e of the expansion: keeps its slope above 0."""


def _shortcut(config: FourierCodecConfig) -> Tensor:
    """Identity of the lowest coefficients [D, input_features]; of an STFT's, half real and half imaginary parts."""
    size, features = config.quantizer.dim, config.input_features
    weight = torch.zeros(size, features)
    if config.transform == "mdct":
        kept = torch.arange(min(size, features))
    else:
        half = torch.arange(min(size // 2, config.bins))
        kept = torch.cat([half, config.bins + half])
    weight[torch.arange(len(kept)), kept] = 1.0
    return weight


class FrameEncoder(nn.Module):
    """Frames [B, L, frame_length], not windowed -> latents [B, D, L]."""

    def __init__(self, config: FourierCodecConfig):
        super().__init__()
        self.config = config
        self.backbone = ConvNeXtBackbone(config.encoder)
        self.project = nn.Linear(config.encoder.dim, config.quantizer.dim)
        self.shortcut = nn.Parameter(_shortcut(config)) if config.shortcut else None
        nn.init.trunc_normal_(self.project.weight, std=0.005 if config.shortcut else 0.02)
        nn.init.zeros_(self.project.bias)

    def features(self, frames: Tensor) -> Tensor:
        """Compressed spectrum of frames [B, L, frame_length] -> [B, input_features, L]."""
        c = self.config
        power = 0.5 * (c.compression - 1)
        if c.transform == "mdct":
            x = mdct_of_frames(frames)
            return SCALE * x * (x.square() + 1e-8).pow(power)
        window = lapped_window(c.frame_length, c.hop_length, dtype=frames.dtype, device=frames.device)
        spectrum = torch.fft.rfft(frames * window, norm="ortho")  # [B, L, F]
        gain = SCALE * (spectrum.real.square() + spectrum.imag.square() + 1e-8).pow(power)
        return torch.cat([spectrum.real * gain, spectrum.imag * gain], -1).transpose(1, 2)

    def latents(self, hidden: Tensor, features: Tensor) -> Tensor:
        """Hidden frames [B, L, dim] and features [B, input_features, L] -> [B, D, L]."""
        latents: Tensor = self.project(hidden)
        if self.shortcut is not None:
            latents = latents + F.linear(features.transpose(1, 2), self.shortcut)
        return latents.transpose(1, 2)

    def forward(self, frames: Tensor) -> Tensor:
        features = self.features(frames)
        return self.latents(self.backbone(features), features)

    def initial_state(self, batch_size: int) -> list[Tensor]:
        return self.backbone.initial_state(batch_size)

    def step(self, frames: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        features = self.features(frames)
        hidden, state = self.backbone.step(features, state)
        return self.latents(hidden, features), state


class FrameDecoder(nn.Module):
    """Quantised latents [B, D, L] -> windowed frames [B, L, frame_length], to be overlap-added; `missing` [B, L] frames are not looked at."""

    def __init__(self, config: FourierCodecConfig):
        super().__init__()
        self.config = config
        d = config.decoder
        self.backbone: ConvNeXtBackbone | SpikingConvNeXtBackbone
        self.backbone = SpikingConvNeXtBackbone(d) if isinstance(d, SpikingConvNeXtConfig) else ConvNeXtBackbone(d)
        self.out = nn.Linear(config.decoder.dim, config.input_features + config.bins)
        self.shortcut = nn.Parameter(_shortcut(config).t().contiguous()) if config.shortcut else None
        nn.init.trunc_normal_(self.out.weight, std=0.005 if config.shortcut else 0.02)
        nn.init.zeros_(self.out.bias)
        self.lost = nn.Parameter(torch.zeros(config.quantizer.dim))
        """What the decoder sees in place of a lost frame."""

    def heard(self, latents: Tensor, missing: Tensor | None) -> Tensor:
        """Latents [B, D, L] with the lost frames replaced."""
        return latents if missing is None else torch.where(missing[:, None], self.lost[:, None], latents)

    def frames(self, hidden: Tensor, latents: Tensor) -> Tensor:
        """Hidden frames [B, L, dim] and latents [B, D, L] -> windowed frames [B, L, frame_length]."""
        c = self.config
        z = self.out(hidden)
        z = z.float() if z.dtype in (torch.bfloat16, torch.float16) else z  # there are no complex numbers of half precision
        gain, s = z.split((c.bins, c.input_features), -1)
        if self.shortcut is not None:
            s = s + F.linear(latents.transpose(1, 2), self.shortcut)
        gain, s = torch.exp(gain.clamp(max=6.0)), s / SCALE
        power = 1 / c.compression - 1
        if c.transform == "mdct":
            coefficients = gain * s * ((s.square() + 1e-8).pow(0.5 * power) + FLOOR)
            return imdct_frames(coefficients.transpose(1, 2), c.frame_length)
        real, imaginary = s.chunk(2, -1)
        gain = gain * ((real.square() + imaginary.square() + 1e-8).pow(0.5 * power) + FLOOR)
        window = lapped_window(c.frame_length, c.hop_length, dtype=z.dtype, device=z.device)
        frames: Tensor = torch.fft.irfft(torch.complex(gain * real, gain * imaginary), n=c.frame_length, norm="ortho") * window
        return frames

    def forward(self, latents: Tensor, missing: Tensor | None = None) -> Tensor:
        latents = self.heard(latents, missing)
        return self.frames(self.backbone(latents), latents)

    def initial_state(self, batch_size: int) -> list[Tensor]:
        return self.backbone.initial_state(batch_size)

    def step(self, latents: Tensor, state: list[Tensor], missing: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        latents = self.heard(latents, missing)
        hidden, state = self.backbone.step(latents, state)
        return self.frames(hidden, latents), state


class FourierCodec(FrameCodec[FourierCodecConfig]):
    """A codec of any configuration: audio [B, 1, T] <-> codes [B, K, L], causal, `delay` = frame_length - 1 samples in all."""

    config_class: ClassVar[type[Config]] = FourierCodecConfig

    def __init__(self, config: FourierCodecConfig):
        super().__init__(config)
        self.encoder = FrameEncoder(config)
        self.quantizer = ResidualVQ(config.quantizer)
        self.decoder = FrameDecoder(config)

    @property
    def analysis_length(self) -> int:
        return self.config.frame_length

    @property
    def span(self) -> int:
        return self.config.frame_length

    @property
    def edge(self) -> int:
        return self.config.frame_length - self.config.hop_length
