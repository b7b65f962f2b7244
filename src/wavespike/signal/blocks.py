"""Transforms block by block: what a session keeps so that any cutting of its input gives the output of the whole.

Each class is fed with `push(block, final)`, blocks of any length including 0, and answers with what is final by then. The concatenated answers equal
`stft`, `istft`, `imdct` and `griffin_lim` of the concatenated input, the reflected and normalised edges of the true signal included. Memory is constant.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavespike.errors import UsageError
from wavespike.signal.griffin_lim import unit
from wavespike.signal.mdct import imdct_frames, mdct_crop
from wavespike.signal.stft import Padding, add_frames, frame_pads, hann_window, reflect_pad, stft


class BlockOverlapAdd:
    """Windowed frames [B, l, N] -> samples; the whole of L frames gives (L-1)*hop (`center`) or L*hop samples (`same`).

    With `square_window` [N] the sum is divided by the overlap-added square window, as the inverse STFT does.
    """

    def __init__(self, frame_length: int, hop_length: int, crop_left: int, padding: Padding, square_window: Tensor | None = None):
        self.length, self.hop, self.crop, self.padding = frame_length, hop_length, crop_left, padding
        self.square = square_window
        self.frames = self.sent = 0
        self.tail: Tensor | None = None  # sums that later frames still reach, [B, N - hop]
        self.weight = torch.zeros(frame_length - hop_length, dtype=torch.float64)
        self.held: Tensor | None = None  # final samples that only the total length may cut off

    @property
    def delay(self) -> int:
        """Samples by which the output lags behind frames * hop."""
        return max(self.crop, self.hop) if self.padding == "center" else self.crop

    def _normalised(self, total: Tensor, weight: Tensor) -> Tensor:
        return total if self.square is None else total * weight.clamp_min(1e-11).reciprocal().to(total)

    def push(self, frames: Tensor, final: bool = False) -> Tensor:
        hop, count = self.hop, frames.shape[1]
        if self.tail is None or self.held is None:
            self.tail = frames.new_zeros(frames.shape[0], self.length - hop)
            self.held = frames.new_zeros(frames.shape[0], 0)
        if count:
            total = add_frames(frames, hop)
            total[:, : self.length - hop] += self.tail
            weight = self.weight
            if self.square is not None:
                weight = add_frames(self.square[None].expand(count, -1), hop)
                weight[: self.length - hop] += self.weight
                self.weight = weight[count * hop :]
                weight = weight[: count * hop]
            done, self.tail = self._normalised(total[:, : count * hop], weight), total[:, count * hop :]
            done = done[:, max(0, min(count * hop, self.crop - self.frames * hop)) :]
            self.held = torch.cat([self.held, done], 1)
            self.frames += count
        whole = max(0, self.frames - 1) * hop if self.padding == "center" else self.frames * hop
        if final:
            rest = self._normalised(self.tail, self.weight)
            self.held = torch.cat([self.held, rest[:, max(0, self.crop - self.frames * hop) :]], 1)
        take = max(0, whole - self.sent) if final else max(0, min(self.held.shape[1], whole - self.sent))
        out, self.held = self.held[:, :take], self.held[:, take:]
        self.sent += out.shape[1]
        return out


class BlockISTFT:
    """Spectrum [B, n_fft//2+1, l] -> samples; `istft` by blocks."""

    def __init__(self, n_fft: int, hop_length: int, padding: Padding = "center"):
        self.n_fft = n_fft
        square = hann_window(n_fft, dtype=torch.float64).square()
        self.sum = BlockOverlapAdd(n_fft, hop_length, frame_pads(n_fft, hop_length, padding)[0], padding, square)
        self.delay = self.sum.delay

    def push(self, spectrum: Tensor, final: bool = False) -> Tensor:
        window = hann_window(self.n_fft, dtype=spectrum.real.dtype, device=spectrum.device)
        if spectrum.shape[-1]:
            frames = torch.fft.irfft(spectrum.transpose(-1, -2), n=self.n_fft, dim=-1) * window
        else:
            frames = spectrum.real.new_zeros(spectrum.shape[0], 0, self.n_fft)
        return self.sum.push(frames, final)


class BlockIMDCT:
    """MDCT coefficients [B, N, l] -> samples; `imdct` by blocks."""

    def __init__(self, frame_length: int, padding: Padding = "center"):
        self.frame_length = frame_length
        self.sum = BlockOverlapAdd(frame_length, frame_length // 2, mdct_crop(frame_length, padding)[0], padding)
        self.delay = self.sum.delay

    def push(self, coefficients: Tensor, final: bool = False) -> Tensor:
        if coefficients.shape[-1]:
            frames = imdct_frames(coefficients, self.frame_length)
        else:
            frames = coefficients.new_zeros(coefficients.shape[0], 0, self.frame_length)
        return self.sum.push(frames, final)


class BlockSTFT:
    """Samples [B, t] -> complex frames [B, n_fft//2+1, l]; `stft` by blocks, reflected at the true edges only."""

    def __init__(self, n_fft: int, hop_length: int, padding: Padding = "center", win_length: int | None = None):
        self.n_fft, self.hop, self.padding, self.win = n_fft, hop_length, padding, win_length
        self.pads = frame_pads(n_fft, hop_length, padding)
        self.kept: Tensor | None = None
        self.lag_samples = n_fft - self.pads[0]
        """Frame l is complete once sample l * hop + lag_samples - 1 is there."""
        self.started = False
        self.ahead = 0  # samples of `kept` before the next frame

    def push(self, samples: Tensor, final: bool = False) -> Tensor:
        kept = samples if self.kept is None else torch.cat([self.kept, samples], 1)
        self.kept = kept
        left, right = self.pads
        if not self.started:
            if kept.shape[1] <= max(left, right):
                if final and kept.shape[1]:  # shorter than its own reflection: the whole at once
                    return stft(kept, self.n_fft, self.hop, self.win, self.padding)
                return self._frames(kept[:, :0])
            kept = torch.cat([kept[:, 1 : left + 1].flip(1), kept], 1)
            self.started = True
        if final:
            kept = reflect_pad(kept, 0, right)
        frames = self._frames(kept[:, self.ahead :])
        position = self.ahead + frames.shape[-1] * self.hop
        drop = max(0, min(position, kept.shape[1] - right - 1))  # the reflection at the end still needs right + 1 samples
        self.kept, self.ahead = kept[:, drop:], position - drop
        return frames

    def _frames(self, padded: Tensor) -> Tensor:
        if padded.shape[1] < self.n_fft:
            wide = torch.complex128 if padded.dtype == torch.float64 else torch.complex64
            return torch.zeros(padded.shape[0], self.n_fft // 2 + 1, 0, dtype=wide, device=padded.device)
        window = hann_window(self.n_fft, self.win, dtype=padded.dtype, device=padded.device)
        spectrum: Tensor = torch.fft.rfft(padded.unfold(-1, self.n_fft, self.hop) * window)
        return spectrum.transpose(-1, -2)


class FrameQueue:
    """Frames [..., l] that wait for others: `put` at the end, `take` from the front."""

    def __init__(self) -> None:
        self.held: Tensor | None = None

    def put(self, frames: Tensor) -> None:
        self.held = frames if self.held is None else torch.cat([self.held, frames], -1)

    def take(self, count: int) -> Tensor:
        if self.held is None:
            raise UsageError(f"expected {count} waiting frames, got none; put some first")
        out, self.held = self.held[..., :count], self.held[..., count:]
        return out


class BlockGriffinLim:
    """Magnitude [B, F, l] and start [B, F, l] -> spectrum whose inverse is `griffin_lim`; every projection computed once."""

    def __init__(self, iterations: int, n_fft: int, hop_length: int, *, momentum: float | Tensor = 0.99, padding: Padding = "center"):
        self.weight = momentum / (1 + momentum)
        self.inverse = [BlockISTFT(n_fft, hop_length, padding) for _ in range(iterations)]
        self.forward = [BlockSTFT(n_fft, hop_length, padding) for _ in range(iterations)]
        self.magnitude = [FrameQueue() for _ in range(iterations)]
        self.before = [FrameQueue() for _ in range(iterations)]
        lags = (-(-(f.lag_samples + i.delay) // hop_length) - 1 for i, f in zip(self.inverse, self.forward, strict=True))
        self.delay_frames = sum(lags)

    def push(self, magnitude: Tensor, start: Tensor, final: bool = False) -> Tensor:
        spectrum = unit(start, magnitude)
        before: Tensor | None = None
        for index, (inverse, forward) in enumerate(zip(self.inverse, self.forward, strict=True)):
            self.magnitude[index].put(magnitude)
            if before is not None:
                self.before[index].put(before)
            projected = forward.push(inverse.push(spectrum, final), final)
            count = projected.shape[-1]
            magnitude = self.magnitude[index].take(count)
            guess = projected if before is None else projected - self.weight * self.before[index].take(count)
            spectrum, before = unit(guess, magnitude), projected
        return spectrum
