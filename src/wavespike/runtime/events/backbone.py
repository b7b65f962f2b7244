"""The spiking ConvNeXt backbone by events.

Frames are independent between the depthwise convolutions, so threads take ranges of frames with the context of all blocks around them and never wait
for each other. What a frame needs of dense work (convolution, norm, neurons) is fused with the products of its spikes, and stays in the cache.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wavespike.errors import UsageError
from wavespike.nn.conv import Conv1d
from wavespike.nn.norm import AdaLayerNorm, Norm
from wavespike.nn.spiking import SpikingConvNeXtBackbone, SpikingConvNeXtBlock, readout_weights
from wavespike.runtime.compiled.compile import FRAMES
from wavespike.runtime.events import kernels
from wavespike.spikes.neurons import NeuronConfig, decay_of
from wavespike.threads import run_all, share, spread

Array = np.ndarray[Any, Any]
Precision = Literal["float32", "int8"]

DENSE_FROM = 0.9
"""A frame whose active inputs exceed this share of inputs x steps goes through a dense product; at 80 % and one step rows are still ahead (docs/events.md)."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Weights [out, in] as rows of inputs: `rows` [in, out] in float32 or int8, with one scale an output."""

    rows: Array
    scale: Array
    bias: Array
    sum_type: Array
    """An empty array of the type in which rows are summed."""

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, precision: Precision) -> Rows:
        """Packed weights; int8 rounds to 127 levels either side of zero of each output's largest weight."""
        w = weight.detach().float().numpy().T  # [in, out]
        b = np.zeros(w.shape[1], np.float32) if bias is None else bias.detach().float().numpy().copy()
        if precision == "float32":
            return cls(np.ascontiguousarray(w), np.ones(w.shape[1], np.float32), b, np.empty(0, np.float32))
        scale = np.maximum(np.abs(w).max(0), 1e-30) / 127
        rows = np.ascontiguousarray(np.rint(w / scale).astype(np.int8))
        wide = rows.astype(np.int64)
        largest = max(int(np.maximum(wide, 0).sum(0).max()), int(np.maximum(-wide, 0).sum(0).max()))  # all inputs of one sign active
        return cls(rows, scale.astype(np.float32), b, np.empty(0, np.int16 if largest < 2**15 else np.int32))


def neuron_numbers(config: NeuronConfig, w: Tensor | None) -> Array:
    """(a, b, c, threshold, reset) of h = a v + b x + c."""
    decay = decay_of(config, w.detach() if w is not None else None)
    if decay is None:
        a, b, c = 1.0, 1.0, 0.0
    else:
        k = float(decay)
        a, b, c = 1.0 - k, k if config.decay_input else 1.0, k * config.rest
    return np.array([a, b, c, config.threshold, config.rest], np.float32)


