"""Fast Griffin-Lim (Perraudin, Balazs and Sondergaard, 2013): phase from magnitude by projections on consistent spectra.

Equation: t_n = STFT(ISTFT(c_{n-1})), c_n = M * unit(t_n - m / (1 + m) * t_{n-1}), unit(z) = z / |z|.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from wavespike.signal.stft import Padding, frame, hann_window, overlap_add


def scaled(z: Tensor, gain: Tensor) -> Tensor:
    """Complex z times real gain. A product of two complex tensors is many times faster on a CPU than one of mixed types."""
    return z * torch.complex(gain, torch.zeros_like(gain))


def unit(z: Tensor, magnitude: Tensor | float = 1.0, eps: float = 1e-9) -> Tensor:
    """magnitude * z / |z|, finite at zero, differentiable."""
    return scaled(z, magnitude * (z.real.square() + z.imag.square() + eps).rsqrt())


def block_frames() -> int:
    """Frames a block: few enough for the cache without gradients, all in one with them (fewer, larger operations)."""
    return 1 << 30 if torch.is_grad_enabled() else 256


def frame_blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors [B, L, ...] along L into blocks of `block_frames` frames."""
    size = block_frames()
    for at in range(0, tensors[0].shape[1], size):
        yield tuple(t[:, at : at + size] for t in tensors)


def griffin_lim(start: Iterable[tuple[Tensor, ...]], iterations: int, n_fft: int, hop_length: int, *, momentum: float | Tensor = 0.99,
                padding: Padding = "center") -> Tensor:
    """Waveform [B, T] whose spectrum has the given magnitude and a phase made consistent by `iterations` projections.

    `start` yields blocks of frames: a magnitude [B, l, F] and a complex spectrum [B, l, F] whose phase to start from (frames first). One block is
    the plain algorithm; many small ones give the same result and stay in the processor's cache. `momentum` in [0, 1), 0 is the original algorithm.
    """
    magnitudes: list[Tensor] = []

    def first() -> Iterator[Tensor]:
        for magnitude, spectrum in start:
            magnitudes.append(magnitude)
            yield unit(spectrum, magnitude)

    weight = momentum / (1 + momentum)
    if not torch.is_grad_enabled():
        weight = float(weight)  # read once, not in every block
    wave = overlap_add(first(), n_fft, hop_length, None, padding)
    window = hann_window(n_fft, dtype=wave.dtype, device=wave.device)
    before: list[Tensor] = []
    for turn in range(iterations):
        wave = overlap_add(_project(frame(wave, n_fft, hop_length, padding), window, magnitudes, before, weight, turn), n_fft, hop_length, None, padding)
    return wave


def _project(frames: Tensor, window: Tensor, magnitudes: list[Tensor], before: list[Tensor], weight: float | Tensor, turn: int) -> Iterator[Tensor]:
    at = 0
    plain = isinstance(weight, float) and weight == 0.0  # the original algorithm looks at nothing but the present
    for i, magnitude in enumerate(magnitudes):
        projected = torch.fft.rfft(frames[:, at : at + magnitude.shape[1]] * window)  # [B, l, F]
        at += magnitude.shape[1]
        guess = projected
        if not plain and turn == 0:
            before.append(projected)
        elif not plain:
            guess = projected.sub(before[i], alpha=weight) if isinstance(weight, float) else projected - weight * before[i]
            before[i] = projected
        yield unit(guess, magnitude)
