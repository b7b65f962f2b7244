"""Quality of speech: PESQ and STOI against a reference, DNSMOS without one, and the mel distance.

The algorithms are the reference implementations (packages `pesq`, `pystoi`, `speechmos`); this room only brings signals to their rates, keeps them
inside their valid range, and turns "no value" into ScoreError. Signals are mono [T] in -1..1.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import numpy as np

from wavespike.errors import MissingDependencyError
from wavespike.metrics.common import ScoreError, as_samples, finite, pair
from wavespike.signal.resample import resample

PESQ_PART_S = 30.0


def pesq(reference: Any, estimate: Any, rate_hz: int, band: Literal["wb", "nb"] = "wb") -> float:
    """Perceptual evaluation of speech quality: P.862.2 at 16 kHz (`wb`, 1.04..4.64) or P.862.1 at 8 kHz (`nb`, 1.02..4.55), MOS-LQO.

    P.862 is defined up to about 30 s and its code holds at most 50 utterances, so a longer item is cut into equal parts of at most 30 s whose
    scores are averaged; parts without speech are left out. Raises ScoreError when there is no speech at all or less than 1/4 s.
    """
    try:
        import pesq as package
    except ImportError as error:
        raise MissingDependencyError("PESQ", "pesq", "pesq") from error
    own_hz = 16000 if band == "wb" else 8000
    a, b = pair(reference, estimate, rate_hz, own_hz)
    if a.size < own_hz // 4:
        raise ScoreError(f"PESQ needs at least 0.25 s, got {a.size / own_hz:.3f} s")
    if not a.any() or not b.any():
        raise ScoreError("PESQ needs speech, got digital silence")
    count = math.ceil(a.size / (PESQ_PART_S * own_hz))
    scores = []
    for x, y in zip(np.array_split(a, count), np.array_split(b, count), strict=True):
        if not x.any() or not y.any():
            continue
        try:
            scores.append(float(package.pesq(own_hz, x, y, band)))
        except (package.NoUtterancesError, package.BufferTooShortError):
            continue
    if not scores:
        raise ScoreError("PESQ found no speech in the reference or the estimate")
    return finite(np.mean(scores), "PESQ")


def stoi(reference: Any, estimate: Any, rate_hz: int) -> float:
    """Short-time objective intelligibility, 0..1 (Taal, Hendriks, Heusdens and Jensen, 2011); signals at 16 kHz (10 kHz inside).

    Raises ScoreError when less than 30 frames (about 0.4 s) of the reference are within 40 dB of its loudest.
    """
    try:
        from pystoi import stoi as package
    except ImportError as error:
        raise MissingDependencyError("STOI", "pystoi", "metrics") from error
    a, b = pair(reference, estimate, rate_hz, 16000)
    if not a.any() or a.size < 8000 // 2:
        raise ScoreError("STOI needs at least 0.4 s of speech")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi warns and returns 1e-5 when there is too little speech
        try:
            value = package(a, b, 16000)
        except (RuntimeWarning, ValueError, IndexError) as error:
            raise ScoreError("STOI needs at least 0.4 s of speech") from error
    return finite(value, "STOI")


def dnsmos(estimate: Any, rate_hz: int) -> dict[str, float]:
    """DNSMOS (Reddy, Gopal and Cutler, 2021 (P.808) and 2022 (P.835)) at 16 kHz, no reference: {ovrl, sig, bak, p808}, MOS 1..5.

    The networks hear windows of 9.01 s, one a second; a shorter item is repeated, as in the published code. Samples are clipped to -1..1.
    """
    try:
        from speechmos import dnsmos as package
    except ImportError as error:
        raise MissingDependencyError("DNSMOS", "speechmos", "metrics") from error
    audio = np.clip(resample(as_samples(estimate), rate_hz, 16000), -1.0, 1.0)
    if audio.size < 1600:
        raise ScoreError(f"DNSMOS needs at least 0.1 s, got {audio.size / 16000:.3f} s")
    if not audio.any():
        raise ScoreError("DNSMOS needs sound, got digital silence")
    scores = package.run(audio, 16000)
    return {short: finite(scores[f"{short}_mos"], f"DNSMOS {short}") for short in ("ovrl", "sig", "bak", "p808")}


def mel_l1(reference: Any, estimate: Any, rate_hz: int) -> float:
    """Mean |log mel(reference) - log mel(estimate)| in nepers, with Vocos's mel at 24 kHz (1024/256, 100 HTK bands, magnitude, clip 1e-7).

    Audio of another rate is resampled to 24 kHz, so a model below 24 kHz is charged for the band that it cannot make.
    """
    import torch

    from wavespike.signal.mel import MelConfig, log_mel

    config = MelConfig()
    a, b = pair(reference, estimate, rate_hz, config.sample_rate)
    if a.size == 0:
        raise ScoreError("the mel distance needs at least one sample at 24 kHz")
    with torch.inference_mode():
        distance = log_mel(torch.from_numpy(a), config) - log_mel(torch.from_numpy(b), config)
    return finite(distance.abs().mean(), "mel L1")
