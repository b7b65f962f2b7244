"""Two recordings of the same speech brought together: one rate, one start, one length, and a sentence for everything that was done.

Equation: the lag is where the cross-correlation peaks, of the waveforms if it peaks clearly there (a codec), else of their smoothed envelopes (a vocoder,
whose phase is its own). A lag is only taken when it fits clearly better than none, so that signals in place stay in place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wavespike.errors import AudioError
from wavespike.metrics.common import as_samples
from wavespike.signal.resample import Samples, resample

MOST_S = 1.0
"""The largest lag that is looked for."""
CLEAR, BETTER = 0.6, 0.02
"""A correlation that counts as the same waveform, or the same envelope; what a lag must gain over none."""


def lag_samples(reference: Samples, estimate: Samples, rate_hz: int) -> int:
    """How many samples later than `reference` the same speech comes in `estimate` [T]; 0 when no lag fits clearly better."""
    most = round(MOST_S * rate_hz)
    lag, peak, none = _best(reference.astype(np.float64), estimate.astype(np.float64), most)
    if peak >= CLEAR:
        return lag if peak > none + BETTER else 0
    step = max(1, rate_hz // 200)  # 5 ms
    lag, peak, none = _best(_envelope(reference, step), _envelope(estimate, step), most // step)
    return lag * step if peak >= CLEAR and peak > none + BETTER else 0


def _envelope(x: Samples, step: int) -> NDArray[np.float64]:
    """Root mean square of blocks of `step` samples, mean removed."""
    blocks = np.pad(x.astype(np.float64), (0, -x.size % step)).reshape(-1, step)
    level = np.sqrt(np.square(blocks).mean(1))
    return np.asarray(level - level.mean(), np.float64)


def _best(a: NDArray[np.float64], b: NDArray[np.float64], most: int) -> tuple[int, float, float]:
    """(lag of b behind a, normalised correlation there, at lag 0)."""
    size = 1 << (a.size + b.size - 1).bit_length()
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    if scale == 0.0:
        return 0, 0.0, 0.0
    correlation = np.fft.irfft(np.fft.rfft(b, size) * np.conj(np.fft.rfft(a, size)), size) / scale
    lags = np.concatenate([np.arange(0, min(most, b.size - 1) + 1), np.arange(-min(most, a.size - 1), 0)])
    k = int(np.argmax(correlation[lags]))
    return int(lags[k]), float(correlation[lags[k]]), float(correlation[0])


def align(reference: Samples, estimate: Samples, rate_hz: int, estimate_hz: int) -> tuple[Samples, list[str]]:
    """`estimate` at the reference's rate, start and length (cut, or filled with zeros), and what was done to it.

    Raises AudioError when the two cannot belong together: less than half of the reference is covered.
    """
    a, b = as_samples(reference), as_samples(estimate)
    notes = []
    if estimate_hz != rate_hz:
        b = resample(b, estimate_hz, rate_hz)
        notes.append(f"resampled from {estimate_hz} to {rate_hz} Hz")
    length = b.size
    lag = lag_samples(a, b, rate_hz)
    if lag:
        b = b[lag:] if lag > 0 else np.concatenate([np.zeros(-lag, np.float32), b])
        notes.append(f"moved by {-1000 * lag / rate_hz:+.1f} ms")
    if b.size < a.size / 2:
        raise AudioError(f"expected two recordings of the same speech, got {a.size / rate_hz:.2f} s and {length / rate_hz:.2f} s; do they belong together?")
    if b.size != a.size:
        difference = (b.size - a.size) / rate_hz
        if abs(difference) > 0.001:
            notes.append(f"{abs(difference):.3f} s {'cut off' if difference > 0 else 'of silence added'} at the end")
        b = b[: a.size] if b.size > a.size else np.pad(b, (0, a.size - b.size))
    return np.ascontiguousarray(b, np.float32), notes
