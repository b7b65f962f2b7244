"""A first guess of the waveform from the mel alone: a harmonic source at the pitch read from the mel, and noise, under the mel's magnitude.

Equation: U = h E + (1 - h) Z with E and Z the spectra of the harmonic source and of noise (Fant, 1960) and h = sigmoid(8 v w(f) - 4), v the voicing and w a slope at 5 kHz;
guess = GriffinLim(max(pinv(B) exp(c), 1e-4), U / |U|) with a few projections.
Nothing but the pitch estimator is learned. Its phase is right up to what the vocal tract adds: a denoiser that is given it need not invent one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from wavespike.config import Config
from wavespike.errors import ConfigError
from wavespike.nn.pitch import PitchEstimator
from wavespike.signal.griffin_lim import Frames, griffin_lim, scaled
from wavespike.signal.mel import MelConfig, magnitude_from_mel
from wavespike.signal.source import integrate_pitch, sources
from wavespike.signal.stft import frame, frame_blocks, hann_window


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExcitationConfig(Config):
    """Size of the pitch estimator, number of Griffin-Lim projections and their momentum, and up to where voiced frames are harmonic."""

    type_name: ClassVar[str] = "excitation"

    pitch_dim: int = 64
    pitch_layers: int = 4
    consistency_steps: int = 2
    momentum: float = 0.0
    harmonic_hz: float = 5000.0

    def __post_init__(self) -> None:
        if self.consistency_steps < 0 or not 0 <= self.momentum < 1:
            raise ConfigError(f"source: expected consistency_steps >= 0 and momentum in 0..1, got {self.consistency_steps} and {self.momentum}")


class Excitation(nn.Module):
    """Features [B, C, L] -> guess [B, T]."""

    def __init__(self, config: ExcitationConfig, mel: MelConfig):
        super().__init__()
        if mel.win_length not in (None, mel.n_fft):
            raise ConfigError(f"source: expected a mel whose window is as long as its n_fft ({mel.n_fft}), got {mel.win_length}; leave the source out")
        self.config, self.mel = config, mel
        self.pitch = PitchEstimator(mel.n_mels, config.pitch_dim, config.pitch_layers)

    def forward(self, features: Tensor, f0_hz: Tensor | None = None, voiced: Tensor | None = None, *, start_phase: Tensor | None = None,
                offset_samples: Tensor | None = None, pulses: Tensor | None = None) -> Tensor:
        """Pitch in hertz and voicing [B, L] are predicted when not given; `start_phase` [B] and `offset_samples` [B] continue a stream.

        `pulses` [B, T] replaces the harmonic source (training with one aligned to the target).
        """
        m, rate = self.mel, self.mel.sample_rate
        if m.padding == "center" and features.shape[-1] == 1:  # spans no samples
            return features.new_zeros(features.shape[0], 0)
        if f0_hz is None or voiced is None:
            f0_hz, voiced = self.pitch.decode(*self.pitch(features))
        if offset_samples is None:
            offset_samples = torch.zeros(features.shape[0], dtype=torch.int64, device=features.device)
        phase = integrate_pitch(f0_hz, m.hop_length, rate, start_phase, voiced)
        pulses, noise = sources(f0_hz.to(features.dtype), phase, offset_samples, m.hop_length, rate, m.padding, pulses)
        return griffin_lim(self._start(features, voiced.to(features.dtype), pulses, noise), self.config.consistency_steps, m.n_fft, m.hop_length,
                           momentum=self.config.momentum, padding=m.padding)

    def _start(self, features: Tensor, voiced: Tensor, pulses: Tensor, noise: Tensor) -> Frames:
        m = self.mel
        window = hann_window(m.n_fft, dtype=features.dtype, device=features.device)
        hertz = torch.linspace(0, m.sample_rate / 2, m.n_fft // 2 + 1, device=features.device, dtype=features.dtype)
        low = torch.sigmoid((self.config.harmonic_hz - hertz) / 500.0)
        frames = (features.transpose(1, 2), voiced, frame(pulses, m.n_fft, m.hop_length, m.padding), frame(noise, m.n_fft, m.hop_length, m.padding))

        def blocks(first: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
            for mel, v, pulse, hiss in frame_blocks(*(f[:, first:stop] for f in frames)):
                harmonic = torch.sigmoid(8.0 * v[..., None] * low - 4.0)
                mixed = scaled(torch.fft.rfft(pulse * window), harmonic) + scaled(torch.fft.rfft(hiss * window), 1 - harmonic)
                yield magnitude_from_mel(mel.transpose(1, 2), m).transpose(1, 2), mixed

        return Frames(features.shape[-1], blocks)
