"""Normalised cross-correlation of the newest samples with those a period before (Talkin, 1995, "A robust algorithm for pitch tracking"): what tells the
pitch of now, where the spectrum of a window tells that of its middle.

Equation: c(tau) = sum_n w(n) x(n) x(n - tau) / sqrt(sum_n w(n) x(n)^2 * sum_n w(n) x(n - tau)^2 + eps), n over the last W samples of x, the frame low-passed
and decimated to about 6 kHz; w rises over its older half.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wavespike.signal.stft import hann_window

RATE_HZ = 6000
TAPS_S = 0.002
EPSILON = 1e-9


@dataclasses.dataclass(frozen=True)
class PeriodCorrelation:
    """Frames [..., T] -> correlations [..., len(lengths) * lags], `lengths` in samples at `sample_rate`, lags from one period of `f_max_hz` to one of `f_min_hz`."""

    sample_rate: int
    lengths: tuple[int, ...]
    f_min_hz: float
    f_max_hz: float

    @property
    def factor(self) -> int:
        """Decimation."""
        return max(1, self.sample_rate // RATE_HZ)

    @property
    def taps(self) -> int:
        return 2 * round(self.sample_rate * TAPS_S / 2)

    @property
    def shortest(self) -> int:
        """In decimated samples, as is `longest`; one sample of margin at either end."""
        return math.floor(self.sample_rate / self.factor / self.f_max_hz)

    @property
    def longest(self) -> int:
        return math.ceil(self.sample_rate / self.factor / self.f_min_hz) + 1

    @property
    def features(self) -> int:
        return len(self.lengths) * (self.longest - self.shortest + 1)

    @property
    def needs(self) -> int:
        """Samples of a frame that are looked at."""
        longest = max(self.lengths, default=0) // self.factor + self.longest
        return self.taps + (longest - 1) * self.factor

    def low_pass(self, like: Tensor) -> Tensor:
        """The windowed-sinc filter [1, 1, taps], cut at 1.1 / 6 of the decimated rate."""
        return _low_pass(self).to(like)

    def __call__(self, frames: Tensor) -> Tensor:
        x = F.conv1d(frames.reshape(-1, 1, frames.shape[-1]), self.low_pass(frames), stride=self.factor)[:, 0]
        out, size = [], x.shape[1]  # the last filter ends with the frame
        for length in self.lengths:
            n = length // self.factor
            weight, recent = weight_of(n).to(x), x[:, -n:]
            weighted, before = recent * weight, x[:, size - n - self.longest : size - self.shortest]
            power = (weighted * recent).sum(-1, keepdim=True) * F.conv1d(before.square()[:, None], weight[None, None])[:, 0]
            both = F.conv1d(before[None], weighted[:, None], groups=x.shape[0])[0]  # every frame with a kernel of its own, [N, lags], longest lag first
            out.append(both / torch.sqrt(power + EPSILON))
        return torch.cat(out, -1).reshape(*frames.shape[:-1], -1)


@functools.lru_cache(maxsize=16)
def _low_pass(config: PeriodCorrelation) -> Tensor:
    taps = config.taps
    t = torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2
    filtered = torch.sinc(t * (2.2 / 6 / config.factor)) * hann_window(taps + 1, dtype=torch.float64)[1:]
    return (filtered / filtered.sum())[None, None]


@functools.lru_cache(maxsize=16)
def weight_of(length: int) -> Tensor:
    """w [length], float64: half a Hann window, then ones."""
    rise = hann_window(length, dtype=torch.float64)[: length // 2]
    return torch.cat([rise, rise.new_ones(length - length // 2)])
