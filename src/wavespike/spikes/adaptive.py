"""LIF, RLIF, adLIF and RadLIF neurons (Bittar and Garner, "A surrogate gradient spiking baseline for speech command recognition", 2022).

Equation, with threshold q, spikes s and synaptic current x:
    I_t = x_t + s_{t-1} V                                         V = 0 without recurrence; its diagonal is zero
    w_t = beta w_{t-1} + a u_{t-1} + b s_{t-1}                    w = 0 without adaptation
    u_t = alpha (u_{t-1} - q s_{t-1}) + (1 - alpha) (I_t - w_t)
    s_t = 1[u_t > q]                                              its derivative is the surrogate's
or, symplectic (SE-adLIF, Baronig et al., "Advancing spatio-temporal processing through adaptation in spiking neural networks", 2024):
    v_t = alpha u_{t-1} + (1 - alpha) (I_t - w_{t-1})
    s_t = 1[v_t > q],  u_t = v_t (1 - s_t)
    w_t = beta w_{t-1} + (1 - beta) (a u_t + b s_t)
Departures: the soft reset subtracts the threshold (the published code subtracts 1, the same at its threshold of 1); the state starts at zero
unless one is given (published: uniform in 0..1, also for the spikes, also in evaluation).

All functions are pure. `step` advances one time step; `scan` many, with its own backward pass over time: it keeps u, w and s only, computes the
gradient of V in one product over all steps, and equals a loop of `step` (outputs and gradients).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wavespike.errors import UsageError
from wavespike.spikes.surrogate import SurrogateConfig, spike

BOXCAR = SurrogateConfig(name="boxcar")
"""The published surrogate: derivative 1 where -0.5 < u - q <= 0.5, else 0."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What a neuron remembers, each [B, H]: membrane potential, last spikes, adaptation current (None without adaptation)."""

    u: Tensor
    s: Tensor
    w: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """Parameters of H neurons. alpha, beta, a, b are [H]; V is [H, H], multiplied from the right of the spikes; surrogate is 1[v > 0] with a derivative.

    LIF: alpha alone. RLIF: and V. adLIF: and beta, a, b. RadLIF: all. SE-adLIF: adLIF with `symplectic`.
    """

    alpha: Tensor
    threshold: float = 1.0
    beta: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    V: Tensor | None = None
    symplectic: bool = False
    surrogate: SurrogateConfig = BOXCAR


def initial_state(neuron: Neuron, batch_size: int, kind: str = "zeros", generator: torch.Generator | None = None) -> State:
    """The state before the first step: `zeros`, or `random` (uniform in 0..1, as published)."""
    shape = (batch_size, neuron.alpha.shape[-1])

    def draw() -> Tensor:
        if kind == "random":
            return torch.rand(shape, generator=generator).to(neuron.alpha)
        return neuron.alpha.new_zeros(shape)

    return State(u=draw(), s=draw(), w=draw() if neuron.beta is not None else None)


def zero_diagonal(V: Tensor) -> Tensor:
    """V without self-connections (differentiable; its diagonal gets no gradient)."""
    return V - torch.diag(torch.diagonal(V))


def _present(*tensors: Tensor | None) -> tuple[Tensor, ...]:
    """What an adaptive neuron must have. Raises UsageError when some of it is missing."""
    if any(t is None for t in tensors):
        raise UsageError("expected an adaptive neuron to have beta, a, b and a state with w, got only some of them; make the state with initial_state")
    return tuple(t for t in tensors if t is not None)


def step(current: Tensor, state: State, neuron: Neuron) -> tuple[Tensor, State]:
    """One time step: current [B, H] and state -> spikes [B, H] and the next state. V is used as it is (see `zero_diagonal`)."""
    n = neuron
    total = current if n.V is None else current + state.s @ n.V
    if n.symplectic:
        w, beta, a, b = _present(state.w, n.beta, n.a, n.b)
        v = n.alpha * state.u + (1 - n.alpha) * (total - w)
        s = spike(v - n.threshold, n.surrogate, strict=True)
        u = v * (1 - s)
        return s, State(u=u, s=s, w=beta * w + (1 - beta) * (a * u + b * s))
    after = None
    if n.beta is not None:
        w, beta, a, b = _present(state.w, n.beta, n.a, n.b)
        after = beta * w + a * state.u + b * state.s
        total = total - after
    u = n.alpha * (state.u - n.threshold * state.s) + (1 - n.alpha) * total
    s = spike(u - n.threshold, n.surrogate, strict=True)
    return s, State(u=u, s=s, w=after)


