"""Quality of speech: PESQ, STOI, ViSQOL against a reference, DNSMOS and PLCMOS without one, spectral distances and SI-SDR.

Where a reference implementation exists it does the work (packages `pesq`, `pystoi`, `visqol`, `speechmos`); this room only brings signals to their rates,
keeps them inside their valid range, and turns "no value" into ScoreError. Signals are mono [T] in -1..1.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wavespike.errors import MissingDependencyError
from wavespike.metrics.common import ScoreError, as_samples, finite, pair
from wavespike.signal.resample import Samples, resample

if TYPE_CHECKING:
    from torch import Tensor

PESQ_PART_S = 30.0
RANGE_DB = 80.0
"""Spectral distances hear nothing further than this below the loudest bin of the reference: digital silence would weigh more than all speech."""


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


def stoi(reference: Any, estimate: Any, rate_hz: int, extended: bool = False) -> float:
    """Short-time objective intelligibility, 0..1 (Taal, Hendriks, Heusdens and Jensen, 2011); signals at 16 kHz (10 kHz inside).

    `extended` is ESTOI (Jensen and Taal, 2016), which also hears modulated maskers.

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
            value = package(a, b, 16000, extended=extended)
        except (RuntimeWarning, ValueError, IndexError) as error:
            raise ScoreError("STOI needs at least 0.4 s of speech") from error
    return finite(value, "STOI")


def _rateable(estimate: Any, rate_hz: int, what: str) -> Samples:
    """What the networks of speechmos take: 16 kHz, clipped to -1..1. Raises ScoreError for next to nothing and for silence."""
    audio: Samples = np.clip(resample(as_samples(estimate), rate_hz, 16000), -1.0, 1.0)
    if audio.size < 1600:
        raise ScoreError(f"{what} needs at least 0.1 s, got {audio.size / 16000:.3f} s")
    if not audio.any():
        raise ScoreError(f"{what} needs sound, got digital silence")
    return audio


def dnsmos(estimate: Any, rate_hz: int) -> dict[str, float]:
    """DNSMOS (Reddy, Gopal and Cutler, 2021 (P.808) and 2022 (P.835)) at 16 kHz, no reference: {ovrl, sig, bak, p808}, MOS 1..5.

    The networks hear windows of 9.01 s, one a second; a shorter item is repeated, as in the published code. Samples are clipped to -1..1.
    """
    try:
        from speechmos import dnsmos as package
    except ImportError as error:
        raise MissingDependencyError("DNSMOS", "speechmos", "metrics") from error
    audio = _rateable(estimate, rate_hz, "DNSMOS")
    scores = package.run(audio, 16000)
    return {short: finite(scores[f"{short}_mos"], f"DNSMOS {short}") for short in ("ovrl", "sig", "bak", "p808")}


def plcmos(estimate: Any, rate_hz: int, seed: int = 0) -> float:
    """PLCMOS v2 (Diener, Purin, Sootla, Saabas, Aichner and Cutler, 2023) at 16 kHz, no reference: MOS 1..5 of packet-loss artefacts, clicks and gaps.

    The published code averages over 15 raters drawn from NumPy's global generator; here it is seeded, so the same audio gives the same score.
    """
    try:
        from speechmos import plcmos as package
    except ImportError as error:
        raise MissingDependencyError("PLCMOS", "speechmos", "metrics") from error
    audio = _rateable(estimate, rate_hz, "PLCMOS")
    before = np.random.get_state()  # noqa: NPY002 - the package draws from the global generator
    try:
        np.random.seed(seed)  # noqa: NPY002
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            value = package.run(audio, 16000)["plcmos"]
    finally:
        np.random.set_state(before)  # noqa: NPY002
    return finite(value, "PLCMOS")


@functools.cache
def _visqol() -> Any:
    from visqol import VisqolApi

    api = VisqolApi()
    with _native_silence():
        api.create(mode="speech", use_lattice_model=True)  # without the lattice, speech scores come out 1 to 2 MOS too high
    return api


