"""Integrate-and-fire neurons as pure functions: IF, LIF (Lapicque, 1907) and PLIF (Fang et al., 2021), in SpikingJelly's definition.

Equation, with input x, potential v, decay k (1 for IF in the second line's place, 1/tau for LIF, sigmoid(w) for PLIF), rest and reset value r:

    h = v + x                          IF
    h = v + k (x - (v - r))            LIF, PLIF, decay_input: true
    h = v - k (v - r) + x              LIF, PLIF, decay_input: false
    s = 1[h >= threshold]
    v = h (1 - s) + r s                reset: hard
    v = h - threshold s                reset: soft (then r = 0)

`neuron_step` is one step, `neuron_scan` all S of them. The potential goes in and comes out; no function keeps one.
Departures: none from SpikingJelly 2.0; the scan and its backward are fused over blocks of neurons that stay in the cache.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wavespike.config import Config
from wavespike.errors import ConfigError, UsageError
from wavespike.spikes.surrogate import SurrogateConfig, spike

BLOCK = 1 << 19
"""Neurons a block of the fused scan: few enough for the cache, many enough for the threads to pay."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronConfig(Config):
    """`tau` in time steps: fixed for lif, the initial value for plif, unused for if. `v_reset` is read for hard reset only."""

    type_name: ClassVar[str] = "neuron"

    kind: Literal["if", "lif", "plif"] = "plif"
    threshold: float = 1.0
    tau: float = 2.0
    decay_input: bool = True
    reset: Literal["hard", "soft"] = "hard"
    v_reset: float = 0.0
    detach_reset: bool = False
    surrogate: SurrogateConfig = SurrogateConfig()

    def __post_init__(self) -> None:
        if self.kind != "if" and not self.tau > 1.0:
            raise ConfigError(f"neuron.tau: expected more than 1 time step, got {self.tau}; the decay 1/tau must stay below 1")
        if not math.isfinite(self.threshold) or self.threshold <= self.rest:
            raise ConfigError(f"neuron.threshold: expected a number above the resting potential {self.rest}, got {self.threshold}")

    @property
    def rest(self) -> float:
        """Resting potential, which is also the initial one."""
        return self.v_reset if self.reset == "hard" else 0.0

    def initial_decay_logit(self) -> float:
        """w with sigmoid(w) = 1 / tau: the parameter of a PLIF neuron."""
        return -math.log(self.tau - 1.0)


def initial_potential(x: Tensor, config: NeuronConfig) -> Tensor:
    """The resting potential in the shape of one step of x [S, ...] -> [...]."""
    return torch.full_like(x[0], config.rest)


def neuron_step(x: Tensor, v: Tensor, decay: Tensor | float | None, config: NeuronConfig) -> tuple[Tensor, Tensor]:
    """One step of the equations above: input and potential, any equal shapes -> spikes and next potential.

    `decay` is k as a number or a tensor that broadcasts; None means IF.
    """
    if decay is None:
        h = v + x
    else:
        away = v if config.rest == 0.0 else v - config.rest
        h = v + (x - away) * decay if config.decay_input else v - away * decay + x
    s = spike(h - config.threshold, config.surrogate)
    gate = s.detach() if config.detach_reset else s
    if config.reset == "soft":
        return s, h - config.threshold * gate
    v = h * (1 - gate)
    return s, v if config.rest == 0.0 else v + config.rest * gate


def scan_by_steps(x: Tensor, v: Tensor, decay: Tensor | float | None, config: NeuronConfig) -> tuple[Tensor, Tensor]:
    """`neuron_scan` as a plain loop of `neuron_step`: the definition, differentiable twice, and what exporters trace."""
    spikes = []
    for current in x:
        s, v = neuron_step(current, v, decay, config)
        spikes.append(s)
    return torch.stack(spikes), v


