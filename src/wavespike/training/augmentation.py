"""Augmentation of audio batches: speed, shift, gain, polarity, noise, reverberation, and SpecAugment on features (Park et al., 2019).

Every function is pure, takes a `torch.Generator` and works on a batch; each example draws its own values.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from wavespike.config import Config
from wavespike.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig(Config):
    """Probabilities `p_*` and ranges. The defaults of noise (0.1), gain (0.3), polarity (0.8) and reverberation (0.6) are SpArch's."""

    type_name: ClassVar[str] = "augment"

    p_noise: float = 0.1
    snr_db: tuple[float, float] = (0.0, 30.0)
    p_gain: float = 0.3
    gain_db: tuple[float, float] = (-12.0, 6.0)
    p_polarity: float = 0.8
    p_reverb: float = 0.6
    rt60_ms: tuple[float, float] = (50.0, 400.0)
    reverb_db: float = 0.0
    p_shift: float = 0.0
    shift_ms: float = 100.0
    p_speed: float = 0.0
    speed: tuple[float, float] = (0.85, 1.15)
    p_warp: float = 0.0
    warp_bands: float = 1.5
    frequency_masks: int = 0
    frequency_bands: int = 6
    time_masks: int = 0
    time_frames: int = 10

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("p_") and not 0 <= value <= 1:
                raise ConfigError(f"augment.{field.name}: expected a probability in 0..1, got {value}")
            if isinstance(value, tuple) and value[0] > value[1]:
                raise ConfigError(f"augment.{field.name}: expected [lowest, highest], got {list(value)}")


def _uniform(count: int, low: float, high: float, g: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=g)


def _power(x: Tensor) -> Tensor:
    return x.square().mean(-1, keepdim=True)


