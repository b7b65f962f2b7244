"""Pitch of speech against pitch of a reference: voicing, cents, periodicity (Morrison et al., "Chunked autoregressive GAN", 2022, use the three).

Pitch is probabilistic YIN (Mauch and Dixon, 2014; `librosa.pyin`) at 16 kHz, 60 to 500 Hz, frames of 2,048 samples every 512 (32 ms).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavespike.errors import MissingDependencyError
from wavespike.metrics.common import ScoreError, finite, pair
from wavespike.signal.resample import Samples

RATE_HZ, F_MIN_HZ, F_MAX_HZ = 16000, 60.0, 500.0
HOP_S = 512 / RATE_HZ
"""Seconds between the values of a track."""


@dataclasses.dataclass(frozen=True)
class PitchTrack:
    """`f0_hz` [L] (NaN where unvoiced), `voiced` [L], `periodicity` [L] = probability of voicing 0..1."""

    f0_hz: NDArray[np.float64]
    voiced: NDArray[np.bool_]
    periodicity: NDArray[np.float64]


def track(audio: Samples) -> PitchTrack:
    """Pitch track of a mono signal [T] at 16 kHz."""
    try:
        import librosa
    except ImportError as error:
        raise MissingDependencyError("Pitch", "librosa", "metrics") from error
    if audio.size < 2048:
        raise ScoreError(f"pitch needs at least 0.128 s, got {audio.size / RATE_HZ:.3f} s")
    f0, voiced, probability = librosa.pyin(audio, fmin=F_MIN_HZ, fmax=F_MAX_HZ, sr=RATE_HZ)
    return PitchTrack(f0, voiced, probability)


def voicing_f1(reference: PitchTrack, estimate: PitchTrack) -> float:
    """F1 of the voiced/unvoiced decision, 2 TP / (2 TP + FP + FN). Raises ScoreError when neither signal has a voiced frame."""
    both = int((reference.voiced & estimate.voiced).sum())
    wrong = int((reference.voiced ^ estimate.voiced).sum())
    if both + wrong == 0:
        raise ScoreError("voicing needs a voiced frame, found none")
    return 2 * both / (2 * both + wrong)


def pitch_rmse_cents(reference: PitchTrack, estimate: PitchTrack) -> float:
    """Root mean square of 1200 log2(f_estimate / f_reference) over the frames voiced in both. Raises ScoreError when there is none."""
    both = reference.voiced & estimate.voiced
    if not both.any():
        raise ScoreError("the pitch error needs a frame that is voiced in both signals, found none")
    cents = 1200.0 * np.log2(estimate.f0_hz[both] / reference.f0_hz[both])
    return finite(np.sqrt(np.mean(cents**2)), "pitch RMSE")


def periodicity_rmse(reference: PitchTrack, estimate: PitchTrack) -> float:
    """Root mean square difference of the probabilities of voicing, 0..1."""
    return finite(np.sqrt(np.mean((reference.periodicity - estimate.periodicity) ** 2)), "periodicity RMSE")


def compare(reference: Any, estimate: Any, rate_hz: int) -> dict[str, float]:
    """{vuv_f1, pitch_rmse_cents, periodicity_rmse} of two signals [T] at `rate_hz`. Raises ScoreError when one of them has no value."""
    a, b = (track(x) for x in pair(reference, estimate, rate_hz, RATE_HZ))
    return {"vuv_f1": voicing_f1(a, b), "pitch_rmse_cents": pitch_rmse_cents(a, b), "periodicity_rmse": periodicity_rmse(a, b)}
