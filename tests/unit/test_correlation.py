"""Normalised cross-correlation of the newest samples: against its definition, and what a pitch network needs of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wavespike.signal.correlation import EPSILON, PeriodCorrelation

CONFIG = PeriodCorrelation(24000, (240, 480), 55.0, 550.0)


def pulses(f0_hz: float, length: int = 1200) -> torch.Tensor:
    t = torch.arange(length, dtype=torch.float64) / 24000
    return sum((torch.cos(2 * math.pi * k * f0_hz * t) for k in range(1, 6)), torch.zeros_like(t))


def test_it_is_its_equation() -> None:
    frame = torch.randn(1200, dtype=torch.float64)
    got = CONFIG(frame[None])[0].numpy()
    low = CONFIG.low_pass(frame)[0, 0].numpy()
    x = np.array([frame.numpy()[at : at + len(low)] @ low for at in range(0, 1200 - len(low) + 1, 4)])
    want = []
    for length in (60, 120):
        w = np.concatenate([0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length // 2) / length), np.ones(length - length // 2)])
        recent = x[-length:]
        for lag in range(CONFIG.longest, CONFIG.shortest - 1, -1):
            before = x[len(x) - length - lag : len(x) - lag]
            want.append((w * recent * before).sum() / np.sqrt((w * recent**2).sum() * (w * before**2).sum() + EPSILON))
    assert len(want) == CONFIG.features == len(got)
    np.testing.assert_allclose(got, want, atol=1e-12)


@given(st.floats(70, 400))
def test_the_peak_lies_at_a_period(f0_hz: float) -> None:
    count = CONFIG.features // 2
    lags = torch.arange(CONFIG.longest, CONFIG.shortest - 1, -1)
    found = CONFIG(pulses(f0_hz)[None])[0, :count]
    near = (lags - 6000 / f0_hz).abs() < 1
    assert float(found[near].max()) > 0.8
    assert float(found.abs().max()) < 1 + 1e-6


def test_only_what_is_needed_is_looked_at_and_level_does_not_matter() -> None:
    frame = torch.randn(2, 3, 1200)
    changed = frame.clone()
    changed[..., : 1200 - CONFIG.needs] = 9.0
    torch.testing.assert_close(CONFIG(changed), CONFIG(frame))
    torch.testing.assert_close(CONFIG(0.1 * frame), CONFIG(frame), atol=1e-4, rtol=0)
    assert not CONFIG(torch.zeros(1, 1200)).any()


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_any_rate(rate: int) -> None:
    config = PeriodCorrelation(rate, (rate // 100,), 55.0, 550.0)
    assert config(torch.randn(4, config.needs)).shape == (4, config.features)
