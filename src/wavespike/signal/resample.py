"""Resampling by soxr (linear phase, 20-bit quality), whole or in blocks.

Law: T samples at a Hz become floor(T * b / a + 1/2) samples at b Hz, at least one; blocks give the same samples as the whole, bit for bit.
"""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from wavespike.errors import AudioError

Samples = NDArray[np.float32]


def resampled_length(length: int, from_hz: int, to_hz: int) -> int:
    """Number of samples at `to_hz` of `length` samples at `from_hz`; at least one when there was one."""
    return max((2 * length * to_hz + from_hz) // (2 * from_hz), min(length, 1))


def resample(audio: Samples, from_hz: int, to_hz: int) -> Samples:
    """[..., T] at `from_hz` -> [..., floor(T * to_hz / from_hz + 1/2)] at `to_hz`. The same array when the rates agree."""
    if from_hz == to_hz:
        return audio
    stream = Resampler(from_hz, to_hz, int(np.prod(audio.shape[:-1], dtype=np.int64)))
    flat = audio.reshape(stream.channels, audio.shape[-1])
    out = np.concatenate([stream.push(flat), stream.flush()], axis=1)
    return out.reshape(*audio.shape[:-1], out.shape[-1])


class Resampler:
    """A session of resampling: blocks [C, n] in, blocks [C, m] out, the concatenation equal to `resample` of the whole."""

    def __init__(self, from_hz: int, to_hz: int, channels: int):
        if from_hz <= 0 or to_hz <= 0:
            raise AudioError(f"expected sampling rates above 0 Hz, got {from_hz} and {to_hz}; check the file's header")
        self.from_hz, self.to_hz, self.channels = from_hz, to_hz, channels
        self._taken = self._given = 0
        self._last: Samples = np.zeros((channels, 0), np.float32)
        try:
            self._stream = None if from_hz == to_hz else soxr.ResampleStream(from_hz, to_hz, channels, dtype="float32")
        except (ValueError, RuntimeError) as error:
            raise AudioError(f"cannot resample from {from_hz} Hz to {to_hz} Hz ({error}); bring the audio to a usual rate first") from error

    def push(self, block: Samples) -> Samples:
        """[C, n] -> what is ready by now [C, m], possibly of length 0."""
        self._taken += block.shape[1]
        self._last = block[:, -1:] if block.shape[1] else self._last
        if self._stream is None:
            return block
        return self._chunk(block, last=False)

    def flush(self) -> Samples:
        """End of input -> the rest [C, m]."""
        if self._stream is None or self._taken == 0:
            return np.zeros((self.channels, 0), np.float32)
        rest = self._chunk(np.zeros((self.channels, 0), np.float32), last=True)
        short = resampled_length(self._taken, self.from_hz, self.to_hz) - self._given
        if short > 0:  # a handful of samples can round to none: keep the signal alive with its last value
            rest = np.concatenate([rest, np.repeat(self._last, short, axis=1)], axis=1)
        return rest

    def _chunk(self, block: Samples, last: bool) -> Samples:
        assert self._stream is not None
        # soxr wants [n, C] in C order
        out = np.asarray(self._stream.resample_chunk(np.ascontiguousarray(block.T, np.float32), last=last), np.float32)
        out = np.ascontiguousarray(out.reshape(-1, self.channels).T)
        self._given += out.shape[1]
        return out
