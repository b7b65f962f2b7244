"""Fast Griffin-Lim (Perraudin, Balazs and Sondergaard, 2013): phase from magnitude by projections on consistent spectra.

Equation: t_n = STFT(ISTFT(c_{n-1})), c_n = M * unit(t_n - m / (1 + m) * t_{n-1}), unit(z) = z / |z|.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from wavespike.signal.stft import Padding, add_frames_, frame, frame_blocks, frame_pads, hann_window, inverse_envelope, overlap_add, reflect_edges_
from wavespike.threads import cut, run_all, share


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


@dataclasses.dataclass(frozen=True)
class Frames:
    """A magnitude and a first guess of the spectrum, L = `count` frames that are made when they are asked for.

    `blocks(first, stop)` yields those from first to stop: a magnitude [B, l, F] and a complex spectrum [B, l, F] whose phase to start from.
    """

    count: int
    blocks: Callable[[int, int], Iterable[tuple[Tensor, Tensor]]]

    @classmethod
    def of(cls, magnitude: Tensor, spectrum: Tensor) -> Frames:
        """Of what is known already, [B, L, F] each (frames first)."""
        return cls(magnitude.shape[1], lambda first, stop: frame_blocks(magnitude[:, first:stop], spectrum[:, first:stop]))  # type: ignore[arg-type, return-value]


def griffin_lim(start: Frames, iterations: int, n_fft: int, hop_length: int, *, momentum: float | Tensor = 0.99, padding: Padding = "center") -> Tensor:
    """Waveform [B, T] whose spectrum has the given magnitude and a phase made consistent by `iterations` projections.

    One block of frames is the plain algorithm; many small ones give the same result and stay in the processor's cache. `momentum` in [0, 1), 0 is the
    original algorithm.
    """
    if torch.is_grad_enabled() or n_fft % hop_length:
        return _whole(start, iterations, n_fft, hop_length, momentum / (1 + momentum), padding)
    return _in_place(start, iterations, n_fft, hop_length, float(momentum / (1 + momentum)), padding)


def _whole(start: Frames, iterations: int, n_fft: int, hop_length: int, weight: float | Tensor, padding: Padding) -> Tensor:
    """`griffin_lim` through which gradients flow, or with a window of no whole number of hops."""
    magnitudes: list[Tensor] = []

    def first() -> Iterator[Tensor]:
        for magnitude, spectrum in start.blocks(0, start.count):
            magnitudes.append(magnitude)
            yield unit(spectrum, magnitude)

    wave = overlap_add(first(), n_fft, hop_length, None, padding)
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


class _Piece:
    """Frames first..stop of the algorithm without gradients: the same operations in two stretches of waveform and a few buffers that stay, since on a CPU
    new memory costs as much as the mathematics. The stretches [B, (l - 1) * hop + n_fft] overlap those of the neighbours by n_fft - hop samples.
    """

    def __init__(self, start: Frames, first: int, stop: int, n_fft: int, hop_length: int, weight: float, padding: Padding):
        self.start, self.first, self.stop, self.n_fft, self.hop, self.weight = start, first, stop, n_fft, hop_length, weight
        self.left = frame_pads(n_fft, hop_length, padding)[0]
        self.right = (n_fft if padding == "center" else n_fft - hop_length) - self.left
        self.magnitudes: list[Tensor] = []
        self.before: list[Tensor] = []

    def begin(self) -> None:
        """The first guess, windowed and added up."""
        at = 0
        for magnitude, spectrum in self.start.blocks(self.first, self.stop):
            if not self.magnitudes:
                size = (self.stop - self.first - 1) * self.hop + self.n_fft
                self.said = magnitude.new_zeros(magnitude.shape[0], size)
                self.window = hann_window(self.n_fft, dtype=magnitude.dtype, device=magnitude.device)
            self.magnitudes.append(magnitude)
            self._say(unit(spectrum, magnitude), at)
            at += magnitude.shape[1]

    def _say(self, spectrum: Tensor, at: int) -> None:
        count = spectrum.shape[1]
        frames = torch.fft.irfft(spectrum, n=self.n_fft, dim=-1)
        add_frames_(self.said[:, at * self.hop : (at + count - 1) * self.hop + self.n_fft], frames, self.hop, self.window)

    def finish(self) -> Tensor:
        """The true samples of the stretch, normalised, as a view; what padding reached beyond them is left out."""
        front, back = self.left if self.first == 0 else 0, self.right if self.stop == self.start.count else 0
        true = self.said[:, front : self.said.shape[1] - back]
        level = inverse_envelope(self.n_fft, self.hop, None, self.start.count, (self.left, self.right), true.dtype, str(true.device))
        begin = 0 if self.first == 0 else self.first * self.hop - self.left
        return true.mul_(level[begin : begin + true.shape[1]])

    def project(self, turn: int) -> None:
        """One projection of a stretch whose sums are complete."""
        self.finish()
        if self.first == 0 or self.stop == self.start.count:
            reflect_edges_(self.said, self.left if self.first == 0 else 0, self.right if self.stop == self.start.count else 0)
        if turn == 0:
            longest = max(m.shape[1] for m in self.magnitudes)
            self.heard = torch.empty_like(self.said)
            self.windowed = self.said.new_empty(self.said.shape[0], longest, self.n_fft)
            self.gains = torch.zeros(self.said.shape[0], longest, self.n_fft // 2 + 1, dtype=self.said.dtype.to_complex(), device=self.said.device)
        self.heard, self.said = self.said, self.heard.zero_()
        frames = self.heard.unfold(-1, self.n_fft, self.hop)
        at = 0
        for i, magnitude in enumerate(self.magnitudes):
            count = magnitude.shape[1]
            spectrum = torch.fft.rfft(torch.mul(frames[:, at : at + count], self.window, out=self.windowed[:, :count]))  # [B, l, F]
            if self.weight != 0.0 and turn == 0:
                self.before.append(spectrum.clone())
            elif self.weight != 0.0:
                guess = spectrum.sub(self.before[i], alpha=self.weight)
                self.before[i], spectrum = spectrum, guess
            self._say(unit_(spectrum, magnitude, self.gains[:, :count]), at)
            at += count


def _in_place(start: Frames, iterations: int, n_fft: int, hop_length: int, weight: float, padding: Padding) -> Tensor:
    """`griffin_lim` without gradients, a piece of the frames a thread; after every step neighbours add up the samples that both have reached."""
    if padding == "center" and start.count == 1:  # spans no samples
        iterations = 0
    ranges = cut(start.count, min(share(start.count), max(1, start.count * hop_length // n_fft)))
    pieces = [_Piece(start, first, stop, n_fft, hop_length, weight, padding) for first, stop in ranges]
    run_all(_Piece.begin, pieces)
    _add_overlaps(pieces, n_fft - hop_length)
    for turn in range(iterations):
        run_all(lambda piece, turn=turn: piece.project(turn), pieces)  # type: ignore[misc]
        _add_overlaps(pieces, n_fft - hop_length)
    parts = [piece.finish() for piece in pieces]
    if len(parts) == 1:
        return parts[0].contiguous()
    kept = [part[:, : part.shape[1] - (n_fft - hop_length)] for part in parts[:-1]]
    return torch.cat([*kept, parts[-1]], 1)


def _add_overlaps(pieces: list[_Piece], samples: int) -> None:
    for one, other in itertools.pairwise(pieces):
        end, begin = one.said[:, one.said.shape[1] - samples :], other.said[:, :samples]
        end.copy_(begin.add_(end))
