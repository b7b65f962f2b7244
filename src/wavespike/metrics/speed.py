"""Speed and size of a model.

Real-time factor = seconds of computing / seconds of audio (below 1 is faster than real time); `times_real_time` is its inverse.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """Computing time against audio time, both in seconds."""

    computing_s: float
    audio_s: float

    @property
    def real_time_factor(self) -> float:
        return self.computing_s / self.audio_s

    @property
    def times_real_time(self) -> float:
        return self.audio_s / self.computing_s

    def __add__(self, other: Speed) -> Speed:
        return Speed(computing_s=self.computing_s + other.computing_s, audio_s=self.audio_s + other.audio_s)


def measure(work: Callable[[], Any], audio_s: float, *, warm_up: int = 1, repeats: int = 3) -> Speed:
    """Median wall time of `work()` over `repeats` calls after `warm_up` calls, for `audio_s` seconds of audio."""
    for _ in range(warm_up):
        work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return Speed(computing_s=statistics.median(times), audio_s=audio_s)


def parameter_count(model: Any) -> int:
    """Number of trainable parameters of an `nn.Module`."""
    return sum(p.numel() for p in model.parameters())
