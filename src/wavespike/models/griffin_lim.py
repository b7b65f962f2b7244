"""Fast Griffin-Lim as a vocoder: the classical baseline that stands in every table. No learned weights.

Equation: magnitude = max(pinv(B) exp(c), 1e-4); phase by `signal.griffin_lim` from a seeded random start.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from wavespike.config import Config
from wavespike.models.base import Stream, Vocoder, check_audio
from wavespike.signal.griffin_lim import frame_blocks, griffin_lim
from wavespike.signal.mel import MelConfig, log_mel, magnitude_from_mel


@dataclasses.dataclass(frozen=True, kw_only=True)
class GriffinLimConfig(Config):
    type_name: ClassVar[str] = "griffin-lim"

    features: MelConfig = MelConfig()
    iterations: int = 32
    momentum: float = 0.99
    seed: int = 0


class GriffinLim(Vocoder[GriffinLimConfig]):
    """Log-mel [B, n_mels, L] -> waveform [B, T]; the same seed gives the same audio."""

    config_class: ClassVar[type[Config]] = GriffinLimConfig

    @property
    def sample_rate(self) -> int:
        return self.config.features.sample_rate

    @property
    def feature_channels(self) -> int:
        return self.config.features.n_mels

    @property
    def hop_length(self) -> int:
        return self.config.features.hop_length

    def features(self, audio: Tensor, **condition: Any) -> Tensor:
        check_audio(audio)
        return log_mel(audio, self.config.features)

    def decode(self, features: Tensor, **condition: Any) -> Tensor:
        self.check_features(features)
        c, mel = self.config, self.config.features
        magnitude = magnitude_from_mel(features, mel).transpose(1, 2)  # [B, L, F]
        generator = torch.Generator(device="cpu").manual_seed(c.seed)
        angle = 2 * math.pi * torch.rand(magnitude.shape[1:], generator=generator).to(magnitude)
        start = torch.complex(torch.cos(angle), torch.sin(angle)).expand_as(magnitude)
        return griffin_lim(frame_blocks(magnitude, start), c.iterations, mel.n_fft, mel.hop_length, momentum=c.momentum, padding=mel.padding)

    def stream(self, batch_size: int = 1, **condition: Any) -> Stream:
        raise NotImplementedError
