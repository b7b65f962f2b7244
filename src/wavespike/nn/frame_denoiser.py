"""A denoiser on STFT frames: what DiffWave does sample by sample, a ConvNeXt (Liu et al., 2022; Vocos: Siuzdak, 2023) does frame by frame.

Equation: Y and G are the spectra of the noisy signal and of the source, u = G / |G| (1 without a source); the network sees Y conj(u), log|Y|, log|G|, the mel and the level,
and answers with gains: output = ISTFT(p Y + q G), p real, q complex (without a source q u).
Why so: in the whitened space a noise-like bin needs no more than a gain on what is already there, and a voiced one is smooth once the source's phase is taken
out. All of it turns with the phase of the source, so nothing has to be learned twice.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from wavespike.config import Config
from wavespike.errors import ConfigError
from wavespike.nn.convnext import ConvNeXtBackbone, ConvNeXtConfig
from wavespike.nn.spiking import SpikingConvNeXtBackbone, SpikingConvNeXtConfig
from wavespike.signal.envelope import window_energy
from wavespike.signal.griffin_lim import scaled, unit
from wavespike.signal.mel import MelConfig
from wavespike.signal.stft import istft, stft


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameDenoiserConfig(Config):
    """A dense or spiking backbone whose `input_channels` is the width of what it is given; `embedding_dim` is that of the level."""

    type_name: ClassVar[str] = "frames"

    backbone: ConvNeXtConfig | SpikingConvNeXtConfig = ConvNeXtConfig(input_channels=192, dim=192, intermediate_dim=576, num_layers=6)
    embedding_dim: int = 64

    def __post_init__(self) -> None:
        if self.embedding_dim < 2 or self.embedding_dim % 2:
            raise ConfigError(f"denoiser.embedding_dim: expected an even number of 2 or more, got {self.embedding_dim}")
        if self.backbone.adanorm_num_embeddings is not None:
            raise ConfigError("denoiser.backbone.adanorm_num_embeddings: expected none, the level takes its place")


class LevelEmbedding(nn.Module):
    """Level a [B] -> [B, dim]: sines and cosines of the angle arccos(a), which is even in effort from noise to speech."""

    def __init__(self, embedding_dim: int, dim: int):
        super().__init__()
        self.waves = embedding_dim // 2
        self.layers = nn.Sequential(nn.Linear(embedding_dim, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())

    def forward(self, level: Tensor) -> Tensor:
        angle = torch.acos(level.double().clamp(0.0, 1.0))[:, None]
        turns = angle * torch.exp(torch.arange(self.waves, device=level.device, dtype=torch.float64) * (math.log(100.0) / max(1, self.waves - 1)))
        rows = torch.cat([torch.sin(turns), torch.cos(turns)], 1)
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        out: Tensor = self.layers(rows.to(first.weight.dtype))
        return out


class FrameDenoiser(nn.Module):
    """Noisy signal [B, T], features [B, C, L], level [B] and source [B, T] or None -> prediction [B, T]."""

    def __init__(self, config: FrameDenoiserConfig, mel: MelConfig):
        super().__init__()
        self.config, self.mel = config, mel
        c, self.bins = config.backbone, mel.n_fft // 2 + 1
        self.spectrum_in = nn.Linear(4 * self.bins, c.input_channels)
        self.mel_in = nn.Linear(mel.n_mels, c.input_channels, bias=False)
        self.level = LevelEmbedding(config.embedding_dim, c.dim)
        self.level_in = nn.Linear(c.dim, c.input_channels, bias=False)
        self.level_out = nn.Linear(c.dim, 2 * c.dim)
        self.backbone = SpikingConvNeXtBackbone(c) if isinstance(c, SpikingConvNeXtConfig) else ConvNeXtBackbone(c)
        self.out = nn.Linear(c.dim, 3 * self.bins)
        for layer, std in ((self.spectrum_in, 0.02), (self.mel_in, 0.1), (self.level_out, 0.01), (self.out, 0.005)):
            nn.init.trunc_normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    @property
    def context_frames(self) -> int:
        """Frames either side that touch one hop of output: the backbone, analysis and overlap-add."""
        return max(self.backbone.context_frames) + 2 * math.ceil(self.mel.n_fft / 2 / self.mel.hop_length) + 1

    def spectrum(self, x: Tensor) -> Tensor:
        """Frames first, [B, L, F], unit variance a bin for unit white noise."""
        m = self.mel
        return scaled(stft(x, m.n_fft, m.hop_length, m.win_length, m.padding).transpose(1, 2), x.new_tensor(window_energy(m.n_fft, m.win_length) ** -0.5))

    def forward(self, noisy: Tensor, features: Tensor, level: Tensor, source: Tensor | None = None) -> Tensor:
        m = self.mel
        y = self.spectrum(noisy)
        g = torch.ones_like(y) if source is None else self.spectrum(source)
        u = unit(g)
        turned = y * u.conj()
        quiet = 1e-4
        seen = torch.cat([turned.real, turned.imag, torch.log(y.abs().square() + quiet) * 0.25, torch.log(g.abs().square() + quiet) * 0.25], -1)  # [B, L, 4F]
        embedded = self.level(level)
        h = self.spectrum_in(seen) + self.mel_in(0.25 * (features.transpose(1, 2) + 4.0)) + self.level_in(embedded)[:, None]
        hidden = self.backbone(h.transpose(1, 2))  # [B, L, dim]
        gain, shift = self.level_out(embedded)[:, None].chunk(2, -1)
        keep, real, imag = self.out(hidden * (1 + gain) + shift).to(noisy.dtype).split(self.bins, -1)  # there are no complex bfloat16 numbers
        made = scaled(y, keep) + torch.complex(real, imag) * g
        spectrum = scaled(made, noisy.new_tensor(window_energy(m.n_fft, m.win_length) ** 0.5)).transpose(1, 2)
        return istft(spectrum, m.n_fft, m.hop_length, m.win_length, m.padding)
