"""What all metrics share: arrays in, one rate, one length, and an error type for items that have no score."""

from __future__ import annotations

from typing import Any

import numpy as np

from wavespike.errors import AudioError, WavespikeError
from wavespike.signal.resample import Samples, resample


class ScoreError(WavespikeError):
    """A metric has no value for this item (silence, no voiced frame, too short): the item is left out and counted, never averaged in."""


def as_samples(audio: Any) -> Samples:
    """A mono signal [T] of any array kind (NumPy, torch on any device) -> float32 [T]. Raises AudioError unless finite, mono and not empty."""
    if hasattr(audio, "detach"):
        audio = audio.detach().cpu().numpy()
    samples = np.asarray(audio)
    if samples.ndim == 2 and 1 in samples.shape:
        samples = samples.reshape(-1)
    if samples.ndim != 1:
        raise AudioError(f"expected a mono signal [samples], got shape {list(samples.shape)}; score one channel at a time")
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"expected floating-point audio in -1..1, got {samples.dtype}; divide integers by their full scale")
    if samples.size == 0:
        raise AudioError("expected at least one sample of audio, got none; check the input for emptiness")
    if not np.isfinite(samples).all():
        raise AudioError("expected finite samples, got NaN or Inf; check what made the audio")
    return np.ascontiguousarray(samples, np.float32)


def pair(reference: Any, estimate: Any, from_hz: int, to_hz: int) -> tuple[Samples, Samples]:
    """Both signals cut to the shorter one (copy-synthesis loses up to a hop at the end), then brought to `to_hz`.

    Raises AudioError when the lengths differ by more than 0.1 s and 5 %: then the signals do not belong together.
    """
    a, b = as_samples(reference), as_samples(estimate)
    n, longest = min(a.size, b.size), max(a.size, b.size)
    if longest - n > 0.1 * from_hz and longest - n > 0.05 * longest:
        raise AudioError(f"expected reference and estimate of one length, got {a.size} and {b.size} samples at {from_hz} Hz; align them first")
    return resample(a[:n], from_hz, to_hz), resample(b[:n], from_hz, to_hz)


def finite(value: Any, what: str) -> float:
    """A float, or ScoreError when it is not finite."""
    number = float(value)
    if not np.isfinite(number):
        raise ScoreError(f"{what} is not a finite number for this item")
    return number
