"""Laws of the excitations: harmonics at the pitch, unit variance, and cutting changes nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavespike.signal.source import counter_noise, harmonic_source, integrate_pitch

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
HOP, RATE = 256, 24000


def source(f0: torch.Tensor, start: torch.Tensor | None = None) -> torch.Tensor:
    return harmonic_source(f0, integrate_pitch(f0, HOP, RATE, start), HOP, RATE)


@SETTINGS
@given(st.floats(60, 500), st.floats(0, 6.28))
def test_a_steady_pitch_gives_its_harmonics_and_unit_variance(f0_hz: float, phase: float) -> None:
    f0 = torch.full((1, 95), f0_hz, dtype=torch.float64)
    y = source(f0, torch.tensor([phase], dtype=torch.float64))[0].numpy()
    assert y.shape == (94 * HOP,)
    n = np.arange(y.size)
    count = math.floor(RATE / 2 / f0_hz)
    expected = math.sqrt(2 / count) * np.cos(np.arange(1, count + 1)[:, None] * (phase + 2 * np.pi * f0_hz / RATE * n[None, :])).sum(0)
    np.testing.assert_allclose(y, expected, atol=1e-3 * np.abs(expected).max())
    assert abs(np.var(y) - 1) < 0.05


@pytest.mark.parametrize("f0_hz", [80.0, 120.0, 233.0, 400.0])
def test_the_pitch_is_where_it_was_asked_for(f0_hz: float) -> None:
    y = source(torch.full((1, 189), f0_hz))[0].numpy()
    spectrum = np.abs(np.fft.rfft(y * np.hanning(y.size)))
    hz = np.fft.rfftfreq(y.size, 1 / RATE)
    first = hz[: np.searchsorted(hz, 1.5 * f0_hz)]
    assert abs(first[spectrum[: first.size].argmax()] - f0_hz) < 1.0


@SETTINGS
@given(st.integers(1, 60), st.integers(0, 99))
def test_cutting_the_track_does_not_change_the_source(cut: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    f0 = 80 + 300 * torch.rand(1, 62, generator=generator, dtype=torch.float64)
    phase = integrate_pitch(f0, HOP, RATE)
    whole = harmonic_source(f0, phase, HOP, RATE)
    left = harmonic_source(f0[:, : cut + 1], integrate_pitch(f0[:, : cut + 1], HOP, RATE), HOP, RATE)
    right = harmonic_source(f0[:, cut:], integrate_pitch(f0[:, cut:], HOP, RATE, phase[:, cut]), HOP, RATE)
    torch.testing.assert_close(torch.cat([left, right], 1), whole, atol=1e-6, rtol=0)


def test_the_phase_is_continuous_at_every_frame() -> None:
    """The wave of a glide has no step: neighbouring samples of the fundamental differ by no more than its frequency allows."""
    f0 = torch.linspace(100, 200, 40, dtype=torch.float64)[None]
    phase = integrate_pitch(f0, HOP, RATE)
    step = (phase.diff(dim=1) - math.pi * HOP / RATE * (f0[:, 1:] + f0[:, :-1])).remainder(2 * math.pi)
    step = torch.minimum(step, 2 * math.pi - step)
    assert float(step.max()) < 1e-9


def test_no_harmonic_lies_above_half_the_sampling_rate() -> None:
    """An alias would fold back between the harmonics; there is nothing there."""
    f0_hz = 1000.0
    y = source(torch.full((1, 376), f0_hz, dtype=torch.float64))[0].numpy()[:24000]
    spectrum = np.abs(np.fft.rfft(y))  # one second: bins are hertz, the harmonics fall on bins
    between = np.delete(spectrum, np.arange(0, 12001, 1000))
    assert between.max() < 1e-6 * spectrum.max()


@SETTINGS
@given(st.integers(0, 2**40), st.integers(1, 500), st.integers(1, 500))
def test_noise_depends_on_the_position_alone(start: int, left: int, right: int) -> None:
    whole = counter_noise(torch.tensor([start, 7]), left + right)
    a = counter_noise(torch.tensor([start, 7]), left)
    b = counter_noise(torch.tensor([start + left, 7 + left]), right)
    assert torch.equal(torch.cat([a, b], 1), whole)


def test_noise_is_white_uniform_and_of_unit_variance() -> None:
    y = counter_noise(torch.tensor([0]), 1 << 18, torch.float64)[0].numpy()
    assert abs(y.mean()) < 0.01
    assert abs(y.var() - 1) < 0.01
    assert abs(np.sort(y) - np.linspace(-math.sqrt(3), math.sqrt(3), y.size)).max() < 0.01
    spectrum = np.abs(np.fft.rfft(y)) ** 2 / y.size
    octaves = [spectrum[1 << k : 2 << k].mean() for k in range(8, 17)]
    assert max(abs(v - 1) for v in octaves) < 0.25
    correlation = np.correlate(y[:4096], y[:4096], "full")[4096:4196] / 4096
    assert np.abs(correlation).max() < 0.1
