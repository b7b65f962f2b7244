"""Spiking recurrent layers (SpArch's) and their read-out by events: input and recurrent products add the rows of what fired, one call a chunk.

Layers keep their class's interface, so networks, streams and recorders work on them as they are. Bidirectional layers and delayed synapses compute their
input densely and their recurrence by events.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import torch
from scipy.fft import rfft
from torch import Tensor, nn

from wavespike.errors import FeatureError
from wavespike.models.sparch import SNN, SpArch, SpArchStream
from wavespike.nn.recurrent import ALPHA_RANGE, DelayedLinear, LayerState, MaskedBatchNorm, MaskedLayerNorm, RecurrentLayer, SpikingReadout
from wavespike.runtime.events import kernels
from wavespike.runtime.events.backbone import stamp_of
from wavespike.signal.filterbank import EPS, FilterbankConfig, frame_count, mel_triangles, povey_window
from wavespike.spikes.adaptive import State

Array = np.ndarray[Any, Any]

DENSE_INPUT_FROM = 0.5
"""Inputs of which more than this share is not zero go through PyTorch's product when there are many of them (front-end features, for example) ..."""
MANY_ROWS = 8
"""... that is, from so many rows (steps x items) on."""


def numbers(t: Tensor) -> Array:
    return np.ascontiguousarray(t.detach().float().numpy()).copy()


@dataclasses.dataclass(frozen=True)
class Linear:
    """norm(W x + bias) with W as rows of inputs."""

    rows: Array
    bias: Array
    kind: int
    gain: Array
    shift: Array
    epsilon: np.float32

    @classmethod
    def of(cls, linear: nn.Linear, norm: nn.Module | None) -> Linear:
        rows = numbers(linear.weight.T)
        n = rows.shape[1]
        bias = np.zeros(n, np.float32) if linear.bias is None else numbers(linear.bias)
        gain, shift = np.ones(n, np.float32), np.zeros(n, np.float32)
        if isinstance(norm, MaskedBatchNorm):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            with torch.no_grad():
                scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
                return cls(rows, bias, 1, numbers(scale), numbers(norm.bias.double() - norm.running_mean.double() * scale), np.float32(0))
        if isinstance(norm, MaskedLayerNorm):
            return cls(rows, bias, 2, numbers(norm.weight), numbers(norm.bias), np.float32(norm.eps))
        return cls(rows, bias, 0, gain, shift, np.float32(0))

    def __call__(self, x: Array) -> Array:
        """x [S, B, F] -> [S, B, H]."""
        out = np.empty((*x.shape[:2], self.rows.shape[1]), np.float32)
        kernels.drive(x, self.rows, self.bias, self.kind, self.gain, self.shift, self.epsilon, out)
        return out


@dataclasses.dataclass(frozen=True)
class Cells:
    """The neurons of a layer."""

    alpha: Array
    beta: Array
    a: Array
    b: Array
    recurrent: Array
    recurrent_sum: Array
    threshold: np.float32
    adaptive: bool
    symplectic: bool

    @classmethod
    def of(cls, layer: RecurrentLayer) -> Cells:
        with torch.no_grad():
            n = layer.neuron()
        none = np.zeros(layer.hidden_size, np.float32)
        V = np.zeros((0, layer.hidden_size), np.float32) if n.V is None else numbers(n.V)
        beta, a, b = (none if t is None else numbers(t) for t in (n.beta, n.a, n.b))
        return cls(numbers(n.alpha), beta, a, b, V, V.sum(0, dtype=np.float64).astype(np.float32), np.float32(n.threshold), n.beta is not None, n.symplectic)

    def advance(self, current: Array, u: Array, s: Array, w: Array) -> Array:
        """current [S, B, H] -> spikes [S, B, H]; the state u, s, w [B, H] is advanced in place."""
        out = np.empty_like(current)
        kernels.scan(current, self.recurrent, self.recurrent_sum, self.alpha, self.beta, self.a, self.b, self.threshold, self.adaptive, self.symplectic,
                     u, s, w, out)
        return out

    def __call__(self, current: Array, state: State) -> tuple[Array, State]:
        """current [S, B, H] and state -> spikes and the next state."""
        u, s = (t.detach().numpy().copy() for t in (state.u, state.s))
        w = np.zeros_like(u) if state.w is None else state.w.detach().numpy().copy()
        out = self.advance(current, u, s, w)
        return out, State(u=torch.from_numpy(u), s=torch.from_numpy(s), w=torch.from_numpy(w) if self.adaptive else None)