class _FusedScan(torch.autograd.Function):
    """The scan over S with its gradient by hand: blocks of neurons outermost, time inside, so that memory is read once.

    With g_s, g_v the gradients of spikes and of the next potential, and d the surrogate derivative:
    hard: g_h = g_v (1 - s) + d (g_s + g_v (r - h));  soft: g_h = g_v + d (g_s - threshold g_v);
    the second summand in the bracket falls away when the reset is detached.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor | None, decay: Tensor | None, config: NeuronConfig) -> tuple[Tensor, Tensor]:
        steps, shape = x.shape[0], x.shape[1:]
        inputs = [row.reshape(-1) for row in x]  # views where memory allows
        start = None if v is None else v.reshape(-1)
        count = inputs[0].numel()
        spikes, after = x.new_empty(steps, count), x.new_empty(count)
        k = 1.0 if decay is None else float(decay)
        for a in range(0, count, BLOCK):
            part = slice(a, a + BLOCK)
            potential = None if start is None else start[part]
            h = torch.empty_like(after[part])
            for t in range(steps):
                _charge(inputs[t][part], potential, k, config, h)
                s = torch.ge(h, config.threshold, out=spikes[t, part])
                potential = _after_reset(h, s, config, after[part])
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, v, decay, spikes)
            ctx.config = config
            ctx.set_materialize_grads(False)
        return spikes.view(x.shape), after.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, v, decay, spikes = ctx.saved_tensors
        config: NeuronConfig = ctx.config
        steps, shape = x.shape[0], x.shape[1:]
        inputs = [row.reshape(-1) for row in x]
        start = None if v is None else v.reshape(-1)
        spikes = spikes.view(steps, -1)
        count = spikes.shape[1]
        grad_spikes = [None] * steps if grads[0] is None else [row.reshape(-1) for row in grads[0]]
        grad_after = None if grads[1] is None else grads[1].reshape(-1)
        grad_x = x.new_empty(steps, count)
        grad_v = x.new_empty(count) if ctx.needs_input_grad[1] else None
        grad_k = torch.zeros((), dtype=torch.float64) if ctx.needs_input_grad[2] else None
        k = 1.0 if decay is None else float(decay)
        leak = 1.0 if decay is None else 1.0 - k  # dh / dv
        gain = k if decay is not None and config.decay_input else 1.0  # dh / dx
        unit = _slope_unit(config)
        rows = x.new_empty(3, min(BLOCK, count))  # used again and again: fresh memory costs more than the arithmetic
        for a in range(0, count, BLOCK):
            part = slice(a, a + BLOCK)
            work = rows[:, : count - a]
            # potentials are computed again, cheaper in the cache than kept in memory; h of a step lies where its gradient will
            first = None if start is None else start[part]
            charged = [_charge_again(inputs[0][part], first, k, config, grad_x[0, part])]
            for t in range(1, steps):
                v_t = _after_reset(charged[-1], spikes[t - 1, part], config, work[0])
                charged.append(_charge_again(inputs[t][part], v_t, k, config, grad_x[t, part]))
            # g_v = scale * carried, and carried = g_h / unit: the constant factor of the surrogate stays outside
            carried, scale = None if grad_after is None else grad_after[part], 1.0
            for t in reversed(range(steps)):
                row = grad_spikes[t]
                g = _through_step(None if row is None else row[part], carried, scale, charged[t], spikes[t, part], config, work)
                if grad_k is not None and config.decay_input and config.rest == 0.0 and leak > 0.1:
                    grad_k += unit / leak * (torch.dot(g, inputs[t][part]) - torch.dot(g, charged[t]))  # x - v = (x - h) / leak
                elif grad_k is not None:
                    before = _after_reset(charged[t - 1], spikes[t - 1, part], config, work[0]) if t else first
                    if (drive := _drive(inputs[t][part], before, config, work[0])) is not None:
                        grad_k += unit * torch.dot(g, drive)
                torch.mul(g, gain * unit, out=grad_x[t, part])
                carried, scale = g, leak * unit
            if grad_v is not None:
                torch.mul(g, leak * unit, out=grad_v[part])
        return (grad_x.view(x.shape), None if grad_v is None else grad_v.view(shape),
                None if grad_k is None else grad_k.to(decay).reshape(decay.shape), None)


def _charge(x: Tensor, v: Tensor | None, k: float, config: NeuronConfig, out: Tensor) -> None:
    """h of one step into `out`, rounded as `neuron_step` rounds it; v None means at rest."""
    rest = config.rest
    if v is None:
        if rest != 0.0:
            v = torch.full_like(x, rest)
        elif config.kind == "if" or not config.decay_input:
            out.copy_(x)
            return
        else:
            torch.mul(x, k, out=out)
            return
    if config.kind == "if":
        torch.add(v, x, out=out)
        return
    away = v if rest == 0.0 else v - rest
    if config.decay_input:
        torch.sub(x, away, out=out)
        out.mul_(k).add_(v)
    else:
        torch.mul(away, -k, out=out)
        out.add_(v).add_(x)


def _after_reset(h: Tensor, s: Tensor, config: NeuronConfig, out: Tensor) -> Tensor:
    """The potential after spikes s, into `out`."""
    if config.reset == "soft":
        return torch.add(h, s, alpha=-config.threshold, out=out)
    v = torch.addcmul(h, h, s, value=-1, out=out)
    return v if config.rest == 0.0 else v.add_(s, alpha=config.rest)


def _charge_again(x: Tensor, v: Tensor | None, k: float, config: NeuronConfig, out: Tensor) -> Tensor:
    """h of one step for the backward, into `out` or as it lies there; it may differ from the forward's by rounding."""
    rest = config.rest
    if config.kind == "if":
        return x if v is None and rest == 0.0 else torch.add(x, rest if v is None else v, out=out)
    if v is None:  # at rest: v - r = 0
        if rest == 0.0:
            return torch.mul(x, k, out=out) if config.decay_input else x
        return torch.add(torch.full_like(x, rest), x, alpha=k if config.decay_input else 1.0, out=out)
    if config.decay_input:
        if rest == 0.0:
            return torch.lerp(v, x, k, out=out)
        return torch.lerp(v, x + rest, k, out=out)
    torch.mul(v, 1.0 - k, out=out)
    return (out if rest == 0.0 else out.add_(k * rest)).add_(x)


