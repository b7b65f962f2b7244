"""UTMOS (Saeki et al., "UTMOS: UTokyo-SaruLab system for VoiceMOS Challenge 2022"), a plug-in: its weights are on a hub and not in this package.

The environment variable WAVESPIKE_UTMOS names either a TorchScript file that maps audio [1, T] at 16 kHz to a MOS, or a copy of the repository
tarepan/SpeechMOS (its `hubconf.py` is run). The weights that the copy asks for must be in torch's hub folder: nothing is fetched.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
import types
import warnings
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest import mock

from wavespike.errors import UsageError
from wavespike.metrics.common import ScoreError, as_samples, finite
from wavespike.signal.resample import resample

VARIABLE = "WAVESPIKE_UTMOS"
RATE_HZ = 16000


def needs() -> str:
    """What is missing, or an empty string."""
    place = os.environ.get(VARIABLE, "")
    if Path(place).is_file() or (Path(place) / "hubconf.py").is_file():
        try:
            _predictor(place)
        except UsageError as error:
            return str(error)
        return ""
    found = f"{place!r} holds neither" if place else "it is not set"
    return (f"UTMOS needs weights from a hub: set {VARIABLE} to a TorchScript file (audio [1, T] at 16 kHz to MOS) or to a copy of the repository "
            f"tarepan/SpeechMOS; {found}")


@functools.cache
def _predictor(place: str) -> Any:
    import torch

    try:
        if Path(place).is_file():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of torch, about its own format
                script = torch.jit.load(place, map_location="cpu").eval()  # type: ignore[no-untyped-call]
            return lambda audio: script(audio)
        with _alone(), mock.patch.object(torch.hub, "download_url_to_file", _not_fetched):
            hub = torch.hub.load(place, "utmos22_strong", source="local", trust_repo=True).eval()  # type: ignore[no-untyped-call]
        return lambda audio: hub(audio, RATE_HZ)
    except UsageError:
        raise
    except Exception as error:  # whatever somebody else's file does
        raise UsageError(f"{place}: expected UTMOS as {VARIABLE} promises, got {type(error).__name__}: {error}") from error


def _not_fetched(url: str, dst: str, *rest: Any, **more: Any) -> None:
    raise UsageError(f"UTMOS needs its weights in torch's hub folder, where nothing is fetched: put {url} at {dst}")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """While the copy is imported: its package has the name of another one, which DNSMOS and PLCMOS come from, and its torchaudio only resamples, from 16 to 16 kHz."""
    names = ("speechmos", "torchaudio")
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] in names}
    stand_in: dict[str, Any] = {}
    if importlib.util.find_spec("torchaudio") is None:
        audio, functional = types.ModuleType("torchaudio"), types.ModuleType("torchaudio.functional")
        audio.__spec__ = ModuleSpec("torchaudio", None)
        functional.resample = lambda waveform, orig_freq, new_freq: waveform  # type: ignore[attr-defined]
        audio.functional = functional  # type: ignore[attr-defined]
        stand_in = {"torchaudio": audio, "torchaudio.functional": functional}
    for name in kept:
        if name.split(".")[0] == "speechmos" or stand_in:
            del sys.modules[name]
    sys.modules.update(stand_in)
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "speechmos" or name in stand_in]:
            del sys.modules[name]
        sys.modules.update(kept)


def utmos(estimate: Any, rate_hz: int) -> float:
    """MOS 1..5 at 16 kHz, no reference. Raises UsageError when `needs()` is not met."""
    import torch

    if hint := needs():
        raise UsageError(hint)
    audio = resample(as_samples(estimate), rate_hz, RATE_HZ)
    if audio.size < RATE_HZ // 4:
        raise ScoreError(f"UTMOS needs at least 0.25 s, got {audio.size / RATE_HZ:.3f} s")
    with torch.inference_mode():
        return finite(_predictor(os.environ[VARIABLE])(torch.from_numpy(audio)[None]).mean(), "UTMOS")
