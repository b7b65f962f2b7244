"""Streaming vocoders: chunks of features of any length in, samples out, and their concatenation equals `decode` of the whole.

How it is exact. Convolutions keep the inputs they still need and compute every frame once; a centred network is late by its look-ahead. Inverse
transforms keep their overlap. What only makes sense on a stretch of frames (a source-filter head with its projections) is computed on windows that
carry the head's context on both sides, cut to the frames that no artificial edge can reach; the true edges of the signal are inside the first and the
last window and keep their padding.

`stream.delay` is the algorithmic latency in samples: after n frames (n large), n * hop_length - delay samples are out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from wavespike.errors import FeatureError, UsageError
from wavespike.models.base import Stream, check_audio
from wavespike.nn.heads import ISTFTHead, SourceFilterHead
from wavespike.nn.imdct_heads import IMDCTHead
from wavespike.nn.pitch import PitchEstimator
from wavespike.signal.blocks import BlockGriffinLim, BlockIMDCT, BlockISTFT, BlockSTFT, FrameQueue
from wavespike.signal.griffin_lim import scaled
from wavespike.signal.mel import MelConfig, log_mel_of_spectrum
from wavespike.signal.source import integrate_pitch

WINDOW_FRAMES = 512
"""Most frames that one window puts out; longer chunks are cut, so that memory stays bounded."""
PITCH_REACH_FRAMES = 3
"""Neighbours that `PitchEstimator.fill` looks at, either side."""


class CheckedStream(Stream):
    """A session with its checks: chunks [B, C, l] of the right shape, finite, none after `flush`."""

    delay: int = 0
    """Algorithmic latency in samples."""

    def __init__(self, batch_size: int, channels: int):
        if batch_size < 1:
            raise UsageError(f"expected batch_size of at least 1, got {batch_size}")
        self.batch_size, self.channels = batch_size, channels
        self._empty: Tensor | None = None
        self._done = False

    def process(self, chunk: Tensor, final: bool) -> Tensor:
        """The work: a chunk (possibly of length 0) -> what is final by now."""
        raise NotImplementedError

    def check(self, chunk: Tensor) -> None:
        """Raises FeatureError for a chunk that does not fit."""
        want = f"features [{self.batch_size}, {self.channels}, frames]"
        if chunk.ndim != 3 or chunk.shape[:2] != (self.batch_size, self.channels):
            raise FeatureError(f"expected {want}, got {list(chunk.shape)}; open the stream with the right batch_size")
        if not bool(torch.isfinite(chunk).all()):
            raise FeatureError(f"expected finite {want}, got NaN or Inf; check what made them")

    @torch.no_grad()
    def push(self, chunk: Tensor) -> Tensor:
        if self._done:
            raise UsageError("expected no chunk after flush, got one; open a new stream")
        self.check(chunk)
        self._empty = chunk[..., :0]
        return self.process(chunk, False)

    @torch.no_grad()
    def flush(self) -> Tensor:
        if self._done:
            raise UsageError("expected one flush, got a second; open a new stream")
        self._done = True
        if self._empty is None:  # nothing ever came
            return torch.zeros(self.batch_size, 0)
        return self.process(self._empty, True)


class FrameWindows:
    """Aligned streams of frames -> samples, rendered on windows with context.

    `render(first_frame, tensors [..., w])` gives the samples of a window, hop_length a frame (one hop fewer for `center`).
    """

    def __init__(self, context_frames: tuple[int, int], hop_length: int, render: Callable[..., Tensor]):
        self.left, self.right = context_frames
        self.right = max(1, self.right)  # `center` frames end at their middle: the hop after a frame needs the next one
        self.hop, self.render = hop_length, render
        self.held: list[Tensor] | None = None
        self.base = self.done = 0  # frame number of held[..., 0], first frame whose hop is not out yet

    @property
    def delay(self) -> int:
        return self.right * self.hop

    def push(self, frames: list[Tensor], final: bool) -> Tensor:
        self.held = frames if self.held is None else [torch.cat([a, b], -1) for a, b in zip(self.held, frames, strict=True)]
        out: list[Tensor] = []
        known = self.base + self.held[0].shape[-1]
        while self.done < (known if final else known - self.right):
            until = min(self.done + WINDOW_FRAMES, known if final else known - self.right)
            start, stop = max(0, self.done - self.left), min(until + self.right, known)
            if final and stop == known and known - until <= self.right:
                until = known
            samples = self.render(start, *(t[..., start - self.base : stop - self.base] for t in self.held))
            out.append(samples[:, (self.done - start) * self.hop : (until - start) * self.hop])
            self.done = until
        drop = max(0, min(self.done - self.left, known) - self.base)
        self.held, self.base = [t[..., drop:] for t in self.held], self.base + drop
        return torch.cat(out, 1) if out else frames[0].new_zeros(frames[0].shape[0], 0)


class WindowStream(CheckedStream):
    """A session over any decoder of finite receptive field: `decode(features [B, C, w]) -> [B, samples]` on windows with context.

    It recomputes the context for every push: good for long chunks; networks that can, stream by `step`.
    """

    def __init__(self, decode: Callable[[Tensor], Tensor], context_frames: tuple[int, int], hop_length: int, channels: int, batch_size: int = 1):
        super().__init__(batch_size, channels)
        self.windows = FrameWindows(context_frames, hop_length, lambda _, features: decode(features))
        self.delay = self.windows.delay

    def process(self, chunk: Tensor, final: bool) -> Tensor:
        return self.windows.push([chunk], final)


class Backbone(Protocol):
    """What a backbone needs to stream: [B, C, l] -> [B, m, dim]."""

    @property
    def context_frames(self) -> tuple[int, int]: ...

    def initial_state(self, batch_size: int) -> Any: ...

    def step(self, x: Tensor, state: Any, condition: Tensor | None = None, final: bool = False) -> tuple[Tensor, Any]: ...


class HeadBlocks(Protocol):
    """A head by blocks: hidden frames that are complete by now and the features that have come -> samples."""

    delay: int
    """Samples, counted from the hidden frames."""
    lag_frames: int
    """Frames that the head itself waits for beyond its features."""
    hidden_lag_frames: int
    """Frames that it waits for beyond its hidden frames."""

    def push(self, hidden: Tensor, features: Tensor, final: bool) -> Tensor: ...


class ISTFTBlocks:
    """`ISTFTHead` by blocks, its consistency projections too."""

    lag_frames = hidden_lag_frames = 0

    def __init__(self, head: ISTFTHead):
        c = head.config
        self.head, self.features = head, FrameQueue()
        self.projections = BlockGriffinLim(c.consistency_steps, c.n_fft, c.hop_length, padding=c.padding)
        self.inverse = BlockISTFT(c.n_fft, c.hop_length, c.padding)
        self.delay = self.projections.delay_frames * c.hop_length + self.inverse.delay

    def push(self, hidden: Tensor, features: Tensor, final: bool) -> Tensor:
        self.features.put(features)
        magnitude, phase = self.head.spectrum(hidden, self.features.take(hidden.shape[1]))
        start = torch.complex(torch.cos(phase), torch.sin(phase))
        spectrum = self.projections.push(magnitude, start, final) if self.head.config.consistency_steps else scaled(start, magnitude)
        return self.inverse.push(spectrum, final)


class IMDCTBlocks:
    """`IMDCTHead` by blocks."""

    lag_frames = hidden_lag_frames = 0

    def __init__(self, head: IMDCTHead):
        self.head = head
        self.inverse = BlockIMDCT(head.config.mdct_frame_len, head.config.padding)
        self.delay = self.inverse.delay

    def push(self, hidden: Tensor, features: Tensor, final: bool) -> Tensor:
        audio = self.inverse.push(self.head.coefficients(hidden), final)
        return audio.clamp(-1.0, 1.0) if self.head.config.clip_audio else audio


class SourceFilterBlocks:
    """`SourceFilterHead` by blocks: pitch computed once a frame, its phase carried on, the rest on windows with the head's context."""

    def __init__(self, head: SourceFilterHead, batch_size: int):
        self.head = head
        c = head.config
        # a source frame sees half a window and the next pitch; every projection, and the last overlap-add, all frames that overlap one
        context = math.ceil(c.n_fft / 2 / c.hop_length) + 1 + (math.ceil(c.n_fft / c.hop_length) - 1) * (c.consistency_steps + 1)
        self.windows = FrameWindows((context, context), c.hop_length, self._render)
        self.delay = self.windows.delay
        own = head.pitch if isinstance(head.pitch, PitchEstimator) else None
        self.lag_frames = 0 if own is None else own.backbone.context_frames[1] + PITCH_REACH_FRAMES
        self.hidden_lag_frames = PITCH_REACH_FRAMES if own is None else 0
        self.state: list[Tensor] = [] if own is None else own.backbone.initial_state(batch_size)
        self.logits: Tensor | None = None  # [B, bins + 1, l], from frame `base` on
        self.base = self.known = 0
        self.last: tuple[Tensor, Tensor] | None = None  # pitch and phase of the last frame
        self.waiting = [FrameQueue() for _ in range(5)]
        self.counts = [0] * 5

    def _pitch(self, hidden: Tensor, features: Tensor, final: bool) -> tuple[Tensor, Tensor, Tensor]:
        """New frames of pitch in hertz, voicing and phase, each [B, l], exact: no artificial edge is near."""
        pitch, rate = self.head.pitch, self.head.mel.sample_rate
        if isinstance(pitch, PitchEstimator):
            own, self.state = pitch.backbone.step(features.to(pitch.out.weight.dtype), self.state, None, final)
            logits, voicing = pitch.split(own)
        else:
            logits, voicing = self.head.hear(hidden, features)
        out = torch.cat([logits, voicing[..., None]], -1).transpose(1, 2)
        self.logits = out if self.logits is None else torch.cat([self.logits, out], -1)
        end = self.base + self.logits.shape[-1]
        until = end if final else max(self.known, end - PITCH_REACH_FRAMES)
        if until == self.known:
            none = out.new_zeros(features.shape[0], 0)
            return none, none, none.double()
        window = self.logits.transpose(1, 2)
        f0, voiced = pitch.decode(window[..., :-1], window[..., -1])
        new = slice(self.known - self.base, until - self.base)
        f0, voiced = f0[:, new], voiced[:, new]
        if self.last is None:
            phase = integrate_pitch(f0, self.head.config.hop_length, rate, voiced=voiced)
        else:
            heard = torch.cat([torch.ones_like(voiced[:, :1]), voiced], 1)
            phase = integrate_pitch(torch.cat([self.last[0], f0], 1), self.head.config.hop_length, rate, self.last[1], heard)[:, 1:]
        self.last = f0[:, -1:], phase[:, -1]
        self.known = until
        drop = max(0, until - PITCH_REACH_FRAMES - self.base)
        self.logits, self.base = self.logits[..., drop:], self.base + drop
        return f0, voiced, phase

    def push(self, hidden: Tensor, features: Tensor, final: bool) -> Tensor:
        new = [hidden.transpose(1, 2), features, *self._pitch(hidden, features, final)]
        for queue, frames in zip(self.waiting, new, strict=True):
            queue.put(frames)
        self.counts = [n + frames.shape[-1] for n, frames in zip(self.counts, new, strict=True)]
        ready = min(self.counts)
        self.counts = [n - ready for n in self.counts]
        return self.windows.push([queue.take(ready) for queue in self.waiting], final)

    def _render(self, start: int, hidden: Tensor, features: Tensor, f0_hz: Tensor, voiced: Tensor, phase: Tensor) -> Tensor:
        c = self.head.config
        offset = torch.full((hidden.shape[0],), start * c.hop_length, dtype=torch.int64, device=hidden.device)
        audio: Tensor = self.head(hidden.transpose(1, 2), features, f0_hz, voiced, start_phase=phase[:, 0], offset_samples=offset)
        return audio


