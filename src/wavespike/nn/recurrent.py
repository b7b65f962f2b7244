"""One recurrent layer for the eight kinds of SpArch (Bittar and Garner, 2022) and two more.

Equation: x -> drop(scan(norm(W x))), with `scan` a spiking neuron (LIF, adLIF, RLIF, RadLIF, SE-adLIF; `wavespike.spikes.adaptive`) or a dense cell:
    MLP    y_t = sigma(x_t)
    RNN    y_t = sigma(x_t + V y_{t-1})
    LiGRU  z_t = sigma(xz_t + Vz y_{t-1}),  c_t = relu(x_t + V y_{t-1}),  y_t = z_t y_{t-1} + (1 - z_t) c_t     (Ravanelli et al., 2018)
    GRU    and r_t = sigma(xr_t + Vr y_{t-1}),  c_t = tanh(x_t + V (r_t y_{t-1}))                               (Cho et al., 2014)
Departures: padding enters neither the norm nor the rates; rates are counted before dropout (published: after it, scaled); the state starts at zero unless
`initial_state` is `random`; a bidirectional layer reverses each item inside its own length. Options beyond the paper: SE-adLIF, delays, shared time constants.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavespike.errors import ConfigError, UsageError, nearest
from wavespike.spikes.adaptive import Neuron, State, initial_state, leaky_integrate, scan, zero_diagonal
from wavespike.spikes.surrogate import SurrogateConfig

NeuronType = Literal["LIF", "adLIF", "RLIF", "RadLIF", "SE-adLIF"]
CellType = Literal["MLP", "RNN", "LiGRU", "GRU"]

ALPHA_RANGE = (math.exp(-1 / 5), math.exp(-1 / 25))
BETA_RANGE = (math.exp(-1 / 30), math.exp(-1 / 120))
A_RANGE, B_RANGE = (-1.0, 1.0), (0.0, 2.0)
SE_SCALE = 120.0
"""SE-adLIF: a in 0..1 and b in 0..2 are multiplied by this (Baronig et al., 2024)."""

GATES: dict[str, str] = {"MLP": "", "RNN": "", "LiGRU": "z", "GRU": "zr"}
RECURRENT = ("RLIF", "RadLIF", "RNN", "LiGRU", "GRU")
ADAPTIVE = ("adLIF", "RadLIF", "SE-adLIF")
SPIKING = ("LIF", "adLIF", "RLIF", "RadLIF", "SE-adLIF")
KINDS = (*SPIKING, *GATES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerState:
    """What one layer remembers between chunks: the cell's state and, with delays, the past inputs [B, F, D - 1]."""

    cell: State | Tensor | None
    past: Tensor | None = None