def loop(current: Tensor, state: State, neuron: Neuron) -> tuple[Tensor, State]:
    """`scan` as a plain loop of `step`: the reference that `scan` is tested against."""
    spikes = []
    for x in current:
        s, state = step(x, state, neuron)
        spikes.append(s)
    return torch.stack(spikes), state


def scan(current: Tensor, state: State, neuron: Neuron) -> tuple[Tensor, State]:
    """Many time steps: current [S, B, H] (time first) and state -> spikes [S, B, H] and the next state."""
    n = neuron
    s, u, w = _Scan.apply(current, n.alpha, n.beta, n.a, n.b, n.V, state.u, state.s, state.w,  # type: ignore[no-untyped-call]
                          n.threshold, n.symplectic, n.surrogate)
    return s, State(u=u, s=s[-1], w=w if n.beta is not None else None)


SPARSE_RATE = 0.12
"""Recurrent products use the list of spikes instead of the dense matrix below this firing rate over the number of threads (the list is worked on by one) ..."""
SPARSE_WORK = 1 << 24
"""... and above this number of multiplications a step, where a gather's overhead no longer counts."""


def spike_product(s: Tensor, V: Tensor, out: Tensor) -> Tensor:
    """out += s V for binary or graded spikes s [B, H], through the list of spikes where they are few."""
    if s.numel() * V.shape[1] >= SPARSE_WORK and not s.is_cuda:
        active = torch.count_nonzero(s)
        if int(active) * torch.get_num_threads() < SPARSE_RATE * s.numel():
            return torch.addmm(out, s.to_sparse(), V, out=out)
    return out.addmm_(s, V)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, beta: Tensor | None, a: Tensor | None, b: Tensor | None, V: Tensor | None,
                u0: Tensor, s0: Tensor, w0: Tensor | None, threshold: float, symplectic: bool,
                surrogate: SurrogateConfig) -> tuple[Tensor, Tensor, Tensor | None]:
        steps = x.shape[0]
        us, ss = torch.empty_like(x), torch.empty_like(x)
        ws = None if beta is None else torch.empty_like(x)
        u, s, w, decay, coupling, jump = u0, s0, u0, alpha, alpha, alpha  # the last four only hold a place without adaptation
        gain = 1 - alpha
        total, rest = torch.empty_like(u0), torch.empty_like(u0)
        if ws is not None:
            w, decay, coupling, jump = _present(w0, beta, a, b)
        for t in range(steps):
            current = x[t] if V is None else spike_product(s, V, total.copy_(x[t]))
            v, after = us[t], ss[t]
            if symplectic and ws is not None:
                torch.sub(current, w, out=rest)
                torch.mul(u, alpha, out=v).addcmul_(rest, gain)
                torch.gt(v, threshold, out=after)
                u = torch.addcmul(v, v, after, value=-1)
                torch.mul(w, decay, out=ws[t])
                torch.mul(u, coupling, out=rest).addcmul_(after, jump).mul_(1 - decay)
                w = ws[t].add_(rest)
            else:
                if ws is not None:
                    w = torch.mul(w, decay, out=ws[t]).addcmul_(u, coupling).addcmul_(s, jump)
                    current = torch.sub(current, w, out=total)
                torch.sub(u, s, alpha=threshold, out=rest)
                u = torch.mul(rest, alpha, out=v).addcmul_(current, gain)
                torch.gt(u, threshold, out=after)
            s = after
        ctx.save_for_backward(alpha, beta, a, b, V, u0, s0, w0, us, ss, ws)
        ctx.threshold, ctx.symplectic, ctx.surrogate = threshold, symplectic, surrogate
        last_w = None if ws is None else ws[-1].clone()
        return ss, (u if symplectic else us[-1]).clone(), last_w

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_s: Tensor, grad_u: Tensor | None, grad_w: Tensor | None) -> tuple[Tensor | None, ...]:
        alpha, beta, a, b, V, u0, s0, w0, us, ss, ws = ctx.saved_tensors
        q, symplectic, derivative = ctx.threshold, ctx.symplectic, ctx.surrogate.derivative
        steps = us.shape[0]
        gx = torch.empty_like(us)
        gain = 1 - alpha
        cu = torch.zeros_like(u0) if grad_u is None else grad_u.clone()  # gradient of u_t from later steps
        cs = torch.zeros_like(u0)  # of s_t
        cw = torch.zeros_like(u0) if grad_w is None else grad_w.clone()  # of w_t
        g_alpha, g_beta, g_a, g_b = (torch.zeros_like(u0) for _ in range(4))
        gs, slope, rest = torch.empty_like(u0), torch.empty_like(u0), torch.empty_like(u0)
        for t in range(steps - 1, -1, -1):
            v, s = us[t], ss[t]
            before_s = ss[t - 1] if t else s0
            before_u = us[t - 1] if t else u0
            if symplectic and t:  # what was kept is v, before the reset
                before_u = torch.addcmul(before_u, before_u, before_s, value=-1)
            slope = derivative(torch.sub(v, q, out=rest))
            if beta is not None:
                before_w = ws[t - 1] if t else w0
            torch.add(grad_s[t], cs, out=gs)
            if symplectic:
                scaled = (1 - beta) * cw
                cu.addcmul_(scaled, a)
                gs.addcmul_(scaled, b).addcmul_(cu, v, value=-1)
                now_u = torch.addcmul(v, v, s, value=-1)
                g_beta.addcmul_(cw, before_w).addcmul_(cw, torch.mul(now_u, a).addcmul_(s, b), value=-1)
                g_a.addcmul_(scaled, now_u)
                g_b.addcmul_(scaled, s)
                cu.addcmul_(cu, s, value=-1).addcmul_(gs, slope)
                torch.mul(cu, gain, out=gx[t])
                g_alpha.addcmul_(cu, torch.sub(before_u, v, out=rest))
                cw.mul_(beta).sub_(gx[t])
                cu.mul_(alpha)
                cs.zero_()
            else:
                cu.addcmul_(gs, slope)
                torch.mul(cu, gain, out=gx[t])
                # u_t = alpha A + (1 - alpha) C, so A - C = (A - u_t) / (1 - alpha): the current itself need not be kept
                torch.sub(before_u, before_s, alpha=q, out=rest).sub_(v)
                g_alpha.addcmul_(cu, rest)
                cu.mul_(alpha)
                torch.mul(cu, -q, out=cs)
                if beta is not None:
                    cw.sub_(gx[t])
                    g_beta.addcmul_(cw, before_w)
                    g_a.addcmul_(cw, before_u)
                    g_b.addcmul_(cw, before_s)
                    cu.addcmul_(cw, a)
                    cs.addcmul_(cw, b)
                    cw.mul_(beta)
            if V is not None:
                cs.addmm_(gx[t], V.t())
        g_V = None
        if V is not None:
            flat = gx.flatten(0, 1)
            batch = s0.shape[0]
            g_V = ss.flatten(0, 1)[: (steps - 1) * batch].t() @ flat[batch:]
            g_V.addmm_(s0.t(), flat[:batch])
        g_alpha = g_alpha.sum(0) / gain
        if beta is None:
            return gx, g_alpha, None, None, None, g_V, cu, cs, None, None, None, None
        return gx, g_alpha, g_beta.sum(0), g_a.sum(0), g_b.sum(0), g_V, cu, cs, cw, None, None, None


def leaky_integrate(current: Tensor, u0: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Read-out without spikes: u_t = alpha u_{t-1} + (1 - alpha) x_t. current [S, B, H], u0 [B, H] -> u [S, B, H] and the last u."""
    u = _Integrate.apply(current, u0, alpha)  # type: ignore[no-untyped-call]
    return u, u[-1]


class _Integrate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, u0: Tensor, alpha: Tensor) -> Tensor:
        us = x * (1 - alpha)
        u = u0
        for row in us:
            u = row.addcmul_(u, alpha)
        ctx.save_for_backward(us, u0, alpha)
        return us

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        us, u0, alpha = ctx.saved_tensors
        g = grad.clone()
        for t in range(len(g) - 2, -1, -1):
            g[t].addcmul_(g[t + 1], alpha)
        before = torch.cat([u0[None], us[:-1]])
        g_alpha = (g * (before - us)).sum((0, 1)) / (1 - alpha)
        return g * (1 - alpha), g[0] * alpha, g_alpha
