"""Mel spectrograms, with every convention of the field by name.

Equation: c = log_b(max(B |STFT(x)|^p, clip)), B the triangular filters of `mel_filterbank`.
Conventions: `vocos` (HTK, no norm, magnitude, clip 1e-7), `hifigan` (Slaney, area norm, magnitude, clip 1e-5), `specgrad` (HTK, no norm,
magnitude, 128 bands of 20-12000 Hz, 2048/1200/300), `librosa` (Slaney, power), see `MelConfig.named`. Checked against librosa to 1e-5.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from wavespike.config import Config
from wavespike.errors import ConfigError, nearest
from wavespike.signal.stft import Padding, stft

MelScale = Literal["htk", "slaney"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MelConfig(Config):
    """One record that carries a whole mel convention. Frequencies in hertz, lengths in samples.

    `power` 1 takes magnitudes, 2 takes power; `log_base` is "e", "10" or "2"; `clip` is the floor under the logarithm.
    """

    type_name: ClassVar[str] = "mel"

    sample_rate: int = 24000
    n_fft: int = 1024
    hop_length: int = 256
    win_length: int | None = None
    n_mels: int = 100
    f_min: float = 0.0
    f_max: float | None = None
    norm: Literal["slaney"] | None = None
    mel_scale: MelScale = "htk"
    power: float = 1.0
    log_base: Literal["e", "10", "2"] = "e"
    clip: float = 1e-7
    padding: Padding = "center"

    def __post_init__(self) -> None:
        top = self.f_max if self.f_max is not None else self.sample_rate / 2
        win = self.win_length if self.win_length is not None else self.n_fft
        checks = (
            (self.sample_rate > 0, f"sample_rate above 0, got {self.sample_rate}"),
            (self.n_fft > 0 and self.hop_length > 0, f"n_fft and hop_length above 0, got {self.n_fft} and {self.hop_length}"),
            (self.hop_length <= self.n_fft, f"hop_length <= n_fft, got {self.hop_length} > {self.n_fft}"),
            (0 < win <= self.n_fft, f"win_length in 1..n_fft ({self.n_fft}), got {win}"),
            (self.n_mels > 0, f"n_mels above 0, got {self.n_mels}"),
            (0 <= self.f_min < top <= self.sample_rate / 2, f"0 <= f_min < f_max <= sample_rate/2, got {self.f_min} and {top}"),
            (self.clip > 0, f"clip above 0, got {self.clip}"),
        )
        for good, what in checks:
            if not good:
                raise ConfigError(f"mel: expected {what}")

    @classmethod
    def named(cls, convention: str, **changes: Any) -> MelConfig:
        """A named convention with changes: `vocos`, `hifigan`, `specgrad`, `librosa`. Raises ConfigError for an unknown name."""
        slaney: dict[str, Any] = {"sample_rate": 22050, "norm": "slaney", "mel_scale": "slaney"}
        known: dict[str, dict[str, Any]] = {
            "vocos": {},
            "hifigan": {**slaney, "n_mels": 80, "f_max": 8000.0, "clip": 1e-5, "padding": "same"},
            "specgrad": {"n_fft": 2048, "win_length": 1200, "hop_length": 300, "n_mels": 128, "f_min": 20.0, "f_max": 12000.0, "clip": 1e-5, "padding": "same"},
            "librosa": {**slaney, "n_fft": 2048, "hop_length": 512, "n_mels": 128, "power": 2.0, "clip": 1e-10},
        }
        if convention not in known:
            raise ConfigError(f"expected a mel convention of {', '.join(known)}, got {convention!r}{nearest(convention, known)}")
        return cls(**{**known[convention], **changes})


def _hz_to_mel(hz: np.ndarray[Any, Any], scale: MelScale) -> np.ndarray[Any, Any]:
    if scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + hz / 700.0))
    linear = hz / (200.0 / 3)
    log_step = math.log(6.4) / 27.0
    return np.where(hz >= 1000.0, 15.0 + np.log(np.maximum(hz, 1e-9) / 1000.0) / log_step, linear)


def _mel_to_hz(mel: np.ndarray[Any, Any], scale: MelScale) -> np.ndarray[Any, Any]:
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))
    log_step = math.log(6.4) / 27.0
    return np.where(mel >= 15.0, 1000.0 * np.exp(log_step * (mel - 15.0)), mel * (200.0 / 3))


@functools.lru_cache(maxsize=64)
def _filterbank(config: MelConfig) -> Tensor:
    top = config.f_max if config.f_max is not None else config.sample_rate / 2
    bins = np.linspace(0.0, config.sample_rate / 2, config.n_fft // 2 + 1)
    edges = _hz_to_mel(np.array([config.f_min, top]), config.mel_scale)
    corners = _mel_to_hz(np.linspace(edges[0], edges[1], config.n_mels + 2), config.mel_scale)  # [n_mels+2] Hz
    width = np.diff(corners)
    slopes = corners[:, None] - bins[None, :]  # [n_mels+2, n_fft/2+1]
    rising = -slopes[:-2] / width[:-1, None]
    falling = slopes[2:] / width[1:, None]
    bank = np.maximum(0.0, np.minimum(rising, falling))
    if config.norm == "slaney":
        bank *= (2.0 / (corners[2:] - corners[:-2]))[:, None]
    with torch.inference_mode(False):
        return torch.from_numpy(bank).float()


def mel_filterbank(config: MelConfig) -> Tensor:
    """Triangular filters [n_mels, n_fft//2+1]."""
    return _filterbank(config)


@functools.lru_cache(maxsize=64)
def pseudo_inverse(config: MelConfig) -> Tensor:
    with torch.inference_mode(False):
        inverse: Tensor = torch.linalg.pinv(_filterbank(config).double()).float()
        return inverse


def log_mel(x: Tensor, config: MelConfig) -> Tensor:
    """Log-mel spectrogram [..., T] -> [..., n_mels, L]."""
    return log_mel_of_spectrum(stft(x, config.n_fft, config.hop_length, config.win_length, config.padding), config)


def log_mel_of_spectrum(spectrum: Tensor, config: MelConfig) -> Tensor:
    """Complex spectrum [..., n_fft//2+1, L] -> log-mel [..., n_mels, L]."""
    magnitude: Tensor = spectrum.abs()
    if config.power != 1.0:
        magnitude = torch.pow(magnitude, config.power)
    mel = torch.clamp(torch.matmul(mel_filterbank(config).to(magnitude), magnitude), min=config.clip)
    return torch.log(mel) * (1.0 / log_scale(config))


def log_scale(config: MelConfig) -> float:
    return {"e": 1.0, "10": math.log(10.0), "2": math.log(2.0)}[config.log_base]


def linear_mel(features: Tensor, config: MelConfig) -> Tensor:
    """Log-mel [..., n_mels, L] -> the mel spectrum itself, magnitudes to the power `power`."""
    return torch.exp(features * log_scale(config))


def magnitude_from_mel(features: Tensor, config: MelConfig, floor: float = 1e-4) -> Tensor:
    """The magnitude spectrum that a log-mel implies: max(pinv(B) exp(c), floor) [..., n_mels, L] -> [..., n_fft//2+1, L]."""
    linear = torch.exp(features * log_scale(config)).transpose(-1, -2)
    # frame-major like the spectra of stft(), so that products with them never copy
    spectrum = torch.matmul(linear, pseudo_inverse(config).to(linear).T).transpose(-1, -2)
    if config.power != 1.0:
        spectrum = spectrum.clamp_min(0.0) ** (1.0 / config.power)
    return spectrum.clamp_min(floor)
