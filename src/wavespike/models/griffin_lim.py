"""Fast Griffin-Lim as a vocoder: the classical baseline that stands in every table. No learned weights.

Equation: magnitude = max(pinv(B) exp(c), 1e-4); phase by `signal.griffin_lim` from a seeded random start.
Departures: the random phase is a function of seed and frame number, so the algorithm streams.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from wavespike.config import Config
from wavespike.models.base import MelVocoder, Stream
from wavespike.models.streaming import CheckedStream
from wavespike.signal.blocks import BlockGriffinLim, BlockISTFT
from wavespike.signal.griffin_lim import Frames, griffin_lim
from wavespike.signal.mel import MelConfig, magnitude_from_mel
from wavespike.signal.source import counter_noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class GriffinLimConfig(Config):
    type_name: ClassVar[str] = "griffin-lim"

    features: MelConfig = MelConfig()
    iterations: int = 32
    momentum: float = 0.99
    seed: int = 0


class GriffinLim(MelVocoder[GriffinLimConfig]):
    """Log-mel [B, n_mels, L] -> waveform [B, T]; the same seed gives the same audio."""

    config_class: ClassVar[type[Config]] = GriffinLimConfig

    def decode(self, features: Tensor, **condition: Any) -> Tensor:
        self.check_features(features)
        c, mel = self.config, self.config.features
        magnitude = magnitude_from_mel(features, mel).transpose(1, 2)  # [B, L, F]
        start = self._start(0, features).transpose(1, 2).expand_as(magnitude)
        return griffin_lim(Frames.of(magnitude, start), c.iterations, mel.n_fft, mel.hop_length, momentum=c.momentum, padding=mel.padding)

    def _start(self, first_frame: int, features: Tensor) -> Tensor:
        """Unit phasors [1, n_fft//2+1, l] of random phase that depend on seed and frame number only, so that a stream starts like the whole."""
        bins, frames = self.config.features.n_fft // 2 + 1, features.shape[-1]
        position = torch.tensor([self.config.seed * 0x9E3779B1 + first_frame * bins], dtype=torch.int64, device=features.device)
        angle = counter_noise(position, frames * bins, features.dtype) * (math.pi / math.sqrt(3.0))
        angle = angle.reshape(1, frames, bins).transpose(1, 2)
        return torch.complex(torch.cos(angle), torch.sin(angle))

    def stream(self, batch_size: int = 1, **condition: Any) -> Stream:
        """A session that decodes chunks of features; every projection is computed once. Its `delay` grows with `iterations`."""
        return GriffinLimStream(self, batch_size)


class GriffinLimStream(CheckedStream):
    """Features [B, n_mels, l] -> samples [B, t]."""

    def __init__(self, model: GriffinLim, batch_size: int):
        super().__init__(batch_size, model.feature_channels)
        c, mel = model.config, model.config.features
        self.model, self.frames = model, 0
        self.projections = BlockGriffinLim(c.iterations, mel.n_fft, mel.hop_length, momentum=c.momentum, padding=mel.padding)
        self.inverse = BlockISTFT(mel.n_fft, mel.hop_length, mel.padding)
        self.delay = self.projections.delay_frames * mel.hop_length + self.inverse.delay

    def process(self, chunk: Tensor, final: bool) -> Tensor:
        magnitude = magnitude_from_mel(chunk, self.model.config.features)
        start = self.model._start(self.frames, chunk)
        self.frames += chunk.shape[-1]
        return self.inverse.push(self.projections.push(magnitude, start.expand_as(magnitude), final), final)
