"""Files through a vocoder in constant memory: read, resample, features, decode, resample, write, all block by block.

Channels are items of a batch. The output is as long as the input (at the model's rate, or at the input's with `keep_rate`): the input is
padded with zeros to whole hops and the output cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavespike.errors import AudioError, FeatureError, UsageError
from wavespike.models.base import Vocoder
from wavespike.runtime.streaming import decode_blocks, resynthesise_blocks
from wavespike.signal.files import Reader, SampleFormat, Writer
from wavespike.signal.resample import Resampler, Samples, resampled_length

BLOCK_SAMPLES = 1 << 16
BLOCK_FRAMES = 256
WHOLE_LIMIT_S = 120.0
"""A model that cannot work by blocks takes inputs up to this length, in one piece."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """One output file."""

    input: str
    output: str
    rate_hz: int
    channels: int
    samples: int
    clipped: int

    @property
    def seconds(self) -> float:
        return self.samples / self.rate_hz


def streams(model: Vocoder[Any], condition: dict[str, Any], analysis: bool = True) -> bool:
    """Whether the model decodes (and with `analysis` computes features) by blocks."""
    try:
        model.stream(1, **condition)
        if analysis:
            model.feature_stream(1)
    except (UsageError, NotImplementedError):
        return False
    return True


@torch.inference_mode()
def resynthesise_file(model: Vocoder[Any], source: Path, target: Path, *, keep_rate: bool = False, sample_format: SampleFormat = "int16",
                      condition: dict[str, Any] | None = None, advance: Callable[[float], None] = lambda seconds: None) -> Written:
    """Copy-synthesis of a file of any rate and channel count. Raises AudioError, OutputError, UsageError; leaves no partial file."""
    model_hz, condition = model.sample_rate, condition or {}
    with Reader(source) as audio:
        by_blocks = streams(model, condition)
        if not by_blocks and (audio.frames is None or audio.frames > WHOLE_LIMIT_S * audio.rate_hz):
            raise AudioError(f"{source}: expected at most {WHOLE_LIMIT_S:.0f} s, because this model cannot work by blocks; cut the file or take another model")
        out_hz = audio.rate_hz if keep_rate else model_hz
        with Writer(target, out_hz, audio.channels, sample_format) as out:
            meter = _Meter(advance, audio.rate_hz)
            size = max(1, BLOCK_SAMPLES * audio.rate_hz // model_hz * 2 // (1 + audio.channels))
            blocks = _to_hops(meter.count(audio.blocks(size)), Resampler(audio.rate_hz, model_hz, audio.channels), model.hop_length)
            made = resynthesise_blocks(model, blocks, **condition) if by_blocks else iter([model(torch.cat(list(blocks), 1), **condition)])
            back = Resampler(model_hz, out_hz, audio.channels)
            for piece in made:
                # the model may give more than it was given only in the zeros that fill the last hop
                limit = meter.taken if keep_rate else resampled_length(meter.taken, audio.rate_hz, model_hz)
                block = back.push(piece.numpy())
                out.write(block[:, : limit - out.frames])
            limit = meter.taken if keep_rate else resampled_length(meter.taken, audio.rate_hz, model_hz)
            rest = back.flush()[:, : limit - out.frames]
            out.write(np.pad(rest, ((0, 0), (0, limit - out.frames - rest.shape[1]))))
    return Written(input=str(source), output=str(target), rate_hz=out_hz, channels=out.channels, samples=out.frames, clipped=out.clipped)


class _Meter:
    """Counts the input samples that have gone by."""

    def __init__(self, advance: Callable[[float], None], rate_hz: int):
        self.taken, self._advance, self._rate_hz = 0, advance, rate_hz

    def count(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        for block in blocks:
            self.taken += block.shape[1]
            yield block
            self._advance(block.shape[1] / self._rate_hz)


def _to_hops(blocks: Iterable[Samples], resampler: Resampler, hop_length: int) -> Iterator[Tensor]:
    """Blocks [C, n] at the model's rate, the last one filled with zeros so that the total is whole hops."""
    total = 0
    for block in blocks:
        ready = resampler.push(block)
        total += ready.shape[1]
        if ready.shape[1]:
            yield torch.from_numpy(ready)
    rest = resampler.flush()
    total += rest.shape[1]
    yield torch.from_numpy(np.pad(rest, ((0, 0), (0, -total % hop_length))))


