"""From sound to spikes: the chain of Cramer et al., "The Heidelberg spiking data sets" (2020): basilar membrane, hair cells, bushy cells.

Equations, x the motion of the membrane at one place, n fibres at each place:
    membrane   gammatone of order 4 at the places' frequencies f (Greenwood, 1990), bandwidth 1.019 ERB(f) (Glasberg and Moore, 1990)
    hair cell  k = g max(x + A, 0) / (max(x + A, 0) + B);  q' = y (1 - q) + z w - k q;  c' = k q - (l + r) c;  w' = r c - z w     (Meddis, 1986)
    fibres     N_t ~ Binomial(n, h c dt)
    bushy cell v_t = exp(-dt / tau) v_{t-1} + N_t;  spike, reset and 1 ms rest when v > theta
Departures: the membrane is a filterbank instead of a hydrodynamic model; fibres have no refractory time of their own. All places and clips advance
together, so a second of audio takes a fraction of a second instead of many; the random numbers are a function of the seed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from wavespike.config import Config
from wavespike.errors import AudioError, ConfigError

Array = NDArray[Any]

# Meddis (1986): A, B in units of the membrane's motion; the others are rates a second
A, B, G, Y, L, R, Z, H = 5.0, 300.0, 2000.0, 5.05, 2500.0, 6580.0, 66.31, 50000.0
REST_MS = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CochleaConfig(Config):
    """`level` is the membrane's motion (in the hair cell's units) for a signal whose loudest 50 ms have an RMS of 1 at the place's frequency.

    Louder inputs are brought to that level first when `normalize` is true.
    """

    type_name: ClassVar[str] = "cochlea"

    channels: int = 700
    sample_rate: int = 16000
    low_hz: float = 60.0
    high_hz: float = 7200.0
    level: float = 600.0
    fibres: int = 40
    threshold: float = 9.0
    tau_ms: float = 0.7
    normalize: bool = True

    def __post_init__(self) -> None:
        if self.channels < 1 or self.fibres < 1:
            raise ConfigError(f"cochlea: expected channels and fibres of 1 or more, got {self.channels} and {self.fibres}")
        if self.sample_rate < 12000:
            raise ConfigError(f"cochlea.sample_rate: expected at least 12000 Hz (the hair cell's equations need it), got {self.sample_rate}")
        if not 0 < self.low_hz < self.high_hz < self.sample_rate / 2:
            raise ConfigError(f"cochlea: expected 0 < low_hz < high_hz < {self.sample_rate / 2:g}, got {self.low_hz:g} and {self.high_hz:g}")


def place_frequencies(config: CochleaConfig) -> Array:
    """Hertz of each channel, low to high, equally spaced along the human membrane: f = 165.4 (10^(2.1 p) - 0.88)."""
    low, high = (np.log10(f / 165.4 + 0.88) / 2.1 for f in (config.low_hz, config.high_hz))
    places: Array = 165.4 * (10 ** (2.1 * np.linspace(low, high, config.channels)) - 0.88)
    return places


@functools.lru_cache(maxsize=4)
def _gammatones(config: CochleaConfig) -> Array:
    """Impulse responses [channels, 64 ms], gain 1 at each place's frequency."""
    f = place_frequencies(config)[:, None]
    t = np.arange(int(0.064 * config.sample_rate))[None] / config.sample_rate
    b = 1.019 * 24.7 * (4.37e-3 * f + 1)
    h = t**3 * np.exp(-2 * np.pi * b * t)
    gain = np.abs(h.sum(1, keepdims=True)) / 2
    out: Array = (h * np.cos(2 * np.pi * f * t) / gain).astype(np.float32)
    return out


def membrane(audio: Array, config: CochleaConfig) -> Array:
    """Motion of the basilar membrane: audio [B, T] -> [T, B, channels]."""
    h = _gammatones(config)
    size = fft.next_fast_len(audio.shape[1] + h.shape[1], real=True)
    spectrum = fft.rfft(audio.astype(np.float32), size)
    out = np.empty((audio.shape[1], len(audio), config.channels), np.float32)
    for start in range(0, config.channels, 64):  # a block at a time: memory stays small with 700 channels
        part = fft.irfft(spectrum[:, None] * fft.rfft(h[start : start + 64], size)[None], size)
        out[:, :, start : start + 64] = part[..., : audio.shape[1]].transpose(2, 0, 1)
    return out


