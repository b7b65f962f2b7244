"""Gaussian noise that is a function of seed and position: a stream hears the noise of the whole, and the same seed gives the same audio.

Equation: Box and Muller (1958), z = sqrt(-2 log u) cos(2 pi v), with u and v the counter-based uniform noise of `signal.source`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavespike.signal.source import counter_noise

PERIOD = 1 << 32
"""Samples after which the counter-based noise repeats."""


def place(seed: int, channel: int) -> int:
    """Where in the period a channel of a seed begins (the finaliser of SplitMix64, Steele et al., 2014)."""
    mask = (1 << 64) - 1
    z = (seed * 0x9E3779B97F4A7C15 + channel * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) % PERIOD


def counter_gaussian(seed: int, channel: int, start: int, length: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """N(0, 1) noise [length] at the samples start..start+length-1 of a channel."""
    at = [(place(seed, 2 * channel + half) + start) % PERIOD for half in (0, 1)]
    two = counter_noise(torch.tensor(at, dtype=torch.int64, device=device), length, torch.float64)  # [2, length] uniform, unit variance
    u, v = (0.5 * (two / math.sqrt(3.0) + 1.0)).clamp(0.0, 1.0)  # [0, 1)
    z = torch.sqrt(-2.0 * torch.log((1.0 - u).clamp_min(2.0**-33))) * torch.cos(2 * math.pi * v)
    return z.to(dtype)
