"""Short-time Fourier transform and its inverse, with the two paddings of the field.

Equation: X[k, l] = sum_n w[n] x[n + l*hop - pad] exp(-2 pi i k n / n_fft); the inverse is the weighted overlap-add
x[n] = sum_l w[n - l*hop] irfft(X[:, l])[n - l*hop] / sum_l w[n - l*hop]^2 (Griffin and Lim, 1984).

`center`: reflect padding of n_fft/2 on both sides; T samples give L = 1 + T // hop frames (an odd n_fft: 1 + (T-1) // hop),
L frames give (L-1)*hop samples.
`same`: reflect padding of (n_fft - hop) split over both sides; T samples give L = T // hop frames, L frames give L*hop samples.
Departures: with an odd n_fft - hop, `same` puts the extra sample on the right, so the length is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wavespike.errors import AudioError

Padding = Literal["center", "same"]


@functools.lru_cache(maxsize=64)
def _hann(length: int, dtype: torch.dtype, device: str) -> Tensor:
    # never an inference tensor, even when first asked for in inference mode: it is shared by later training
    with torch.inference_mode(False):
        return torch.hann_window(length, dtype=torch.float64).to(dtype).to(device)


def hann_window(n_fft: int, win_length: int | None = None, *, dtype: torch.dtype = torch.float32,
                device: torch.device | str = "cpu") -> Tensor:
    """Periodic Hann window of `win_length` samples, centred in `n_fft` by zeros [n_fft]."""
    win_length = n_fft if win_length is None else win_length
    window = _hann(win_length, dtype, str(device))
    left = (n_fft - win_length) // 2
    return F.pad(window, (left, n_fft - win_length - left)) if win_length != n_fft else window


def _same_pad(n_fft: int, hop_length: int) -> tuple[int, int]:
    return (n_fft - hop_length) // 2, (n_fft - hop_length + 1) // 2


def frame_pads(n_fft: int, hop_length: int, padding: Padding) -> tuple[int, int]:
    """Samples of reflect padding left and right."""
    return (n_fft // 2, n_fft // 2) if padding == "center" else _same_pad(n_fft, hop_length)


def reflect_pad(x: Tensor, left: int, right: int) -> Tensor:
    """Reflect padding of the last axis [..., T] -> [..., left+T+right]; signals shorter than the padding are reflected again and again."""
    length = x.shape[-1]
    if max(left, right) < length:
        return F.pad(x.reshape(-1, 1, length), (left, right), mode="reflect").reshape(*x.shape[:-1], left + length + right)
    period = max(1, 2 * (length - 1))  # one sample: nothing to reflect, repeat it
    at = torch.arange(-left, length + right, device=x.device).remainder(period)
    return x[..., torch.minimum(at, period - at)] if length > 1 else x.expand(*x.shape[:-1], left + 1 + right)


def frame(x: Tensor, n_fft: int, hop_length: int, padding: Padding = "center") -> Tensor:
    """Overlapping frames [..., T] -> [..., L, n_fft], a view of the padded signal (no window yet).

    Raises AudioError when there is not a single frame.
    """
    if x.shape[-1] == 0:
        raise AudioError("expected at least one sample of audio, got none; check the input for emptiness")
    pads = frame_pads(n_fft, hop_length, padding)
    padded = reflect_pad(x, *pads)
    if padded.shape[-1] < n_fft:
        raise AudioError(f"expected at least {hop_length} samples for one frame of padding {padding!r}, got {x.shape[-1]}; pad the audio")
    return padded.unfold(-1, n_fft, hop_length)


def block_frames() -> int:
    """Frames a block: few enough for the cache without gradients, all in one with them (fewer, larger operations)."""
    return 1 << 30 if torch.is_grad_enabled() else 128


def frame_blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors [B, L, ...] along L into blocks of `block_frames` frames."""
    size = block_frames()
    for at in range(0, tensors[0].shape[1], size):
        yield tuple(t[:, at : at + size] for t in tensors)


def stft(x: Tensor, n_fft: int, hop_length: int, win_length: int | None = None, padding: Padding = "center") -> Tensor:
    """Complex spectrum [..., T] -> [..., n_fft//2+1, L] with a periodic Hann window, no normalisation.

    Raises AudioError when there is not a single frame.
    """
    window = hann_window(n_fft, win_length, dtype=x.dtype, device=x.device)
    # frames first, transform along the contiguous axis; the transposed result keeps that layout, and element-wise work on it never copies
    spectrum: Tensor = torch.fft.rfft(frame(x, n_fft, hop_length, padding) * window)
    return spectrum.transpose(-1, -2)