def hair_cells(motion: Array, sample_rate: int) -> Array:
    """Release of transmitter into the cleft: motion [T, B, channels] -> spikes a second of a fibre [T, B, channels]. Starts at rest."""
    dt = np.float32(1 / sample_rate)
    drive = np.maximum(motion + np.float32(A), 0)
    permeability = drive / (drive + np.float32(B))
    permeability *= np.float32(G) * dt
    k0 = G * A / (A + B)
    c0 = Y * k0 / (L * k0 + Y * (L + R))
    shape = motion.shape[1:]
    c = np.full(shape, c0, np.float32)
    q = np.full(shape, c0 * (L + R) / k0, np.float32)
    w = np.full(shape, c0 * R / Z, np.float32)
    released, more, back = (np.empty(shape, np.float32) for _ in range(3))
    out = np.empty_like(motion)
    y, z, r, lose = np.float32(Y * dt), np.float32(Z * dt), np.float32(R * dt), np.float32((L + R) * dt)
    for t in range(len(motion)):
        np.multiply(permeability[t], q, out=released)
        np.multiply(w, z, out=back)
        np.subtract(np.float32(1), q, out=more)
        more *= y
        q += more
        q += back
        q -= released
        w -= back
        np.multiply(c, r, out=more)
        w += more
        np.multiply(c, lose, out=more)
        c -= more
        c += released
        out[t] = c
    out *= np.float32(H)
    return out


def bushy_cells(rate_hz: Array, config: CochleaConfig, seeds: Sequence[int]) -> Array:
    """Fibres' rates [T, B, channels] and a seed a clip -> spikes [T, B, channels], bool. A clip's spikes do not depend on its neighbours."""
    dt = 1 / config.sample_rate
    arriving = np.empty_like(rate_hz)
    for clip, seed in enumerate(seeds):
        arriving[:, clip] = np.random.default_rng(seed).binomial(config.fibres, np.minimum(rate_hz[:, clip] * np.float32(dt), 1))
    keep = np.float32(np.exp(-1000 * dt / config.tau_ms))
    rest = max(1, round(REST_MS * config.sample_rate / 1000))
    v = np.zeros(rate_hz.shape[1:], np.float32)
    waiting = np.zeros(v.shape, np.int32)
    out = np.zeros(rate_hz.shape, bool)
    for t in range(len(rate_hz)):
        v *= keep
        v += arriving[t]
        fired = out[t]
        np.greater(v, config.threshold, out=fired)
        fired &= waiting <= 0
        waiting -= 1
        if fired.any():
            v[fired] = 0
            waiting[fired] = rest
    return out


def cochlea(audio: Array, config: CochleaConfig, seeds: Sequence[int] | None = None) -> list[tuple[Array, Array]]:
    """Audio [B, T] at `sample_rate` in -1..1 -> for each clip its spikes: times in seconds [n] (rising) and channels [n] (0 is the lowest frequency).

    `seeds` is one a clip, 0, 1, ... by default. Raises AudioError for audio of another shape or that is not finite.
    """
    if audio.ndim != 2 or audio.shape[1] == 0:
        raise AudioError(f"expected audio [clips, samples >= 1], got {list(audio.shape)}; add or drop axes")
    if not np.isfinite(audio).all():
        raise AudioError("expected finite samples, got NaN or Inf; check what made the audio")
    if config.normalize:
        audio = audio / np.maximum(loudest_rms(audio, config.sample_rate), 1e-3)[:, None]
    motion = membrane(audio, config)
    motion *= np.float32(config.level)
    spikes = bushy_cells(hair_cells(motion, config.sample_rate), config, range(len(audio)) if seeds is None else seeds)
    out = []
    for clip in range(len(audio)):
        t, unit = spikes[:, clip].nonzero()
        out.append((t / config.sample_rate, unit))
    return out


def loudest_rms(audio: Array, sample_rate: int) -> Array:
    """RMS of the loudest 50 ms of each clip [B, T] -> [B]."""
    width = min(audio.shape[1], max(1, sample_rate // 20))
    total = np.cumsum(np.pad(audio.astype(np.float64) ** 2, ((0, 0), (1, 0))), 1)
    rms: Array = np.sqrt(np.maximum((total[:, width:] - total[:, :-width]).max(1), 0) / width)
    return rms
