"""Fast Griffin-Lim (Perraudin, Balazs and Sondergaard, 2013): phase from magnitude by projections on consistent spectra.

Equation: t_n = STFT(ISTFT(c_{n-1})), c_n = M * unit(t_n - m / (1 + m) * t_{n-1}), unit(z) = z / |z|.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from wavespike.signal.stft import Padding, add_frames_, frame, frame_pads, hann_window, inverse_envelope, overlap_add, reflect_edges_, reflect_pad


def scaled(z: Tensor, gain: Tensor) -> Tensor:
    """Complex z times real gain. A product of two complex tensors is many times faster on a CPU than one of mixed types."""
    return z * torch.complex(gain, torch.zeros_like(gain))


def unit(z: Tensor, magnitude: Tensor | float = 1.0, eps: float = 1e-9) -> Tensor:
    """magnitude * z / |z|, finite at zero, differentiable."""
    return scaled(z, magnitude * (z.real.square() + z.imag.square() + eps).rsqrt())


def unit_(z: Tensor, magnitude: Tensor, gain: Tensor, eps: float = 1e-9) -> Tensor:
    """`unit` in place; `gain`, complex of z's shape, has no imaginary part and takes the factor."""
    square = torch.view_as_real(z).square()
    torch.mul(torch.add(square[..., 0], square[..., 1]).add_(eps).rsqrt_(), magnitude, out=gain.real)
    return z.mul_(gain)


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
    if not torch.is_grad_enabled() and n_fft % hop_length == 0 and iterations:
        return _project_in_place(wave, magnitudes, iterations, n_fft, hop_length, float(weight), padding)
    window = hann_window(n_fft, dtype=wave.dtype, device=wave.device)
    before: list[Tensor] = []
    for turn in range(iterations):
        wave = overlap_add(_project(frame(wave, n_fft, hop_length, padding), window, magnitudes, before, weight, turn), n_fft, hop_length, None, padding)
    return wave


def _project(frames: Tensor, window: Tensor, magnitudes: list[Tensor], before: list[Tensor], weight: float | Tensor, turn: int) -> Iterator[Tensor]:
    """The spectra of one projection, block by block; `before` holds those of the last."""
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


def _project_in_place(wave: Tensor, magnitudes: list[Tensor], iterations: int, n_fft: int, hop_length: int, weight: float, padding: Padding) -> Tensor:
    """The projections without gradients: the same operations in two waveforms and a few buffers that stay, since on a CPU new memory costs as much as the mathematics."""
    left, right = frame_pads(n_fft, hop_length, padding)
    length = wave.shape[-1]
    window = hann_window(n_fft, dtype=wave.dtype, device=wave.device)
    level = inverse_envelope(n_fft, hop_length, None, sum(m.shape[1] for m in magnitudes), (left, right), wave.dtype, str(wave.device))
    heard = reflect_pad(wave, left, right)
    said = torch.empty_like(heard)
    longest = max(m.shape[1] for m in magnitudes)
    windowed = wave.new_empty(wave.shape[0], longest, n_fft)
    gains = torch.zeros(wave.shape[0], longest, n_fft // 2 + 1, dtype=torch.view_as_complex(wave.new_empty(0, 2)).dtype, device=wave.device)
    before: list[Tensor] = []
    for turn in range(iterations):
        said.zero_()
        frames = heard.unfold(-1, n_fft, hop_length)
        at = 0
        for i, magnitude in enumerate(magnitudes):
            count = magnitude.shape[1]
            spectrum = torch.fft.rfft(torch.mul(frames[:, at : at + count], window, out=windowed[:, :count]))  # [B, l, F]
            if weight != 0.0 and turn == 0:
                before.append(spectrum.clone())
            elif weight != 0.0:
                guess = spectrum.sub(before[i], alpha=weight)
                before[i], spectrum = spectrum, guess
            frames_out = torch.fft.irfft(unit_(spectrum, magnitude, gains[:, :count]), n=n_fft, dim=-1)
            add_frames_(said[:, at * hop_length : (at + count - 1) * hop_length + n_fft], frames_out, hop_length, window)
            at += count
        said[:, left : left + length].mul_(level)
        reflect_edges_(said, left, right)
        heard, said = said, heard
    return heard[:, left : left + length].contiguous()