@torch.inference_mode()
def vocode_file(model: Vocoder[Any], source: Path, target: Path, *, sample_format: SampleFormat = "int16",
                condition: dict[str, Any] | None = None, advance: Callable[[float], None] = lambda seconds: None) -> Written:
    """Features in a .npy or .npz file ([C, L] or [1, C, L]) to a mono waveform. Raises FeatureError, OutputError; leaves no partial file."""
    features = open_features(source, model.feature_channels, getattr(model, "other_bands", None))
    frames, seconds_a_frame = features.shape[1], model.hop_length / model.sample_rate
    condition = condition or {}
    by_blocks = streams(model, condition, analysis=False)
    if not by_blocks and frames * seconds_a_frame > WHOLE_LIMIT_S:
        raise FeatureError(f"{source}: expected at most {WHOLE_LIMIT_S:.0f} s of features, because this model cannot work by blocks; cut them or take another model")

    def blocks() -> Iterator[Tensor]:
        for start in range(0, frames, BLOCK_FRAMES if by_blocks else frames):
            part = np.array(features[:, start : start + (BLOCK_FRAMES if by_blocks else frames)], np.float32)
            if not np.isfinite(part).all():
                channel, frame = np.argwhere(~np.isfinite(part))[0]
                raise FeatureError(f"{source}: expected finite features, got {part[channel, frame]} in band {channel} of frame {start + frame}; check what made them")
            yield torch.from_numpy(part)[None]
            advance(part.shape[1] * seconds_a_frame)

    with Writer(target, model.sample_rate, 1, sample_format) as out:
        for piece in decode_blocks(model, blocks(), **condition) if by_blocks else (model.decode(block, **condition) for block in blocks()):
            out.write(piece.numpy())
        if out.frames == 0:
            raise FeatureError(f"{source}: expected enough frames for at least one sample, got {frames}; this model's padding needs more")
    return Written(input=str(source), output=str(target), rate_hz=model.sample_rate, channels=1, samples=out.frames, clipped=out.clipped)


def open_features(path: Path, channels: int, explain: Callable[[int], str] | None = None) -> Any:
    """Features [C, L] of a file, mapped into memory where the format allows. Raises FeatureError in one line. Nothing is unpickled.

    `explain` says what is wrong with another number of bands.
    """
    want = f"features [{channels}, frames] in a .npy or .npz file"
    if path.is_dir():
        raise FeatureError(f"{path}: expected {want}, got a folder; name a file in it")
    if not path.is_file():
        raise FeatureError(f"{path}: expected {want}, found nothing; check the path")
    if path.stat().st_size == 0:
        raise FeatureError(f"{path}: expected {want}, got an empty file (0 bytes); compute it again")
    try:
        data = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(data, np.lib.npyio.NpzFile):
            with data:
                data = data[_array_name(path, data.files, want)]
    except FeatureError:
        raise
    except Exception as error:  # NumPy raises ValueError, EOFError, OSError, zipfile.BadZipFile, struct.error, ... for damage
        raise FeatureError(f"{path}: expected {want}, got data that cannot be read as such ({error}); save it with numpy.save") from error
    if data.ndim == 3 and data.shape[0] == 1:
        data = data[0]
    if data.dtype.kind not in "fiu":
        raise FeatureError(f"{path}: expected {want} of numbers, got {data.dtype}; save them as float32")
    if data.ndim != 2 or data.shape[0] != channels:
        turned = data.ndim == 2 and data.shape[1] == channels
        if data.ndim == 2 and not turned and explain is not None:
            raise FeatureError(f"{path}: {explain(data.shape[0])}")
        hint = "transpose it" if turned else "one utterance a file, [bands, frames]" if data.ndim == 3 else "compute it with the model's own features(audio)"
        raise FeatureError(f"{path}: expected {want}, got an array of shape {list(data.shape)}; {hint}")
    if data.shape[1] == 0:
        raise FeatureError(f"{path}: expected {want} with at least one frame, got none; compute it again")
    return data


def _array_name(path: Path, names: list[str], want: str) -> str:
    if len(names) == 1:
        return names[0]
    known = [name for name in ("mel", "features") if name in names]
    if len(known) != 1:
        raise FeatureError(f"{path}: expected one array, or one named 'mel' or 'features', got {', '.join(names) or 'none'}; save {want}")
    return known[0]
