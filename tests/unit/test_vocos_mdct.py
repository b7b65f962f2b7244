"""Laws of the MDCT: the definition, cancellation of aliasing (TDAC), orthonormality."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavespike.errors import AudioError, UsageError
from wavespike.signal.mdct import imdct, mdct, mdct_window


@settings(max_examples=30, deadline=None)
@given(half=st.integers(1, 40), length=st.integers(1, 400))
def test_center_gives_the_signal_back(half: int, length: int) -> None:
    x = torch.randn(2, length, dtype=torch.float64)
    y = imdct(mdct(x, 2 * half), 2 * half)
    assert y.shape[-1] >= length
    torch.testing.assert_close(y[:, :length], x)
    assert float(y[:, length:].abs().sum()) < 1e-9


@settings(max_examples=30, deadline=None)
@given(half=st.integers(1, 40), hops=st.integers(2, 12))
def test_same_gives_all_but_half_a_hop_at_the_edges_back(half: int, hops: int) -> None:
    x = torch.randn(2, hops * half, dtype=torch.float64)
    y = imdct(mdct(x, 2 * half, "same"), 2 * half, "same")
    assert y.shape == x.shape
    edge = (half + 1) // 2
    torch.testing.assert_close(y[:, edge : x.shape[1] - edge], x[:, edge : x.shape[1] - edge])


def test_coefficients_are_the_definition() -> None:
    n = 16
    x = torch.randn(5 * n, dtype=torch.float64)
    window = mdct_window(2 * n, torch.float64)
    time, bins = torch.arange(2 * n).double(), torch.arange(n).double()
    basis = torch.cos(math.pi / n * (time[:, None] + (n + 1) / 2) * (bins + 0.5))
    for frame in range(4):
        want = math.sqrt(2 / n) * (window * x[frame * n : (frame + 2) * n]) @ basis
        torch.testing.assert_close(mdct(x, 2 * n)[:, frame + 1], want)


def test_energy_is_kept() -> None:
    x = torch.randn(640, dtype=torch.float64)
    torch.testing.assert_close(mdct(x, 64).square().sum(), x.square().sum())


def test_wrong_sizes_are_refused_in_one_line() -> None:
    with pytest.raises(AudioError, match="at least one sample"):
        mdct(torch.zeros(1, 0), 64)
    with pytest.raises(UsageError, match="even"):
        mdct(torch.zeros(1, 100), 63)
    with pytest.raises(UsageError, match="32 MDCT coefficients"):
        imdct(torch.zeros(1, 30, 4), 64)