@functools.lru_cache(maxsize=256)
def inverse_envelope(n_fft: int, hop_length: int, win_length: int | None, n_frames: int, crop: tuple[int, int],
                     dtype: torch.dtype, device: str) -> Tensor:
    """1 / sum of the squared windows over the samples that are left when `crop` samples are cut from either end."""
    with torch.inference_mode(False):
        square = hann_window(n_fft, win_length, dtype=torch.float64, device="cpu").square()
        total = add_frames(square[None, :].expand(n_frames, -1), hop_length)
        total = total[crop[0] : total.shape[-1] - crop[1]]
        return total.clamp_min(1e-11).reciprocal().to(dtype).to(device)


def add_frames(frames: Tensor, hop_length: int, window: Tensor | None = None) -> Tensor:
    """[..., L, n_fft] -> [..., (L-1)*hop + n_fft], every frame multiplied by the window [n_fft] where there is one."""
    n_frames, n_fft = frames.shape[-2:]
    lead, size = frames.shape[:-2], (n_frames - 1) * hop_length + n_fft
    if n_fft % hop_length == 0:  # whole hops: add shifted blocks, several times faster than fold
        return add_frames_(frames.new_zeros(*lead, size), frames, hop_length, window)
    frames = frames if window is None else frames * window
    folded = F.fold(frames.reshape(-1, n_frames, n_fft).transpose(1, 2), (1, size), (1, n_fft), stride=(1, hop_length))
    return folded.reshape(*lead, size)


def add_frames_(out: Tensor, frames: Tensor, hop_length: int, window: Tensor | None = None) -> Tensor:
    """`add_frames` onto what `out` [..., (L-1)*hop + n_fft] holds; n_fft is a multiple of the hop."""
    n_frames, n_fft = frames.shape[-2:]
    ratio = n_fft // hop_length
    blocks = torch.unflatten(frames, -1, (ratio, hop_length))
    hops = torch.unflatten(out, -1, (n_frames + ratio - 1, hop_length))
    for r in range(ratio):
        part = hops[..., r : r + n_frames, :]
        if window is None:
            part += blocks[..., r, :]
        else:  # weighted and added in one pass
            part.addcmul_(blocks[..., r, :], window[r * hop_length : (r + 1) * hop_length])
    return out


def reflect_edges_(x: Tensor, left: int, right: int) -> Tensor:
    """`reflect_pad` in place: fill the first `left` and the last `right` samples of x [..., left+T+right] from the T between them."""
    length = x.shape[-1] - left - right
    if max(left, right) >= length:
        return x.copy_(reflect_pad(x[..., left : left + length].clone(), left, right))
    x[..., :left] = x[..., left + 1 : 2 * left + 1].flip(-1)
    x[..., left + length :] = x[..., left + length - 1 - right : left + length - 1].flip(-1)
    return x


def istft(spectrum: Tensor, n_fft: int, hop_length: int, win_length: int | None = None, padding: Padding = "center") -> Tensor:
    """Waveform [..., n_fft//2+1, L] -> [..., (L-1)*hop] (`center`) or [..., L*hop] (`same`)."""
    spectrum = spectrum.transpose(-1, -2)
    return overlap_add([spectrum], n_fft, hop_length, win_length, padding)


def overlap_add(blocks: Iterable[Tensor], n_fft: int, hop_length: int, win_length: int | None = None, padding: Padding = "center") -> Tensor:
    """Inverse STFT of a spectrum that comes in blocks of frames, each [..., l, n_fft//2+1] (frames first) -> waveform as `istft`.

    Blocks that are made, transformed and added one after another stay in the processor's cache.
    """
    pieces: list[Tensor] = []
    n_frames = 0
    total: Tensor | None = None
    for block in blocks:
        window = hann_window(n_fft, win_length, dtype=block.real.dtype, device=block.device)
        pieces.append(add_frames(torch.fft.irfft(block, n=n_fft, dim=-1), hop_length, window))
        n_frames += block.shape[-2]
    if len(pieces) == 1:
        total = pieces[0]
    else:
        total = pieces[0].new_zeros(*pieces[0].shape[:-1], (n_frames - 1) * hop_length + n_fft)
        at = 0
        for piece in pieces:
            total[..., at : at + piece.shape[-1]] += piece
            at += piece.shape[-1] - n_fft + hop_length
    crop = (n_fft // 2, n_fft - n_fft // 2) if padding == "center" else _same_pad(n_fft, hop_length)
    total = total[..., crop[0] : total.shape[-1] - crop[1]]
    if padding == "center":
        total = total[..., : (n_frames - 1) * hop_length]
        crop = (crop[0], (n_frames - 1) * hop_length + n_fft - crop[0] - total.shape[-1])
    return total * inverse_envelope(n_fft, hop_length, win_length, n_frames, crop, total.dtype, str(total.device))