def add_noise(audio: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """audio + noise [B, T], each pair scaled to its signal-to-noise ratio [B]. A silent signal takes noise at -50 dB of full scale."""
    wanted = _power(audio).clamp(min=1e-5) / 10 ** (snr_db[:, None] / 10)
    return audio + noise * (wanted / _power(noise).clamp(min=1e-12)).sqrt()


def reverberate(audio: Tensor, rt60_samples: Tensor, wet: Tensor, g: torch.Generator) -> Tensor:
    """Convolve [B, T] with 1 + exponentially decaying noise (Polack's room model); the tail's energy is `wet` [B] times the direct sound's."""
    length = int(rt60_samples.max())
    decay = torch.exp(-6.908 * torch.arange(length) / rt60_samples[:, None])
    tail = torch.randn(len(audio), length, generator=g) * decay
    tail[:, 0] = 0
    tail = tail / tail.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt() * wet[:, None].sqrt()
    tail[:, 0] = 1
    size = audio.shape[1] + length
    out = torch.fft.irfft(torch.fft.rfft(audio, n=size) * torch.fft.rfft(tail, n=size), n=size)
    cut: Tensor = out[:, : audio.shape[1]]
    return cut


def shift(audio: Tensor, samples: Tensor) -> Tensor:
    """Move each row of [B, T] by its own number of samples (later when positive); what leaves is lost, silence comes in."""
    index = torch.arange(audio.shape[1]) - samples[:, None]
    inside = (index >= 0) & (index < audio.shape[1])
    return audio.gather(1, index.clamp(0, audio.shape[1] - 1)) * inside


def change_speed(audio: Tensor, factor: Tensor) -> Tensor:
    """Play each row of [B, T] faster (factor > 1) or slower about its centre, by linear interpolation; the length stays."""
    T = audio.shape[1]
    position = (torch.arange(T) - T / 2) * factor[:, None] + T / 2
    left = position.floor()
    fraction = position - left
    at = left.long()

    def read(index: Tensor) -> Tensor:
        return audio.gather(1, index.clamp(0, T - 1)) * ((index >= 0) & (index < T))

    return read(at) * (1 - fraction) + read(at + 1) * fraction


def augment_audio(audio: Tensor, sample_rate: int, config: AugmentConfig, g: torch.Generator, noise: Tensor | None = None) -> Tensor:
    """All of the above on [B, T] in -1..1. `noise` is one long recording [N >= T] that random pieces are taken from; white noise without one."""
    c, (B, T) = config, audio.shape

    def chosen(p: float) -> Tensor:
        return (torch.rand(B, generator=g) < p).nonzero()[:, 0]

    audio = audio.clone()
    if len(i := chosen(c.p_speed)):
        audio[i] = change_speed(audio[i], _uniform(len(i), *c.speed, g))
    if len(i := chosen(c.p_shift)):
        reach = c.shift_ms * sample_rate / 1000
        audio[i] = shift(audio[i], _uniform(len(i), -reach, reach, g).long())
    if len(i := chosen(c.p_reverb)):
        rt60 = _uniform(len(i), *c.rt60_ms, g) * sample_rate / 1000
        audio[i] = reverberate(audio[i], rt60, 10 ** (_uniform(len(i), -20.0, c.reverb_db, g) / 10), g)
    if len(i := chosen(c.p_noise)):
        if noise is None or len(noise) <= T:
            pieces = torch.randn(len(i), T, generator=g)
        else:
            start = torch.randint(0, len(noise) - T, (len(i),), generator=g)
            pieces = noise[start[:, None] + torch.arange(T)]
        audio[i] = add_noise(audio[i], pieces, _uniform(len(i), *c.snr_db, g))
    if len(i := chosen(c.p_gain)):
        audio[i] = audio[i] * 10 ** (_uniform(len(i), *c.gain_db, g)[:, None] / 20)
    if len(i := chosen(c.p_polarity)):
        audio[i] = -audio[i]
    return audio.clamp(-1, 1)


def shift_bands(features: Tensor, bands: Tensor) -> Tensor:
    """Move each spectrum of [B, C, L] by its own fractional number of bands [B] (another vocal tract; after Jaitly and Hinton, 2013), edges repeated."""
    C = features.shape[1]
    position = (torch.arange(C) - bands[:, None]).clamp(0, C - 1)
    left = position.floor().long()
    fraction = (position - left)[..., None]
    rows = torch.arange(len(features))[:, None]
    return features[rows, left] * (1 - fraction) + features[rows, (left + 1).clamp(max=C - 1)] * fraction


def spec_augment(features: Tensor, config: AugmentConfig, g: torch.Generator) -> Tensor:
    """Replace random bands and stretches of [B, C, L] by each example's own mean (Park et al., 2019, without time warping), after `shift_bands`."""
    B, C, L = features.shape
    if len(i := (torch.rand(B, generator=g) < config.p_warp).nonzero()[:, 0]):
        features = features.clone()
        features[i] = shift_bands(features[i], _uniform(len(i), -config.warp_bands, config.warp_bands, g))
    fill = features.mean((1, 2), keepdim=True)
    for count, width, size, axis in ((config.frequency_masks, config.frequency_bands, C, 1), (config.time_masks, config.time_frames, L, 2)):
        for _ in range(count):
            span = (torch.rand(B, generator=g) * (min(width, size) + 1)).long()
            start = (torch.rand(B, generator=g) * (size - span + 1)).long()
            at = torch.arange(size)
            hidden = (at >= start[:, None]) & (at < (start + span)[:, None])  # [B, size]
            features = torch.where(hidden[:, :, None] if axis == 1 else hidden[:, None, :], fill, features)
    return features


def pad_batch(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Clips [T_i] (or [T_i, C]) of any length -> zero-padded [B, max T, ...] and lengths [B]."""
    lengths = torch.tensor([len(c) for c in clips])
    longest = int(lengths.max())
    rows = [F.pad(c, (0, longest - len(c))) if c.ndim == 1 else F.pad(c, (0, 0, 0, longest - len(c))) for c in clips]
    return torch.stack(rows), lengths