def _drive(x: Tensor, v: Tensor | None, config: NeuronConfig, out: Tensor) -> Tensor | None:
    """dh / dk of one step (None: zero), into `out` or as it lies there."""
    rest = config.rest
    if config.kind == "if":
        return None
    if v is None:
        return x if config.decay_input else None
    if config.decay_input:
        torch.sub(x, v, out=out)
    else:
        torch.neg(v, out=out)
    return out if rest == 0.0 else out.add_(rest)


def _through_step(grad_s: Tensor | None, carried: Tensor | None, scale: float, h: Tensor, s: Tensor, config: NeuronConfig, work: Tensor) -> Tensor:
    """g_h / unit of one step from g_s (None: 0) and g_v = scale * carried (None: 0), into the last row of `work`, where `carried` may lie already."""
    one, two, out = work
    if grad_s is None:
        grad_s = torch.zeros_like(h)
    if carried is None:
        return _times_slope(grad_s, h, config, two, out)
    hard = config.reset == "hard"
    inner = grad_s
    if not config.detach_reset:
        if hard:
            inner = torch.addcmul(grad_s, carried, h, value=-scale, out=one)
            if config.rest != 0.0:
                inner.add_(carried, alpha=scale * config.rest)
        else:
            inner = torch.add(grad_s, carried, alpha=-scale * config.threshold, out=one)
    kept = torch.addcmul(carried, carried, s, value=-1, out=out) if hard else carried
    return torch.add(_times_slope(inner, h, config, two, one), kept, alpha=scale / _slope_unit(config), out=out)


def _slope_unit(config: NeuronConfig) -> float:
    """The constant factor that `_times_slope` leaves out."""
    return config.surrogate.steepness if config.surrogate.name == "sigmoid" else 1.0


