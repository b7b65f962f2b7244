"""A diffusion vocoder by blocks: a chain of stages, one a sampling step, each on windows with its own context.

What flows is cut into hops: the features [B, C, l] and signals [B, hop, l], column l holding the samples of frame l to frame l + 1. A stage keeps the context
it needs, so a frame is computed about once a step whatever the chunks are, and the concatenated output is that of the whole. Memory is constant in the
length and grows with the steps, as does the delay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from wavespike.models.streaming import CheckedStream, SourceFilterBlocks
from wavespike.nn.heads import SourceFilterHead
from wavespike.nn.priors import EnergyPriorConfig, SpectralPriorConfig
from wavespike.signal.blocks import FrameQueue
from wavespike.signal.noise import counter_gaussian

if TYPE_CHECKING:
    from wavespike.models.specgrad import Plan, SpecGrad

BLOCK_FRAMES = 256
"""Least and about the most new frames that a stage computes at a time: context is computed again in every block."""

Render = Callable[[int, list[Tensor]], list[Tensor]]


def to_columns(x: Tensor, frames: int, hop_length: int) -> Tensor:
    """Waveform [B, T] -> [B, hop, frames], filled with zeros."""
    return torch.nn.functional.pad(x, (0, frames * hop_length - x.shape[-1])).reshape(x.shape[0], frames, hop_length).transpose(1, 2)


def to_wave(columns: Tensor, length: int) -> Tensor:
    """[B, hop, frames] -> the first `length` samples [B, T]."""
    return columns.transpose(1, 2).flatten(1)[:, :length]


class Stage:
    """Aligned columns [B, c_i, l] in, what `render` makes of them out, each column once and exact to `context` columns either side.

    `render(first, window)` is given the columns from number `first` on.
    """

    def __init__(self, context: int, render: Render, report: Callable[[int], None] = lambda columns: None):
        self.context, self.render, self.report, self.gather = context, render, report, BLOCK_FRAMES
        self.held: list[Tensor] | None = None
        self.base = self.done = 0  # number of the first held column, and of the first one whose result is not out yet

    def push(self, columns: list[Tensor], final: bool) -> list[Tensor] | None:
        """The next columns -> the results that are complete by now; None when there are none."""
        self.held = columns if self.held is None else [torch.cat([a, b], -1) for a, b in zip(self.held, columns, strict=True)]
        known = self.base + self.held[0].shape[-1]
        pieces: list[list[Tensor]] = []
        while True:
            ready = known if final else known - self.context
            count = min(ready - self.done, 2 * self.gather)
            if count <= 0 or (count < self.gather and not final):
                break
            start, stop = max(0, self.done - self.context), min(known, self.done + count + self.context)
            made = self.render(start, [t[..., start - self.base : stop - self.base] for t in self.held])
            pieces.append([t[..., self.done - start : self.done - start + count] for t in made])
            self.done += count
            self.report(count)
        drop = max(0, min(self.done - self.context, known) - self.base)
        self.held, self.base = [t[..., drop:] for t in self.held], self.base + drop
        return [torch.cat(parts, -1) for parts in zip(*pieces, strict=True)] if pieces else None


class SpecGradStream(CheckedStream):
    """Features [B, C, l] -> samples [B, t]."""

    def __init__(self, model: SpecGrad, plan: Plan, batch_size: int):
        super().__init__(batch_size, model.feature_channels)
        c, m = model.config, model.config.features
        self.model, self.plan, self.hop, self.centred = model, plan, m.hop_length, m.padding == "center"
        overlap = math.ceil(m.n_fft / m.hop_length)  # columns that one STFT and its inverse reach
        shaped = 1 if isinstance(c.prior, EnergyPriorConfig) else 0  # columns that the prior's filter reaches
        if isinstance(c.prior, SpectralPriorConfig):
            shaped = overlap * (2 * c.prior.refinements + 1) + c.prior.frames // 2
        self.guess = None
        if model.source is not None:
            # the blocks of a source-filter head drive any source with its pitch, sizes and call
            self.guess = SourceFilterBlocks(cast(SourceFilterHead, _AsHead(model.source)), batch_size)
            self.queues = [FrameQueue(), FrameQueue()]
            self.counts = [0, 0]
            self.tail: Tensor | None = None
        inside = model.denoiser.context_frames + (0 if c.space == "whitened" else shaped) + 1
        self.stages = [Stage(shaped + 1, self._start)]
        self.stages += [Stage(inside, self._step(number), self._report(number)) for number in range(len(plan.levels))]
        self.stages.append(Stage(shaped + overlap * (c.consistency_steps + 1) + 1, self._finish))
        guessed = 0 if self.guess is None else self.guess.delay + self.guess.lag_frames * self.hop
        self.delay = guessed + sum(stage.context + stage.gather for stage in self.stages) * self.hop

    def _report(self, number: int) -> Callable[[int], None]:
        progress = self.plan.progress
        return lambda columns: None if progress is None else progress(number + 1, columns * self.hop)

    def _samples(self, frames: int) -> int:
        """Samples of a window: centred frames span one hop fewer, also in a window that does not end the signal."""
        return (frames - self.centred) * self.hop

    def _fresh(self, first: int, length: int, like: Tensor) -> Callable[[int], Tensor]:
        return lambda channel: counter_gaussian(self.plan.seed, channel, first * self.hop, length, dtype=like.dtype, device=like.device).expand(like.shape[0], -1)

    def _start(self, first: int, window: list[Tensor]) -> list[Tensor]:
        """Features (and the guess) -> features, guess in the network's space, x."""
        features, frames = window[0], window[0].shape[-1]
        length = self._samples(frames)
        if length == 0:
            zero = features.new_zeros(features.shape[0], self.hop, frames)
            return [features, zero, zero, zero]
        prior = self.model.prior(features)
        guess: Tensor | None = None
        if len(window) > 1:
            guess = to_wave(window[1], length)
            guess = prior.whiten(guess) if self.model.config.space == "whitened" else guess
        x = self.model.begin(self.plan.levels[0], self._fresh(first, length, features)(0), guess, prior)
        guess = torch.zeros_like(x) if guess is None else guess
        return [features, to_columns(guess, frames, self.hop), to_columns(x, frames, self.hop), to_columns(torch.zeros_like(x), frames, self.hop)]

    def _step(self, number: int) -> Render:
        def render(first: int, window: list[Tensor]) -> list[Tensor]:
            features, guess, x, before = window
            frames = features.shape[-1]
            length = self._samples(frames)
            if length == 0:
                return window
            prior = self.model.prior(features)
            source = None if self.guess is None else to_wave(guess, length)
            x, signal = self.model.advance(self.plan, number, to_wave(x, length), features, prior, source, self._fresh(first, length, features),
                                           to_wave(before, length) if number else None)
            return [features, guess, to_columns(x, frames, self.hop), to_columns(signal, frames, self.hop)]

        return render

    def _finish(self, first: int, window: list[Tensor]) -> list[Tensor]:
        features, _, x, _ = window
        length = self._samples(features.shape[-1])
        if length == 0:
            return [x]
        return [to_columns(self.model.finish(to_wave(x, length), features, self.model.prior(features)), features.shape[-1], self.hop)]

    def _guessed(self, chunk: Tensor, final: bool) -> list[Tensor]:
        """Features with the guess that goes with them."""
        if self.guess is None:
            return [chunk]
        audio = self.guess.push(chunk.transpose(1, 2), chunk, final)
        audio = audio if self.tail is None else torch.cat([self.tail, audio], 1)
        whole = audio.shape[1] // self.hop
        self.tail = audio[:, whole * self.hop :]
        columns = to_columns(audio[:, : whole * self.hop], whole, self.hop)
        self.queues[0].put(chunk)
        self.queues[1].put(columns)
        self.counts = [self.counts[0] + chunk.shape[-1], self.counts[1] + whole]
        if final and self.centred and self.counts[1] < self.counts[0]:  # the last centred frame spans no samples
            missing = self.counts[0] - self.counts[1]
            self.queues[1].put(columns.new_zeros(columns.shape[0], self.hop, missing))
            self.counts[1] += missing
        ready = min(self.counts)
        self.counts = [n - ready for n in self.counts]
        return [queue.take(ready) for queue in self.queues]

    def process(self, chunk: Tensor, final: bool) -> Tensor:
        columns: list[Tensor] | None = self._guessed(chunk, final)
        empty = chunk.new_zeros(chunk.shape[0], 0)
        for stage in self.stages:
            if columns is None:
                if not final or stage.held is None:
                    return empty
                columns = [t[..., :0] for t in stage.held]
            columns = stage.push(columns, final)
        if columns is None:
            return empty
        audio = columns[0].transpose(1, 2).flatten(1)
        return audio[:, : audio.shape[1] - self.hop] if final and self.centred else audio


class _AsHead:
    """An `Excitation` under the names of a source-filter head."""

    def __init__(self, source: Any):
        self.source, self.pitch, self.mel = source, source.pitch, source.mel
        self.config = _Sizes(source.mel.n_fft, source.mel.hop_length, source.config.consistency_steps)

    def __call__(self, hidden: Tensor, features: Tensor, f0_hz: Tensor, voiced: Tensor, *, start_phase: Tensor, offset_samples: Tensor) -> Tensor:
        out: Tensor = self.source(features, f0_hz, voiced, start_phase=start_phase, offset_samples=offset_samples)
        return out


class _Sizes:
    def __init__(self, n_fft: int, hop_length: int, consistency_steps: int):
        self.n_fft, self.hop_length, self.consistency_steps = n_fft, hop_length, consistency_steps