@contextlib.contextmanager
def _native_silence() -> Iterator[None]:
    """Nothing that native code writes on standard error reaches it: TensorFlow Lite greets there, whatever its settings say."""
    try:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # no such stream
        yield
        return
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def visqol(reference: Any, estimate: Any, rate_hz: int) -> float:
    """ViSQOL v3 (Chinen et al., 2020) in speech mode with its lattice mapping, at 16 kHz: MOS-LQO 1..5.

    Raises ScoreError when the reference has less than about half a second of speech.
    """
    try:
        api = _visqol()
    except ImportError as error:
        raise MissingDependencyError("ViSQOL", "visqol-python[lattice]", "visqol") from error
    a, b = pair(reference, estimate, rate_hz, 16000)
    if a.size < 8000 or not a.any():
        raise ScoreError(f"ViSQOL needs at least 0.5 s of speech, got {a.size / 16000:.3f} s" if a.any() else "ViSQOL needs speech, got digital silence")
    try:
        value = api.measure_from_arrays(a.astype(np.float64), b.astype(np.float64), 16000).moslqo
    except Exception as error:  # the package has no error type of its own
        raise ScoreError(f"ViSQOL gave up on this item ({type(error).__name__}: {error})") from error
    return finite(value, "ViSQOL")


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


def mel_cepstral_distance(reference: Tensor, estimate: Tensor, coefficients: int = 24) -> float:
    """MCD in decibels of two natural-log magnitude mel spectra [n_mels, L].

    Equation (Kubichek, 1993): mean over frames of 10 / ln 10 sqrt(2 sum over m = 1..M of (c_m - c'_m)^2), with ln |S(k)| = c_0 + sum of c_m cos(pi m (k + 1/2) / N):
    the RMS difference of the smoothed envelopes in decibels, level (c_0) left out. Frames are compared in place, without time warping.
    """
    import torch

    bands = reference.shape[0]
    floor = float(reference.max()) - RANGE_DB * math.log(10.0) / 20.0
    difference = reference.clamp_min(floor) - estimate.clamp_min(floor)  # [N, L]
    m, k = torch.arange(1, coefficients + 1)[:, None], torch.arange(bands)[None]
    basis = 2.0 / bands * torch.cos(math.pi * m * (k + 0.5) / bands)  # [M, N]
    cepstral = basis @ difference  # [M, L]
    return 10.0 / math.log(10.0) * float((2.0 * cepstral.square().sum(0)).sqrt().mean())


def mcd(reference: Any, estimate: Any, rate_hz: int) -> float:
    """Mel-cepstral distortion (`mel_cepstral_distance`), 24 coefficients of Vocos's mel (24 kHz, 1024/256, 100 bands), in decibels."""
    import torch

    from wavespike.signal.mel import MelConfig, log_mel

    config = MelConfig()
    a, b = pair(reference, estimate, rate_hz, config.sample_rate)
    if not a.any():
        raise ScoreError("MCD needs sound, got digital silence")
    with torch.inference_mode():
        return finite(mel_cepstral_distance(log_mel(torch.from_numpy(a), config), log_mel(torch.from_numpy(b), config)), "MCD")


def lsd(reference: Any, estimate: Any, rate_hz: int) -> float:
    """Log-spectral distance in decibels (Gray and Markel, 1976), at 24 kHz, Hann 2048/512.

    Equation: mean over frames of sqrt(mean over bins of (20 log10 |X| - 20 log10 |Y|)^2), both spectra raised to 80 dB below the reference's loudest bin.
    """
    import torch

    from wavespike.signal.stft import stft

    a, b = pair(reference, estimate, rate_hz, 24000)
    if not a.any():
        raise ScoreError("LSD needs sound, got digital silence")
    with torch.inference_mode():
        x, y = (stft(torch.from_numpy(s), 2048, 512).abs() for s in (a, b))  # [F, L]
        floor = float(x.max()) * 10.0 ** (-RANGE_DB / 20.0)
        difference = 20.0 * (torch.log10(x.clamp_min(floor)) - torch.log10(y.clamp_min(floor)))
        return finite(difference.square().mean(0).sqrt().mean(), "LSD")


def si_sdr(reference: Any, estimate: Any, rate_hz: int) -> float:
    """Scale-invariant signal-to-distortion ratio in decibels (Le Roux, Wisdom, Erdogan and Hershey, 2019), at 24 kHz, means removed.

    Equation: 10 log10(|a s|^2 / |a s - e|^2), a = <e, s> / <s, s>. It asks for the waveform itself: for codecs, not for vocoders, which make a phase of their own.
    """
    a, b = (x.astype(np.float64) - x.mean(dtype=np.float64) for x in pair(reference, estimate, rate_hz, 24000))
    energy = float(a @ a)
    if energy == 0.0 or not b.any():
        raise ScoreError("SI-SDR needs sound in both signals, got digital silence")
    target = (float(b @ a) / energy) * a
    noise = float(np.square(target - b).sum())
    if noise <= 1e-20 * energy:
        raise ScoreError("SI-SDR has no bound for a signal equal to its reference")
    return finite(10.0 * math.log10(max(float(target @ target), 1e-20 * energy) / noise), "SI-SDR")
