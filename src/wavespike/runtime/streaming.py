"""Long signals in constant memory: features and waveform block by block, equal to the whole within rounding.

    for audio in resynthesise_blocks(model, blocks):      # blocks of samples [B, n], of any lengths
        sink.write(audio)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from wavespike.errors import UsageError
from wavespike.models.base import Stream, Vocoder


def decode_blocks(model: Vocoder[Any], blocks: Iterable[Tensor], **condition: Any) -> Iterator[Tensor]:
    """Blocks of features [B, C, l] of any lengths -> pieces of the waveform [B, t]; concatenated they equal `decode` of the whole."""
    session: Stream | None = None
    for block in blocks:
        if session is None:
            session = model.stream(batch_size=block.shape[0], **condition)
        out = session.push(block)
        if out.shape[1]:
            yield out
    if session is not None:
        yield session.flush()


def decode_long(model: Vocoder[Any], features: Tensor, chunk_frames: int = 256, **condition: Any) -> Iterator[Tensor]:
    """`decode` of long features [B, C, L] piece by piece, `chunk_frames` at a time."""
    if chunk_frames < 1:
        raise UsageError(f"expected chunk_frames of at least 1, got {chunk_frames}")
    return decode_blocks(model, torch.split(features, chunk_frames, dim=-1), **condition)


def feature_blocks(model: Vocoder[Any], blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Blocks of samples [B, n] of any lengths -> blocks of features [B, C, l]; concatenated they equal `features` of the whole."""
    session: Stream | None = None
    for block in blocks:
        if session is None:
            session = model.feature_stream(batch_size=block.shape[0])
        out = session.push(block)
        if out.shape[-1]:
            yield out
    if session is not None:
        out = session.flush()
        if out.shape[-1]:
            yield out


def resynthesise_blocks(model: Vocoder[Any], blocks: Iterable[Tensor], **condition: Any) -> Iterator[Tensor]:
    """Copy-synthesis of blocks of samples [B, n] at `model.sample_rate`; concatenated the pieces equal `model(audio)` of the whole.

    Memory does not grow with the length. A block of a few seconds is a good size: 1 << 16 samples or so.
    Raises UsageError for a model that cannot work by blocks.
    """
    return decode_blocks(model, feature_blocks(model, blocks), **condition)