def reverse_padded(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Time-reverse [S, B, C], each item inside its own length [B]; padding stays behind."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device)[:, None]  # [S, 1]
    index = torch.where(steps < lengths, lengths - 1 - steps, steps)  # [S, B]
    return x.gather(0, index[..., None].expand_as(x))


def padding_mask(lengths: Tensor | None, steps: int) -> Tensor | None:
    """True where a step is real, [S, B]; None without padding."""
    if lengths is None or bool((lengths == steps).all()):
        return None
    return torch.arange(steps, device=lengths.device)[:, None] < lengths


class MaskedBatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the rows of [S, B, C] that `mask` [S, B] names; all rows without one. A single row, which has no variance, takes the running one."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None or not self.training:
            return self._rows(x.flatten(0, 1)).view_as(x)
        return torch.zeros_like(x).index_put((mask,), self._rows(x[mask]))

    def _rows(self, rows: Tensor) -> Tensor:
        if self.training and len(rows) < 2:
            return F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(rows)


class MaskedLayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over C of [S, B, C]; rows are independent, so the mask changes nothing."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x)


def make_sequence_norm(name: str, size: int) -> MaskedBatchNorm | MaskedLayerNorm | None:
    """`batchnorm` (momentum 0.05), `layernorm`, anything else: none (as SpArch)."""
    if name == "batchnorm":
        return MaskedBatchNorm(size, momentum=0.05)
    return MaskedLayerNorm(size) if name == "layernorm" else None


class DelayedLinear(nn.Linear):
    """Linear map with a learnable delay a synapse (DCLS; Hammouamri et al., "Learning delays in spiking neural networks", 2023).

    Equation: y_t = sum_d K_d x_{t-d}, K_d[o, i] = W[o, i] g(d - p[o, i]) / sum_d g, g a Gaussian of width `sigma_frames`, p in 0..max_delay.
    In evaluation every p is rounded to a whole frame and the Gaussian becomes one tap, as published.
    Departures: positions are clamped as they are used, and their width does not shrink unless `sigma_frames` is lowered by the caller.
    """

    def __init__(self, in_features: int, out_features: int, max_delay_frames: int, bias: bool = False):
        super().__init__(in_features, out_features, bias=bias)
        self.max_delay_frames = max_delay_frames
        self.P = nn.Parameter(torch.rand(out_features, in_features) * max_delay_frames)
        self.sigma_frames = max(0.5, max_delay_frames / 4)

    def kernel(self) -> Tensor:
        """K, [out, in, max_delay + 1]."""
        taps = torch.arange(self.max_delay_frames + 1, device=self.P.device, dtype=self.P.dtype)
        p = self.P.clamp(0, self.max_delay_frames)[..., None]
        if self.training:
            g = torch.exp(-0.5 * ((taps - p) / self.sigma_frames) ** 2)
            g = g / (g.sum(-1, keepdim=True) + 1e-7)
        else:
            g = (taps == p.round()).to(self.P.dtype)
        return self.weight[..., None] * g

    def delayed(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """x [S, B, F] and the inputs before it [B, F, max_delay] -> [S, B, out] and the next `past`."""
        row = torch.cat([past, x.permute(1, 2, 0)], -1)  # [B, F, D + S]
        y = F.conv1d(row, self.kernel().flip(-1), self.bias)
        return y.permute(2, 0, 1), row[..., row.shape[-1] - self.max_delay_frames :]


class RecurrentLayer(nn.Module):
    """One layer, spiking or dense, forward or bidirectional: [S, B, F] (time first) -> [S, B, hidden_size (x 2)]."""

    def __init__(self, input_size: int, hidden_size: int, kind: str = "LIF", *, threshold: float = 1.0, dropout: float = 0.0,
                 normalization: str = "batchnorm", use_bias: bool = False, bidirectional: bool = False, initial_state: str = "zeros",
                 surrogate: SurrogateConfig | None = None, max_delay_frames: int = 0, heterogeneous: bool = True):
        super().__init__()
        if kind not in KINDS:
            raise ConfigError(f"expected a layer of {', '.join(KINDS)}, got {kind!r}{nearest(kind, KINDS)}")
        if kind == "MLP" and bidirectional:
            raise ConfigError("expected a recurrent layer for bidirectional, got MLP, which has no direction; set bidirectional: false")
        if initial_state not in ("zeros", "random"):
            raise ConfigError(f"expected initial_state zeros or random, got {initial_state!r}")
        self.input_size, self.hidden_size, self.kind = input_size, hidden_size, kind
        self.threshold, self.bidirectional, self.initial = threshold, bidirectional, initial_state
        self.surrogate = surrogate or SurrogateConfig(name="boxcar")
        self.spiking, self.recurrent, self.adaptive = kind in SPIKING, kind in RECURRENT, kind in ADAPTIVE
        self.emits_spikes = self.spiking
        """What `wavespike.record_spikes` looks for: in evaluation the output is the spikes themselves."""
        self.gates = ("", *GATES.get(kind, ""))
        for gate in self.gates:
            linear = DelayedLinear(input_size, hidden_size, max_delay_frames, use_bias) if max_delay_frames else nn.Linear(input_size, hidden_size, use_bias)
            self.add_module(f"W{gate}", linear)
            if self.recurrent:
                V = nn.Linear(hidden_size, hidden_size, bias=False)
                nn.init.orthogonal_(V.weight)
                self.add_module(f"V{gate}", V)
            self.add_module(f"norm{gate}", make_sequence_norm(normalization, hidden_size))
        if self.spiking:
            count = hidden_size if heterogeneous else 1
            self.alpha = nn.Parameter(torch.empty(count).uniform_(*ALPHA_RANGE))
            if self.adaptive:
                self.beta = nn.Parameter(torch.empty(count).uniform_(*BETA_RANGE))
                self.a = nn.Parameter(torch.empty(count).uniform_(*((0.0, 1.0) if kind == "SE-adLIF" else A_RANGE)))
                self.b = nn.Parameter(torch.empty(count).uniform_(*B_RANGE))
        self.dropout = nn.Dropout(dropout)

    @property
    def output_size(self) -> int:
        return self.hidden_size * (2 if self.bidirectional else 1)

    def neuron(self) -> Neuron:
        """The neurons' parameters, clamped to their ranges."""
        size = self.hidden_size
        alpha = self.alpha.clamp(*ALPHA_RANGE).expand(size)
        V = zero_diagonal(cast(nn.Linear, self.V).weight) if self.recurrent else None
        if not self.adaptive:
            return Neuron(alpha=alpha, threshold=self.threshold, V=V, surrogate=self.surrogate)
        symplectic = self.kind == "SE-adLIF"
        a = self.a.clamp(*((0.0, 1.0) if symplectic else A_RANGE))
        b = self.b.clamp(*B_RANGE)
        if symplectic:
            a, b = a * SE_SCALE, b * SE_SCALE
        return Neuron(alpha=alpha, threshold=self.threshold, beta=self.beta.clamp(*BETA_RANGE).expand(size), a=a.expand(size), b=b.expand(size), V=V,
                      symplectic=symplectic, surrogate=self.surrogate)

    def initial_state(self, batch_size: int) -> LayerState:
        """The state before the first step, by the option `initial_state`."""
        weight = cast(nn.Linear, self.W).weight
        past = weight.new_zeros(batch_size, self.input_size, self.W.max_delay_frames) if isinstance(self.W, DelayedLinear) else None
        if self.spiking:
            return LayerState(cell=initial_state(self.neuron(), batch_size, self.initial), past=past)
        return LayerState(cell=weight.new_zeros(batch_size, self.hidden_size), past=past)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [S, B, F], lengths [B] in steps -> output [S, B, output_size] and, before dropout, the mean over real steps [output_size]."""
        mask = padding_mask(lengths, x.shape[0])
        y, _ = self._run(x, self.initial_state(x.shape[1] * (2 if self.bidirectional else 1)), mask, lengths)
        if self.bidirectional:
            forwards, backwards = y.chunk(2, 1)
            y = torch.cat([forwards, reverse_padded(backwards, lengths if mask is not None else None)], -1)
        if mask is not None:
            y = y * mask[..., None]
            rates = y.sum((0, 1)) / mask.sum()
        else:
            rates = y.mean((0, 1))
        return self.dropout(y), rates

    def step(self, x: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """One chunk of any number of steps and the state -> output and the next state. Raises UsageError for a bidirectional layer."""
        if self.bidirectional:
            raise UsageError("expected a causal model for streaming, got a bidirectional one, which needs the end first; use logits on the whole")
        y, state = self._run(x, state, None, None)
        return self.dropout(y), state

    def _run(self, x: Tensor, state: LayerState, mask: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, LayerState]:
        drives: list[Tensor] = []
        past = state.past
        sides = 2 if self.bidirectional else 1
        delayed = isinstance(self.W, DelayedLinear)
        if delayed and sides == 2:  # a delay looks back along its own direction
            x = torch.cat([x, reverse_padded(x, lengths if mask is not None else None)], 1)
            mask = None if mask is None else torch.cat([mask, mask], 1)
        for gate in self.gates:
            linear = getattr(self, f"W{gate}")
            if delayed:
                assert state.past is not None
                drive, past = linear.delayed(x, state.past)
            else:
                drive = linear(x)
            norm = getattr(self, f"norm{gate}")
            drive = drive if norm is None else norm(drive, mask)
            if sides == 2 and not delayed:  # weights and norm are shared, so the product is computed once
                drive = torch.cat([drive, reverse_padded(drive, lengths if mask is not None else None)], 1)
            drives.append(drive)
        if self.spiking:
            y, cell = self._scan(drives[0], cast(State, state.cell))
            return y, LayerState(cell=cell, past=past)
        y = self._dense(drives, cast(Tensor, state.cell))
        return y, LayerState(cell=y[-1] if len(y) else state.cell, past=past)

    def _scan(self, drive: Tensor, state: State) -> tuple[Tensor, State]:
        return scan(drive, state, self.neuron())

    def _dense(self, drives: list[Tensor], y: Tensor) -> Tensor:
        if self.kind == "MLP":
            return torch.sigmoid(drives[0])
        V = {gate: cast(nn.Linear, getattr(self, f"V{gate}")).weight for gate in self.gates}
        out = []
        for step in zip(*drives, strict=True):
            if self.kind == "RNN":
                y = torch.sigmoid(step[0] + F.linear(y, V[""]))
            else:
                z = torch.sigmoid(step[1] + F.linear(y, V["z"]))
                if self.kind == "GRU":
                    r = torch.sigmoid(step[2] + F.linear(y, V["r"]))
                    c = torch.tanh(step[0] + F.linear(r * y, V[""]))
                else:
                    c = torch.relu(step[0] + F.linear(y, V[""]))
                y = z * y + (1 - z) * c
            out.append(y)
        return torch.stack(out)


class SpikingReadout(nn.Module):
    """SpArch's read-out: leaky integrators without spikes, softmax over classes. [S, B, F] -> class probabilities of every step [S, B, classes].

    Their sum over time is the score of a clip.
    """

    def __init__(self, input_size: int, classes: int, *, normalization: str = "batchnorm", use_bias: bool = False):
        super().__init__()
        self.W = nn.Linear(input_size, classes, bias=use_bias)
        self.norm = make_sequence_norm(normalization, classes)
        self.alpha = nn.Parameter(torch.empty(classes).uniform_(*ALPHA_RANGE))

    def initial_state(self, batch_size: int) -> Tensor:
        return self.alpha.new_zeros(batch_size, self.alpha.shape[0])

    def potentials(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Membrane potentials [S, B, classes] and the last of them [B, classes]."""
        drive = self.W(x)
        drive = drive if self.norm is None else self.norm(drive, mask)
        return leaky_integrate(drive, state, self.alpha.clamp(*ALPHA_RANGE))