def _times_slope(g: Tensor, h: Tensor, config: NeuronConfig, work: Tensor, out: Tensor) -> Tensor:
    """g times the surrogate derivative at h, over `_slope_unit`, into `out`; `work` is written over."""
    surrogate = config.surrogate
    if surrogate.name == "sigmoid":  # one kernel for g y (1 - y)
        alpha = surrogate.steepness
        torch.add(h.new_tensor(-alpha * config.threshold), h, alpha=alpha, out=work).sigmoid_()
        torch.ops.aten.sigmoid_backward.grad_input(g, work, grad_input=out)
        return out
    return torch.mul(surrogate.derivative(torch.sub(h, config.threshold, out=work)), g, out=out)


def neuron_scan(x: Tensor, v: Tensor | None, decay: Tensor | float | None, config: NeuronConfig) -> tuple[Tensor, Tensor]:
    """All steps: input [S, ...], potential [...] (None: at rest), decay a number or a tensor of one value -> spikes [S, ...], potential [...].

    Fused forward and backward; per-neuron decays take the plain loop.
    """
    if x.ndim < 1 or x.shape[0] < 1:
        raise UsageError(f"expected inputs [steps >= 1, ...], got {list(x.shape)}; a neuron needs at least one time step")
    if v is not None and v.shape != x.shape[1:]:
        raise UsageError(f"expected a potential {list(x.shape[1:])} for inputs {list(x.shape)}, got {list(v.shape)}; pass the state of this layer")
    if torch.compiler.is_compiling() or (isinstance(decay, Tensor) and decay.numel() != 1):
        return scan_by_steps(x, initial_potential(x, config) if v is None else v, decay, config)
    k = decay if isinstance(decay, Tensor) or decay is None else torch.as_tensor(decay, dtype=x.dtype, device=x.device)
    spikes, after = _FusedScan.apply(x, v, k, config)  # type: ignore[no-untyped-call]
    return spikes, after


def decay_of(config: NeuronConfig, w: Tensor | None = None) -> Tensor | float | None:
    """k: None for IF, 1 / tau for LIF, sigmoid(w) for PLIF."""
    if config.kind == "if":
        return None
    if config.kind == "lif":
        return 1.0 / config.tau
    if w is None:
        raise UsageError("expected the parameter w of a PLIF neuron, got none; pass w or choose kind: lif")
    return torch.sigmoid(w)


def if_step(x: Tensor, v: Tensor, config: NeuronConfig | None = None) -> tuple[Tensor, Tensor]:
    """One step of IF neurons."""
    return neuron_step(x, v, None, config or NeuronConfig(kind="if"))


def lif_step(x: Tensor, v: Tensor, config: NeuronConfig | None = None) -> tuple[Tensor, Tensor]:
    """One step of LIF neurons, k = 1 / tau."""
    config = config or NeuronConfig(kind="lif")
    return neuron_step(x, v, 1.0 / config.tau, config)


def plif_step(x: Tensor, v: Tensor, w: Tensor, config: NeuronConfig | None = None) -> tuple[Tensor, Tensor]:
    """One step of PLIF neurons, k = sigmoid(w)."""
    return neuron_step(x, v, torch.sigmoid(w), config or NeuronConfig())


def if_scan(x: Tensor, v: Tensor | None = None, config: NeuronConfig | None = None) -> tuple[Tensor, Tensor]:
    """All steps of IF neurons, [S, ...]."""
    return neuron_scan(x, v, None, config or NeuronConfig(kind="if"))


def lif_scan(x: Tensor, v: Tensor | None = None, config: NeuronConfig | None = None) -> tuple[Tensor, Tensor]:
    """All steps of LIF neurons, [S, ...], k = 1 / tau."""
    config = config or NeuronConfig(kind="lif")
    return neuron_scan(x, v, 1.0 / config.tau, config)


def plif_scan(x: Tensor, v: Tensor | None, w: Tensor, config: NeuronConfig | None = None) -> tuple[Tensor, Tensor]:
    """All steps of PLIF neurons, [S, ...], k = sigmoid(w)."""
    return neuron_scan(x, v, torch.sigmoid(w), config or NeuronConfig())
