"""Kaldi's log-mel filterbank (Povey et al., "The Kaldi speech recognition toolkit", 2011).

Equation: y[l, m] = log max(sum_k M[m, k] |FFT(p(x_l - mean x_l))_k|^2, eps), x_l the l-th frame, p pre-emphasis (0.97) and the Povey window
(Hann to the power 0.85), M triangles that are equally wide on the scale 1127 ln(1 + f / 700).
Departures: no dither (evaluation is deterministic); samples in -1..1 are taken as they are, as SpArch does (Kaldi's own are 32,768 times larger).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar

import torch
from torch import Tensor

from wavespike.config import Config
from wavespike.errors import ConfigError, FeatureError

EPS = 1.1920929e-07


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterbankConfig(Config):
    """Kaldi's names and defaults but for `num_mel_bins` 40; `high_freq_hz` 0 means half the sampling rate."""

    type_name: ClassVar[str] = "kaldi-fbank"

    sample_rate: int = 16000
    num_mel_bins: int = 40
    frame_length_ms: float = 25.0
    frame_shift_ms: float = 10.0
    low_freq_hz: float = 20.0
    high_freq_hz: float = 0.0
    preemphasis: float = 0.97

    def __post_init__(self) -> None:
        if self.sample_rate < 1000:
            raise ConfigError(f"features.sample_rate: expected at least 1000 Hz, got {self.sample_rate}")
        if not 0 <= self.low_freq_hz < self.top_hz <= self.sample_rate / 2:
            raise ConfigError(f"features: expected 0 <= low_freq_hz < high_freq_hz <= {self.sample_rate / 2:g}, "
                              f"got {self.low_freq_hz:g} and {self.top_hz:g}")

    @property
    def frame_length_samples(self) -> int:
        return int(self.sample_rate * 0.001 * self.frame_length_ms)

    @property
    def hop_length(self) -> int:
        """Samples a frame."""
        return int(self.sample_rate * 0.001 * self.frame_shift_ms)

    @property
    def n_fft(self) -> int:
        return int(2 ** math.ceil(math.log2(self.frame_length_samples)))

    @property
    def top_hz(self) -> float:
        return self.high_freq_hz if self.high_freq_hz > 0 else self.sample_rate / 2 + self.high_freq_hz


@functools.lru_cache(maxsize=16)
def mel_triangles(config: FilterbankConfig) -> Tensor:
    """M of the equation, [n_fft // 2 + 1, num_mel_bins]; the bin at half the sampling rate has no weight, as in Kaldi."""
    c = config
    low, high = (1127.0 * math.log1p(f / 700.0) for f in (c.low_freq_hz, c.top_hz))
    edges = low + (high - low) / (c.num_mel_bins + 1) * torch.arange(c.num_mel_bins + 2, dtype=torch.float64)
    bins = c.n_fft // 2
    mel = 1127.0 * torch.log1p(torch.arange(bins, dtype=torch.float64) * c.sample_rate / c.n_fft / 700.0)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    up = (mel[:, None] - left) / (centre - left)
    down = (right - mel[:, None]) / (right - centre)
    triangles = torch.minimum(up, down).clamp(min=0)
    return torch.cat([triangles, torch.zeros(1, c.num_mel_bins, dtype=torch.float64)]).float()


@functools.lru_cache(maxsize=16)
def povey_window(length: int) -> Tensor:
    """Hann (symmetric) to the power 0.85, [length]."""
    return torch.hann_window(length, periodic=False, dtype=torch.float64).pow(0.85).float()


def frame_count(samples: int, config: FilterbankConfig) -> int:
    """Frames that lie wholly inside a signal of so many samples (Kaldi's snip_edges)."""
    return 0 if samples < config.frame_length_samples else 1 + (samples - config.frame_length_samples) // config.hop_length


def filterbank(audio: Tensor, config: FilterbankConfig) -> Tensor:
    """Waveform [B, T] at `sample_rate` in -1..1 -> log-mel energies [B, num_mel_bins, L], L = `frame_count(T)`.

    Raises FeatureError when the signal is shorter than one frame.
    """
    c = config
    if audio.shape[-1] < c.frame_length_samples:
        raise FeatureError(f"expected at least {c.frame_length_samples} samples (one frame of {c.frame_length_ms:g} ms at {c.sample_rate} Hz), "
                           f"got {audio.shape[-1]}; use a longer clip")
    frames = audio.unfold(-1, c.frame_length_samples, c.hop_length)  # [B, L, frame]
    frames = frames - frames.mean(-1, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], -1)
    frames = (frames - c.preemphasis * before) * povey_window(c.frame_length_samples).to(audio)
    power = torch.fft.rfft(frames, n=c.n_fft).abs().square()  # [B, L, n_fft // 2 + 1]
    energy = power @ mel_triangles(c).to(audio)
    out: Tensor = energy.clamp(min=EPS).log().transpose(1, 2)
    return out