def head_blocks(head: torch.nn.Module, batch_size: int) -> HeadBlocks:
    """The block form of a head. Raises UsageError for a head without one."""
    if isinstance(head, ISTFTHead):
        return ISTFTBlocks(head)
    if isinstance(head, IMDCTHead):
        return IMDCTBlocks(head)
    if isinstance(head, SourceFilterHead):
        return SourceFilterBlocks(head, batch_size)
    raise UsageError(f"expected a head that streams, got {type(head).__name__}; use WindowStream")


class BackboneStream(CheckedStream):
    """A session of backbone and head, [B, C, l] -> [B, t]."""

    def __init__(self, backbone: Backbone, head: torch.nn.Module, hop_length: int, channels: int, batch_size: int = 1, condition: Tensor | None = None):
        super().__init__(batch_size, channels)
        self.backbone, self.condition = backbone, condition
        self.state = backbone.initial_state(batch_size)
        self.head = head_blocks(head, batch_size)
        self.delay = max(backbone.context_frames[1] + self.head.hidden_lag_frames, self.head.lag_frames) * hop_length + self.head.delay

    def process(self, chunk: Tensor, final: bool) -> Tensor:
        hidden, self.state = self.backbone.step(chunk, self.state, self.condition, final)
        return self.head.push(hidden, chunk, final)


class MelStream(CheckedStream):
    """Audio [B, t] -> log-mel [B, n_mels, l] by blocks, equal to `log_mel` of the whole. `delay` is in samples of look-ahead."""

    def __init__(self, config: MelConfig, batch_size: int = 1):
        super().__init__(batch_size, 1)
        self.config = config
        self.transform = BlockSTFT(config.n_fft, config.hop_length, config.padding, config.win_length)
        self.delay = self.transform.lag_samples

    def check(self, chunk: Tensor) -> None:
        if chunk.ndim == 2 and chunk.shape[1] == 0 and chunk.shape[0] == self.batch_size:
            return
        check_audio(chunk)
        if chunk.shape[0] != self.batch_size:
            raise UsageError(f"expected audio [{self.batch_size}, samples], got {list(chunk.shape)}; open the stream with the right batch_size")

    def flush(self) -> Tensor:
        if self._empty is None:
            self._done = True
            return torch.zeros(self.batch_size, self.config.n_mels, 0)
        return super().flush()

    def process(self, chunk: Tensor, final: bool) -> Tensor:
        return log_mel_of_spectrum(self.transform.push(chunk, final), self.config)
