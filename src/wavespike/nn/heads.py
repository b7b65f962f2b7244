"""Fourier heads: from a network's frames to a waveform.

`ISTFTHead` is Vocos's (Siuzdak, 2023): S = min(exp(m), 100) exp(i p), waveform = ISTFT(S).
`SourceFilterHead` starts from a spectrum that is nearly right instead of from nothing: magnitude from the mel's pseudo-inverse, phase from a
harmonic source at the predicted pitch (Wang, Takaki and Yamagishi, 2019) and from noise, corrected by the network and made consistent by a few
steps of fast Griffin-Lim (Perraudin et al., 2013) through which it is trained.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from wavespike.config import Config
from wavespike.errors import ConfigError
from wavespike.nn.pitch import PitchEstimator, PitchReadout
from wavespike.signal.griffin_lim import Frames, griffin_lim, scaled
from wavespike.signal.mel import MelConfig, magnitude_from_mel
from wavespike.signal.source import integrate_pitch, sources
from wavespike.signal.stft import Padding, frame, frame_blocks, hann_window, istft


@dataclasses.dataclass(frozen=True, kw_only=True)
class ISTFTHeadConfig(Config):
    """`mel_prior`: the network predicts a correction to log max(pinv(B) exp(c), 1e-4) instead of the log-magnitude itself."""

    type_name: ClassVar[str] = "istft"

    dim: int = 512
    n_fft: int = 1024
    hop_length: int = 256
    padding: Padding = "center"
    mel_prior: bool = False
    consistency_steps: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceFilterHeadConfig(Config):
    """`pitch` is heard by a "network" of its own, of size `pitch_dim` and `pitch_layers`, or read from the "hidden" frames of the backbone.

    `consistency_steps` is the number of Griffin-Lim projections.

    `momentum` is that of the projections, or where learning starts. High momentum scores higher in PESQ and sounds phasier; 0 is the plain algorithm.
    `phase_correction` lets the network turn the phase of the harmonic source bin by bin; without a discriminator it learned nothing of use.
    """

    type_name: ClassVar[str] = "source-filter"

    dim: int = 192
    n_fft: int = 1024
    hop_length: int = 256
    padding: Padding = "center"
    pitch: Literal["network", "hidden"] = "network"
    pitch_dim: int = 96
    pitch_layers: int = 4
    consistency_steps: int = 2
    momentum: float = 0.5
    learn_momentum: bool = True
    phase_correction: bool = False
    causal: bool = False


class ISTFTHead(nn.Module):
    """Hidden frames [B, L, dim] (and the features [B, C, L] they came from) -> waveform [B, T]."""

    def __init__(self, config: ISTFTHeadConfig, mel: MelConfig | None = None):
        super().__init__()
        if config.mel_prior and mel is None:
            raise ConfigError("head.mel_prior: expected mel features, got another front end; set mel_prior: false")
        self.config, self.mel = config, mel
        self.out = nn.Linear(config.dim, config.n_fft + 2)

    @property
    def context_frames(self) -> tuple[int, int]:
        """Frames before and after that touch one hop of output."""
        reach = math.ceil(self.config.n_fft / self.config.hop_length)
        reach *= 1 + 2 * self.config.consistency_steps
        return reach, reach

    def spectrum(self, hidden: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Magnitude and phase, each [B, n_fft//2+1, L]."""
        log_magnitude, phase = self.out(hidden).transpose(1, 2).chunk(2, 1)
        if self.config.mel_prior:
            assert self.mel is not None
            log_magnitude = log_magnitude + torch.log(magnitude_from_mel(features, self.mel))
        return torch.exp(log_magnitude.clamp(max=math.log(1e2))), phase  # min(exp m, 100), with a finite gradient

    def forward(self, hidden: Tensor, features: Tensor) -> Tensor:
        c = self.config
        magnitude, phase = self.spectrum(hidden, features)
        start = torch.complex(torch.cos(phase), torch.sin(phase))
        if c.consistency_steps:
            return griffin_lim(Frames.of(magnitude.transpose(1, 2), start.transpose(1, 2)), c.consistency_steps, c.n_fft, c.hop_length, padding=c.padding)
        return istft(scaled(start, magnitude), c.n_fft, c.hop_length, None, c.padding)


def reads_pitch(head: object) -> bool:
    """Whether a head reads the pitch from the hidden frames of its backbone."""
    return isinstance(head, SourceFilterHead) and head.config.pitch == "hidden"


