"""Laws of Griffin-Lim: a projection never makes the spectrum less consistent, and a consistent one is a fixed point."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from wavespike.signal.griffin_lim import Frames, griffin_lim
from wavespike.signal.stft import istft, stft

N_FFT, HOP = 256, 64


def magnitude_and_random_phase(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Waveform [2, T], magnitude and unit spectrum [2, L, F]."""
    g = torch.Generator().manual_seed(seed)
    wave = torch.randn(2, 60 * HOP, generator=g, dtype=torch.float64) * torch.linspace(0, 1, 60 * HOP, dtype=torch.float64)
    spectrum = stft(wave, N_FFT, HOP).transpose(1, 2)
    angle = 2 * math.pi * torch.rand(spectrum.shape, generator=g, dtype=torch.float64)
    return wave, spectrum.abs(), torch.complex(torch.cos(angle), torch.sin(angle))


def inconsistency(wave: torch.Tensor, magnitude: torch.Tensor) -> float:
    """Distance between the magnitude asked for and that of the waveform that came out, relative."""
    return float((stft(wave, N_FFT, HOP).transpose(1, 2).abs() - magnitude).norm() / magnitude.norm())


@pytest.mark.parametrize("padding", ["center"])
def test_without_momentum_the_error_never_grows(padding: str) -> None:
    _, magnitude, start = magnitude_and_random_phase()
    errors = [inconsistency(griffin_lim(Frames.of(magnitude, start), n, N_FFT, HOP, momentum=0.0), magnitude) for n in range(0, 20)]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(errors))
    assert errors[-1] < 0.6 * errors[0]


def test_momentum_gets_further_in_as_many_steps() -> None:
    _, magnitude, start = magnitude_and_random_phase()
    plain, fast = (inconsistency(griffin_lim(Frames.of(magnitude, start), 32, N_FFT, HOP, momentum=m), magnitude) for m in (0.0, 0.99))
    assert fast < plain


@pytest.mark.parametrize("iterations", [0, 1, 5])
def test_the_spectrum_of_a_real_signal_is_a_fixed_point(iterations: int) -> None:
    wave, magnitude, _ = magnitude_and_random_phase(1)
    spectrum = stft(wave, N_FFT, HOP).transpose(1, 2)
    back = griffin_lim(Frames.of(magnitude, spectrum), iterations, N_FFT, HOP, momentum=0.5)
    torch.testing.assert_close(back, wave, atol=1e-5, rtol=0)


def test_no_iteration_is_the_inverse_transform() -> None:
    _, magnitude, start = magnitude_and_random_phase(3)
    torch.testing.assert_close(griffin_lim(Frames.of(magnitude, start), 0, N_FFT, HOP), istft((magnitude * start).transpose(1, 2), N_FFT, HOP), atol=1e-7, rtol=0)


def test_gradients_pass_through_the_projections() -> None:
    _, magnitude, start = magnitude_and_random_phase(4)
    magnitude = magnitude.clone().requires_grad_()
    griffin_lim(Frames.of(magnitude, start), 3, N_FFT, HOP, momentum=0.5).square().mean().backward()
    assert magnitude.grad is not None
    assert bool(torch.isfinite(magnitude.grad).all())
    assert float(magnitude.grad.abs().sum()) > 0
