"""Fast Griffin-Lim (Perraudin, Balazs and Sondergaard, 2013): phase from magnitude by projections on consistent spectra.

Equation: t_n = STFT(ISTFT(c_{n-1})), c_n = M * unit(t_n - m / (1 + m) * t_{n-1}), unit(z) = z / |z|.
"""

from __future__ import annotations

from torch import Tensor

from wavespike.signal.stft import Padding, istft, stft


def unit(z: Tensor, eps: float = 1e-9) -> Tensor:
    """z / |z|, finite at zero, differentiable."""
    return z * (z.real.square() + z.imag.square() + eps).rsqrt()


def griffin_lim(magnitude: Tensor, start: Tensor, iterations: int, n_fft: int, hop_length: int, *, momentum: float | Tensor = 0.99,
                padding: Padding = "center") -> Tensor:
    """Spectrum of the given magnitude whose phase has been made consistent, [..., F, L] -> complex [..., F, L].

    `start` is any complex spectrum whose phase to start from; `momentum` in [0, 1), 0 is the original algorithm.
    """
    spectrum = magnitude * start
    before: Tensor | None = None
    weight = momentum / (1 + momentum)
    for _ in range(iterations):
        projected = stft(istft(spectrum, n_fft, hop_length, None, padding), n_fft, hop_length, None, padding)
        guess = projected if before is None else projected - weight * before
        spectrum = magnitude * unit(guess)
        before = projected
    return spectrum