def dense_here(module: nn.Module, x: Tensor) -> bool:
    """Whether a layer must compute as it is: training mode, an input that asks for a gradient, another device or type."""
    return module.training or x.device.type != "cpu" or x.dtype != torch.float32 or (torch.is_grad_enabled() and x.requires_grad)


class EventLayer(RecurrentLayer):
    """A spiking `RecurrentLayer` by events, sharing the parameters of the one it was made from."""

    _packed: tuple[tuple[int, ...], Linear | None, Cells] | None

    @classmethod
    def of(cls, layer: RecurrentLayer) -> EventLayer:
        """The same layer (no copy) with this class's way to run it."""
        new = cls.__new__(cls)
        new.__dict__.update(layer.__dict__)
        new._modules, new._packed = dict(layer._modules), None
        new.packed()
        return new

    def packed(self) -> tuple[Linear | None, Cells]:
        """Rows and neurons, made again when a parameter has changed."""
        stamp = stamp_of([*self.parameters(), *self.buffers()])
        if self._packed is None or self._packed[0] != stamp:
            linear = None if isinstance(self.W, DelayedLinear) else Linear.of(cast(nn.Linear, self.W), cast("nn.Module | None", self.norm))
            self._packed = stamp, linear, Cells.of(self)
        return self._packed[1], self._packed[2]

    def _run(self, x: Tensor, state: LayerState, mask: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, LayerState]:
        if len(x) == 0 or dense_here(self, x):
            return super()._run(x, state, mask, lengths)
        linear, _ = self.packed()
        if linear is None or self.bidirectional:
            with torch.no_grad():
                return super()._run(x, state, mask, lengths)  # and then `_scan`
        rows = x.shape[0] * x.shape[1]
        with torch.no_grad():
            if rows >= MANY_ROWS and float(torch.count_nonzero(x)) > DENSE_INPUT_FROM * x.numel():
                return super()._run(x, state, mask, lengths)  # and then `_scan`
            return self._spikes(linear(x.contiguous().numpy()), state)

    def _scan(self, drive: Tensor, state: State) -> tuple[Tensor, State]:
        if dense_here(self, drive):
            return super()._scan(drive, state)
        out, after = self.packed()[1](drive.detach().contiguous().numpy(), state)
        return torch.from_numpy(out), after

    def _spikes(self, drive: Array, state: LayerState) -> tuple[Tensor, LayerState]:
        out, after = self.packed()[1](drive, cast(State, state.cell))
        return torch.from_numpy(out), LayerState(cell=after, past=state.past)