class BlockRows:
    """One block's weights as the kernel wants them, and the block by events. Holds copies: the block may be trained on without harm to a session."""

    def __init__(self, block: SpikingConvNeXtBlock, precision: Precision):
        c = block.config
        self.block, self.config, self.left = block, c, block.dwconv.left
        self.taps = np.ascontiguousarray(block.dwconv.weight.detach().float().numpy()[:, 0].T)  # [7, C]
        assert block.dwconv.bias is not None
        self.tap_bias = block.dwconv.bias.detach().float().numpy().copy()
        self.alpha = np.float32(block.alpha.item()) if c.temporal_shift else np.float32(0)
        self.first, self.second = (neuron_numbers(n.config, n.w) for n in (block.neuron1, block.neuron2))
        if c.mlp == "silenced":
            self.second[3] = np.inf
        self.soft = c.neuron.reset == "soft"
        self.inward = Rows.of(block.pwconv1.weight, block.pwconv1.bias, precision)
        self.outward = Rows.of(block.pwconv2.weight, block.pwconv2.bias, precision)
        self.gamma = block.gamma.detach().float().numpy().copy()
        self.plain_norm = None if isinstance(block.norm, AdaLayerNorm) else norm_rows(block.norm, None, 1)[0]

    def limits(self, dense_from: float) -> tuple[int, int]:
        """Most active inputs, and hidden units, of a frame that goes by events."""
        c = self.config
        return int(dense_from * c.time_steps * c.dim), int(dense_from * c.time_steps * c.intermediate_dim)

    def run(self, window: Array, norm: tuple[Array, Array], dense_from: float, out: Array | None = None, mixed: Array | None = None) -> tuple[Array, int]:
        """Window [W >= 7, S, C] of one item -> its next block's frames [W - 6, S, C], and how many of them took the dense product.

        `out` and `mixed` [W, S, C] are memory to use; they must not overlap the window.
        """
        c = self.config
        frames = window.shape[0] - 6
        if c.temporal_shift:
            mixed = np.empty_like(window) if mixed is None else mixed
            kernels.mix_steps(window, self.alpha, c.shifted_channels, mixed)
        else:
            mixed = window
        most_in, most_hidden = self.limits(dense_from)
        reachable = most_in < c.dim or most_hidden < c.intermediate_dim
        out = np.empty((frames, c.time_steps, c.dim), np.float32) if out is None else out
        deferred = np.empty(frames if reachable else 0, np.int64)
        kept = np.empty((len(deferred), c.time_steps, c.dim), np.float32)
        waiting, _, _ = kernels.block(
            window, mixed, self.taps, self.tap_bias, *norm, self.first, self.second, self.soft, self.inward.rows, self.inward.scale, self.inward.bias,
            c.activation == "gelu", self.outward.rows, self.outward.scale, self.outward.bias, self.gamma, c.amplitude_shortcut, self.left, self.inward.sum_type, most_in,
            most_hidden, out, deferred, kept)
        if waiting:
            at = deferred[:waiting]
            with torch.no_grad():
                residual = self.block._mlp(torch.from_numpy(kept[:waiting]).transpose(0, 1)[:, None])  # [S, 1, n, C]
            out[at] = window[at + self.left] + residual[:, 0].transpose(0, 1).numpy()
        return out, waiting