class SourceFilterHead(nn.Module):
    """Hidden frames [B, L, dim] and log-mel features [B, C, L] -> waveform [B, T].

    Equation: u = v E + (1 - v) Z with E and Z the spectra of the harmonic source and of noise, v from the network (E exp(i p) with `phase_correction`);
    M = exp(d) max(pinv(B) exp(c), 1e-4) with d from the network; waveform = ISTFT(GriffinLim(M, unit(u))).
    """

    def __init__(self, config: SourceFilterHeadConfig, mel: MelConfig | None = None):
        super().__init__()
        if mel is None:
            raise ConfigError("head: expected mel features for a source-filter head, got another front end; use the istft head")
        self.config, self.mel = config, mel
        self.bins = config.n_fft // 2 + 1
        self.pitch: PitchReadout
        if config.pitch == "hidden":
            self.pitch = PitchReadout(config.dim)
        else:
            self.pitch = PitchEstimator(mel.n_mels, config.pitch_dim, config.pitch_layers, config.causal)
        self.out = nn.Linear(config.dim, (3 if config.phase_correction else 2) * self.bins)
        nn.init.trunc_normal_(self.out.weight, std=0.002)
        nn.init.zeros_(self.out.bias)
        self.momentum = nn.Parameter(torch.full((), config.momentum), requires_grad=config.learn_momentum)

    @property
    def context_frames(self) -> tuple[int, int]:
        """Frames before and after that touch one hop of output: pitch network, its smoothing, source frames, projections, overlap-add."""
        reach = math.ceil(self.config.n_fft / self.config.hop_length)
        left, right = self.pitch.backbone.context_frames if isinstance(self.pitch, PitchEstimator) else (0, 0)
        more = 3 + reach * (2 + 2 * self.config.consistency_steps)
        return left + more, right + more

    def hear(self, hidden: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of pitch classes [B, L, bins] and of voicing [B, L], from the features or from the hidden frames."""
        logits, voicing = self.pitch(features if isinstance(self.pitch, PitchEstimator) else hidden)
        return logits, voicing

    def source(self, f0_hz: Tensor, phase: Tensor, offset_samples: Tensor, pulses: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The harmonic and the noise source, waveforms [B, T] as long as the output.

        f0 [B, L] hertz, phase [B, L] radians at the frames, offset [B] int64: position of the first sample in the whole signal.
        """
        return sources(f0_hz, phase, offset_samples, self.config.hop_length, self.mel.sample_rate, self.config.padding, pulses)

    def start(self, hidden: Tensor, features: Tensor, voiced: Tensor, pulses: Tensor, noise: Tensor) -> Frames:
        """Magnitude and first guess of the spectrum, each [B, l, F].

        hidden [B, L, dim], features [B, C, L], voiced [B, L], sources [B, T].
        """
        c = self.config
        window = hann_window(c.n_fft, dtype=hidden.dtype, device=hidden.device)
        hertz = torch.linspace(0, self.mel.sample_rate / 2, self.bins, device=hidden.device)
        low = torch.sigmoid((5000.0 - hertz) / 500.0)
        frames = (hidden, features.transpose(1, 2), voiced, frame(pulses, c.n_fft, c.hop_length, c.padding), frame(noise, c.n_fft, c.hop_length, c.padding))

        def blocks(first: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
            for h, mel, v, pulse, hiss in frame_blocks(*(f[:, first:stop] for f in frames)):
                change, mix, *turn = self.out(h).split(self.bins, -1)  # each [B, l, F]
                # it starts harmonic where voiced and below 5 kHz, as noise elsewhere; `mix` moves it
                harmonic = torch.sigmoid(mix + 8.0 * v[..., None] * low - 4.0)
                train = torch.fft.rfft(pulse * window)
                train = train * torch.complex(harmonic * torch.cos(turn[0]), harmonic * torch.sin(turn[0])) if turn else scaled(train, harmonic)
                magnitude = torch.exp(change) * magnitude_from_mel(mel.transpose(1, 2), self.mel).transpose(1, 2)
                yield magnitude.clamp(max=1e2), train + scaled(torch.fft.rfft(hiss * window), 1 - harmonic)

        return Frames(hidden.shape[1], blocks)

    def forward(self, hidden: Tensor, features: Tensor, f0_hz: Tensor | None = None, voiced: Tensor | None = None, *, start_phase: Tensor | None = None,
                offset_samples: Tensor | None = None, pulses: Tensor | None = None) -> Tensor:
        """Waveform [B, T]. Pitch and voicing [B, L] are predicted when not given; `start_phase` [B] and `offset_samples` [B] continue a stream.

        `pulses` [B, T] replaces the harmonic source (training with one aligned to the target).
        """
        c = self.config
        if f0_hz is None or voiced is None:
            f0_hz, voiced = self.pitch.decode(*self.hear(hidden, features))
        if offset_samples is None:
            offset_samples = torch.zeros(features.shape[0], dtype=torch.int64, device=features.device)
        phase = integrate_pitch(f0_hz, c.hop_length, self.mel.sample_rate, start_phase, voiced)
        pulses, noise = self.source(f0_hz.to(hidden.dtype), phase, offset_samples, pulses)
        start = self.start(hidden, features, voiced.to(hidden.dtype), pulses, noise)
        return griffin_lim(start, c.consistency_steps, c.n_fft, c.hop_length, momentum=self.momentum, padding=c.padding)
