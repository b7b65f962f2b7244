"""Lapped frames for causal transforms: windows that overlap only their neighbours, zeros before the signal and after it.

Frame l ends with hop l: it sees the samples l*hop - overlap .. (l+1)*hop - 1 with overlap = frame_length - hop. T samples give ceil(T / hop) frames,
L frames give L*hop samples, of which the last `overlap` lack the next frame and fade out. The window w rises over the overlap of frame_length - hop samples as a sine, is 1 between, and falls alike, so that
w[n]^2 + w[n + hop]^2 = 1 there: windowing twice and adding gives the signal back (Princen and Bradley, 1986).
An output sample needs input up to frame_length - 1 samples ahead, no more than the frame itself lasts.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wavespike.errors import UsageError
from wavespike.signal.blocks import BlockOverlapAdd
from wavespike.signal.stft import add_frames


@functools.lru_cache(maxsize=32)
def _window(frame_length: int, hop_length: int, dtype: torch.dtype, device: str) -> Tensor:
    if not hop_length < frame_length <= 2 * hop_length:
        raise UsageError(f"expected a frame of more than one and at most two hops ({hop_length} samples), got {frame_length}")
    overlap = frame_length - hop_length
    with torch.inference_mode(False):  # shared by later training
        rise = torch.sin(0.5 * math.pi * (torch.arange(overlap, dtype=torch.float64) + 0.5) / overlap)
        return torch.cat([rise, torch.ones(hop_length - overlap, dtype=torch.float64), rise.flip(0)]).to(dtype).to(device)


def lapped_window(frame_length: int, hop_length: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """The power-complementary window [frame_length]."""
    return _window(frame_length, hop_length, dtype, str(device))


def lapped_frames(x: Tensor, frame_length: int, hop_length: int) -> Tensor:
    """Waveform [..., T] -> frames [..., ceil(T / hop), frame_length], not windowed."""
    return F.pad(x, (frame_length - hop_length, -x.shape[-1] % hop_length)).unfold(-1, frame_length, hop_length)


def overlap_lapped(frames: Tensor, hop_length: int) -> Tensor:
    """Windowed frames [..., L, frame_length] -> waveform [..., L * hop]."""
    return add_frames(frames, hop_length)[..., frames.shape[-1] - hop_length :]


class BlockLappedFrames:
    """Samples [B, t] -> frames [B, l, frame_length]; `lapped_frames` by blocks."""

    def __init__(self, frame_length: int, hop_length: int):
        self.length, self.hop = frame_length, hop_length
        self.kept: Tensor | None = None

    def push(self, samples: Tensor, final: bool = False) -> Tensor:
        overlap = self.length - self.hop
        kept = F.pad(samples, (overlap, 0)) if self.kept is None else torch.cat([self.kept, samples], -1)
        if final:
            kept = F.pad(kept, (0, (overlap - kept.shape[-1]) % self.hop))
        count = max(0, (kept.shape[-1] - self.length) // self.hop + 1)
        self.kept = kept[:, count * self.hop :]
        return kept.unfold(-1, self.length, self.hop)[:, :count] if count else kept.new_zeros(kept.shape[0], 0, self.length)


class BlockOverlapLapped:
    """Windowed frames [B, l, frame_length] -> samples; `overlap_lapped` by blocks."""

    def __init__(self, frame_length: int, hop_length: int):
        self.sum = BlockOverlapAdd(frame_length, hop_length, frame_length - hop_length, "same")

    def push(self, frames: Tensor, final: bool = False) -> Tensor:
        return self.sum.push(frames, final)