class EventReadout(SpikingReadout):
    """A `SpikingReadout` by events."""

    _packed: tuple[tuple[int, ...], Linear, Array] | None

    @classmethod
    def of(cls, readout: SpikingReadout) -> EventReadout:
        """The same layer (no copy) with this class's way to run it."""
        new = cls.__new__(cls)
        new.__dict__.update(readout.__dict__)
        new._modules, new._packed = dict(readout._modules), None
        return new

    def packed(self) -> tuple[Linear, Array]:
        """Rows and decays, made again when a parameter has changed."""
        stamp = stamp_of([*self.parameters(), *self.buffers()])
        if self._packed is None or self._packed[0] != stamp:
            self._packed = stamp, Linear.of(self.W, self.norm), numbers(self.alpha.detach().clamp(*ALPHA_RANGE))
        return self._packed[1], self._packed[2]

    def potentials(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if len(x) == 0 or dense_here(self, x):
            return super().potentials(x, state, mask)
        linear, alpha = self.packed()
        current, u = linear(x.contiguous().numpy()), state.detach().numpy().copy()
        kernels.integrate(current, alpha, u)
        return torch.from_numpy(current), torch.from_numpy(u)


class EventSpArch(SpArch):
    """A `SpArch` whose layers go by events and whose streams leave out everything between them."""

    def stream(self, batch_size: int = 1, **condition: Any) -> SpArchStream:
        net, front = self.net, self.config.features
        plain = isinstance(net, SNN) and isinstance(front, FilterbankConfig) and not self.training
        if not plain or self.config.bidirectional or not all(isinstance(n, EventLayer) and n.packed()[0] is not None for n in cast(SNN, net).layers):
            return super().stream(batch_size, **condition)
        return EventStream(self, batch_size)


class EventStream(SpArchStream):
    """`SpArchStream` with the whole way from samples to potentials in compiled code; its state is arrays that only it sees."""

    def __init__(self, model: SpArch, batch_size: int):
        super().__init__(model, batch_size)
        net = cast(SNN, model.net)
        assert self.front is not None
        self.filters = Filters(self.front)
        self.layers = [cast(EventLayer, layer).packed() for layer in net.layers]
        self.readout = cast(EventReadout, net.readout).packed()
        self.cells = []
        for s in self.state[:-1]:
            cell = cast(State, s.cell)
            u, spikes = numbers(cell.u), numbers(cell.s)
            self.cells.append((u, spikes, np.zeros_like(u) if cell.w is None else numbers(cell.w)))
        self.potential = numbers(cast(Tensor, self.state[-1].cell))
        self.samples = np.zeros((batch_size, 0), np.float32)
        self.rows = np.zeros((batch_size, 0, model.feature_channels), np.float32)
        self.sums = np.zeros((batch_size, len(model.labels)), np.float32)

    def push(self, chunk: Tensor) -> Tensor:
        if chunk.ndim != 2 or chunk.shape[0] != self.batch_size:
            raise FeatureError(f"expected audio [{self.batch_size}, samples], got {list(chunk.shape)}")
        assert self.front is not None
        self.heard_samples += chunk.shape[1]
        self.samples = np.concatenate([self.samples, chunk.detach().cpu().float().numpy()], 1)
        count = frame_count(self.samples.shape[1], self.front)
        if count:
            self.rows = np.concatenate([self.rows, self.filters(self.samples, count)], 1)
            self.samples = self.samples[:, count * self.front.hop_length :]
            n = self.model.config.frames_per_step
            steps = self.rows.shape[1] // n
            if steps:
                x = np.ascontiguousarray(self.rows[:, : steps * n].reshape(self.batch_size, steps, -1).transpose(1, 0, 2))
                self.rows = self.rows[:, steps * n :]
                self._potentials(x)
        return self.logits

    def _potentials(self, x: Array) -> None:
        """Input [S, B, F] -> the sums so far."""
        for (linear, cells), state in zip(self.layers, self.cells, strict=True):
            assert linear is not None
            x = cells.advance(linear(x), *state)
        linear, alpha = self.readout
        current = linear(x)
        kernels.integrate(current, alpha, self.potential)
        kernels.add_scores(current, self.model.config.logits == "summed-softmax", self.sums)
        self.steps += len(x)

    @property
    def logits(self) -> Tensor:
        total = torch.from_numpy(self.sums.copy())
        return total / max(1, self.steps) if self.model.config.logits == "mean-potential" else total

    def flush(self) -> Tensor:
        if self.steps == 0 and self.heard_samples:
            assert self.front is not None
            least = self.front.frame_length_samples + (self.model.config.frames_per_step - 1) * self.front.hop_length
            return self.push(torch.zeros(self.batch_size, max(0, least - self.heard_samples)))
        return self.logits


class Filters:
    """`wavespike.signal.filterbank.filterbank` for short chunks: [B, T] -> [B, L, num_mel_bins]."""

    def __init__(self, config: FilterbankConfig):
        self.config = config
        self.window = numbers(povey_window(config.frame_length_samples))
        triangles = numbers(mel_triangles(config).T)  # [mels, bins]
        self.triangles = triangles
        filled = triangles > 0
        self.first = filled.argmax(1).astype(np.int64)
        self.last = np.where(filled.any(1), filled.shape[1] - filled[:, ::-1].argmax(1), self.first).astype(np.int64)

    def __call__(self, samples: Array, count: int) -> Array:
        c = self.config
        frames = np.zeros((samples.shape[0], count, c.n_fft), np.float32)
        kernels.cut_frames(np.ascontiguousarray(samples), c.hop_length, np.float32(c.preemphasis), self.window, frames)
        spectrum = rfft(frames)
        out = np.empty((samples.shape[0], count, c.num_mel_bins), np.float32)
        kernels.log_energies(spectrum, self.triangles, self.first, self.last, np.float32(EPS), out)
        return out