def stamp_of(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """Changes when one of the tensors is written to or replaced. Tensors made in inference mode do not tell and count as constant."""
    return tuple(n for t in tensors for n in (t.data_ptr(), 0 if t.is_inference() else t._version))


def norm_rows(norm: torch.nn.Module, condition: Tensor | None, batch: int) -> list[tuple[Array, Array]]:
    """Gain and shift [C] of each item of the batch."""
    if isinstance(norm, AdaLayerNorm):
        assert condition is not None
        ids = condition.expand(batch)
        return [(norm.scale.weight[i].detach().float().numpy().copy(), norm.shift.weight[i].detach().float().numpy().copy()) for i in ids.tolist()]
    if condition is not None:
        cast(Norm, norm)(torch.zeros(1, 1, cast(Norm, norm).normalized_shape[0]), condition)  # its own refusal
    plain = cast(Norm, norm)
    return [(plain.weight.detach().float().numpy().copy(), plain.bias.detach().float().numpy().copy())] * batch


class FrameConv1d(Conv1d):
    """A convolution of stride 1 whose frames are all summed in the same order: a stream and the whole agree to the last bit, and no neuron sees them differ.

    It shares the parameters of the one it was made from.
    """

    _packed: tuple[tuple[int, ...], Array, Array] | None

    @classmethod
    def of(cls, conv: Conv1d) -> FrameConv1d:
        """The same layer with this class's way to run it."""
        new = cls.__new__(cls)
        new.__dict__.update(conv.__dict__)
        new._packed = None
        return new

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        frames = input.shape[-1] - self.span
        asked = torch.is_grad_enabled() and (input.requires_grad or self.training)
        if asked or input.device.type != "cpu" or input.dtype != torch.float32 or self.groups != 1 or self.dilation[0] != 1 or self.stride[0] != 1 or frames < 1:
            return super()._conv_forward(input, weight, bias)
        stamp = stamp_of([weight] if bias is None else [weight, bias])
        if self._packed is None or self._packed[0] != stamp:
            rows = weight.detach().permute(2, 1, 0).reshape(-1, self.out_channels).contiguous().numpy().copy()  # [K C_in, C]
            self._packed = stamp, rows, np.zeros(self.out_channels, np.float32) if bias is None else bias.detach().numpy().copy()
        fours = FRAMES * math.ceil(frames / FRAMES)
        x = np.zeros((input.shape[0], fours + self.span, self.in_channels), np.float32)
        x[:, : input.shape[-1]] = input.detach().transpose(1, 2).numpy()
        out = np.empty((input.shape[0], fours, self.out_channels), np.float32)
        for item, frame in zip(x, out, strict=True):
            kernels.convolve(item, self._packed[1], self._packed[2], frame)
        return torch.from_numpy(out[:, :frames]).transpose(1, 2)


def fits(backbone: SpikingConvNeXtBackbone) -> bool:
    """Whether the kernels know this backbone: it has spiking layers, few enough steps for the bits of a mask, and lies on the CPU in float32."""
    c, weight = backbone.config, backbone.embed.weight
    return c.mlp != "absent" and c.time_steps <= 30 and weight.device.type == "cpu" and weight.dtype == torch.float32


class EventBackbone(SpikingConvNeXtBackbone):
    """A spiking backbone whose blocks run by events. It shares parameters, names and hooks with the one it was made from.

    Where events are of no use it is the dense one: in training mode, for an input that asks for its gradient, while a hook watches a neuron, on other
    devices and types.
    """

    precision: Precision
    dense_from: float
    _packed: tuple[tuple[int, ...], list[BlockRows]] | None

    @classmethod
    def of(cls, backbone: SpikingConvNeXtBackbone, precision: Precision = "float32", dense_from: float = DENSE_FROM) -> EventBackbone:
        """The same layers (not copies) with this class's way to run them."""
        if precision not in ("float32", "int8"):
            raise UsageError(f"expected a precision of float32, int8, got {precision!r}")
        new = cls.__new__(cls)
        new.__dict__.update(backbone.__dict__)
        new._modules = {**backbone._modules, "embed": FrameConv1d.of(backbone.embed)}
        new.precision, new.dense_from, new._packed = precision, dense_from, None
        new.packed()
        return new

    def packed(self) -> list[BlockRows]:
        """The blocks' rows, made again when a weight has changed."""
        stamp = stamp_of([t for b in self.blocks for t in (b.pwconv1.weight, b.pwconv2.weight, b.gamma, b.dwconv.weight)])
        if self._packed is None or self._packed[0] != stamp:
            self._packed = stamp, [BlockRows(b, self.precision) for b in self.blocks]
        return self._packed[1]

    def _dense(self, x: Tensor) -> bool:
        if self.training or (torch.is_grad_enabled() and x.requires_grad) or x.device.type != "cpu" or x.dtype != torch.float32 or not fits(self):
            return True
        watched = [n for b in self.blocks for n in (b.neuron1, b.neuron2, b.pwconv1, b.pwconv2)] + ([self.readout] if self.config.readout == "spikes" else [])
        return any(n._forward_hooks or n._forward_pre_hooks for n in watched)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        if self._dense(x):
            return super().forward(x, condition)

        def work() -> Tensor:
            u = self._start(self.embed(x), condition).transpose(1, 2).contiguous().numpy()  # [B, L, C]
            batch, frames, _ = u.shape
            norms = [norm_rows(b.norm, condition, batch) for b in self.blocks]
            out = torch.empty(batch, frames, self.config.output_dim)
            span = self._context()
            parts = share(batch * frames)
            pieces = max(1, math.ceil(parts / batch))
            cuts = [frames * i // pieces for i in range(pieces + 1)]
            jobs = [(i, a, b) for i in range(batch) for a, b in itertools.pairwise(cuts)]

            def one(job: tuple[int, int, int]) -> None:
                item, start, stop = job
                first, last = max(0, start - span[0]), min(frames, stop + span[1])
                y = self._blocks(u[item, first:last], [n[item] for n in norms], first == 0, last == frames)
                skip = 0 if first == 0 else start - first - span[0]
                begin = skip + (start if first == 0 else 0)
                out[item, start:stop] = self._finish_frames(torch.from_numpy(y[None, begin : begin + stop - start]))[0]

            run_all(one, jobs)
            return out

        with torch.no_grad():
            return spread(work, x, self)

    def _context(self) -> tuple[int, int]:
        """Frames of past and future that the blocks see (without the embedding)."""
        span = 6 * self.config.num_layers
        return (span, 0) if self.config.causal else (span // 2, span // 2)

    def _blocks(self, u: Array, norms: list[tuple[Array, Array]], at_start: bool, at_end: bool) -> Array:
        """Frames [L, C] of one item after the embedding -> [l, S, C]; at true edges the convolutions see zeros, at others frames are lost."""
        c = self.config
        left = 6 if c.causal else 3
        before, after = left if at_start else 0, 6 - left if at_end else 0
        buffers = [np.zeros((before + len(u) + after, c.time_steps, c.dim), np.float32) for _ in range(2)]
        mixed = np.empty_like(buffers[0]) if c.temporal_shift else None
        window, spare = buffers
        window[before : before + len(u)] = u[:, None]
        for rows, norm in zip(self.packed(), norms, strict=True):
            frames = len(window) - 6
            whole, spare = spare, buffers[0] if spare is buffers[1] else buffers[1]
            rows.run(window, norm, self.dense_from, whole[before : before + frames], None if mixed is None else mixed[: len(window)])
            whole[before + frames : before + frames + after] = 0
            window = whole[: before + frames + after]
        return window[before : len(window) - after]

    def _finish_frames(self, u: Tensor) -> Tensor:
        """Read-out and norm of [B, L, S, C] -> [B, L, output_dim]."""
        if self.config.readout == "spikes":
            gain, shift = norm_rows(self.final_layer_norm, None, 1)[0]
            out = torch.empty(*u.shape[:2], self.config.output_dim)
            numbers, soft = neuron_numbers(self.readout.config, self.readout.w), self.config.neuron.reset == "soft"
            for frames, spikes in zip(u.contiguous().numpy(), out.numpy(), strict=True):
                kernels.read_out(frames, gain, shift, numbers, soft, spikes)
            return out
        weights = readout_weights(self.config.time_steps, self.config.readout_decay, u)
        summed: Tensor = self.final_layer_norm((u * weights[:, None]).sum(2))
        return summed

    def step(self, x: Tensor, state: list[Tensor], condition: Tensor | None = None, final: bool = False) -> tuple[Tensor, list[Tensor]]:
        if self._dense(x):
            return super().step(x, state, condition, final)
        with torch.no_grad():
            h, after_embed = self.embed.step(x, state[0], final)
            u = self._start(h, condition)
            after = [after_embed]
            batch, steps = x.shape[0], self.config.time_steps
            frames = u.transpose(1, 2)[:, :, None].expand(-1, -1, steps, -1)  # [B, l, S, C]
            right = 0 if self.config.causal else 3
            for rows, s in zip(self.packed(), state[1:], strict=True):
                past = (s[None] if s.ndim == 3 else s).permute(1, 3, 0, 2)  # the dense state [S, B, C, l] (first block: [B, C, l])
                window = torch.cat([past.expand(-1, -1, steps, -1), frames], 1)
                keep = window[:, max(0, window.shape[1] - 6) :]
                after.append(keep[:, :, 0].transpose(1, 2) if s.ndim == 3 else keep.permute(2, 0, 3, 1))
                if final and right:
                    window = F.pad(window, (0, 0, 0, 0, 0, right))
                if window.shape[1] < 7:
                    frames = window[:, :0]
                    continue
                norm = norm_rows(rows.block.norm, condition, batch)
                windows = window.contiguous().numpy()
                frames = torch.from_numpy(np.stack([rows.run(windows[i], norm[i], self.dense_from)[0] for i in range(batch)]))
            return self._finish_frames(frames), after
