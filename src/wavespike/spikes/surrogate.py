"""Surrogate gradients: a step forward, a smooth derivative backward (Neftci, Mostafa and Zenke, 2019).

Equation: s = 1[z >= 0], ds/dz := g(z) with z = membrane potential - threshold. The five g:

    sigmoid       alpha sigma(alpha z) (1 - sigma(alpha z))          alpha 4     SpikingJelly; Spiking Vocos
    arctan        (alpha / 2) / (1 + (pi alpha z / 2)^2)              alpha 2     Fang et al., 2021
    boxcar        1[-1 / (2 alpha) < z <= 1 / (2 alpha)]              alpha 1     SpArch
    fast-sigmoid  1 / (1 + alpha |z|)^2                               alpha 25    Zenke and Ganguli, 2018
    triangle      alpha max(0, 1 - alpha |z|)                         alpha 1     Bellec et al., 2018

Departures: `strict` makes the step 1[z > 0] (SpArch, snnTorch); the threshold itself has measure zero, but float32 does hit it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from wavespike.config import Config
from wavespike.errors import ConfigError

SurrogateName = Literal["sigmoid", "arctan", "boxcar", "fast-sigmoid", "triangle"]


def sigmoid_derivative(z: Tensor, alpha: float = 4.0) -> Tensor:
    """alpha sigma(alpha z) (1 - sigma(alpha z))"""
    s = torch.sigmoid(z * alpha)
    return torch.addcmul(s, s, s, value=-1).mul_(alpha)


def arctan_derivative(z: Tensor, alpha: float = 2.0) -> Tensor:
    """(alpha / 2) / (1 + (pi alpha z / 2)^2)"""
    return (z * (math.pi * alpha / 2)).square_().add_(1.0).reciprocal_().mul_(alpha / 2)


def boxcar_derivative(z: Tensor, alpha: float = 1.0) -> Tensor:
    """1 inside the half-open box (-1 / (2 alpha), 1 / (2 alpha)], 0 outside"""
    half = 0.5 / alpha
    return ((z > -half) & (z <= half)).to(z.dtype)


def fast_sigmoid_derivative(z: Tensor, alpha: float = 25.0) -> Tensor:
    """1 / (1 + alpha |z|)^2"""
    return z.abs().mul_(alpha).add_(1.0).square_().reciprocal_()


def triangle_derivative(z: Tensor, alpha: float = 1.0) -> Tensor:
    """alpha max(0, 1 - alpha |z|)"""
    return z.abs().mul_(-alpha).add_(1.0).clamp_min_(0.0).mul_(alpha)


DERIVATIVES: dict[str, tuple[Callable[[Tensor, float], Tensor], float]] = {
    "sigmoid": (sigmoid_derivative, 4.0),
    "arctan": (arctan_derivative, 2.0),
    "boxcar": (boxcar_derivative, 1.0),
    "fast-sigmoid": (fast_sigmoid_derivative, 25.0),
    "triangle": (triangle_derivative, 1.0),
}
"""Name -> (derivative, its default alpha)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurrogateConfig(Config):
    """Which derivative stands in for that of the step; `alpha` None takes the default of the table above."""

    type_name: ClassVar[str] = "surrogate"

    name: SurrogateName = "sigmoid"
    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.alpha is not None and not self.alpha > 0:
            raise ConfigError(f"surrogate.alpha: expected a positive number, got {self.alpha}; the larger, the steeper")

    @property
    def steepness(self) -> float:
        """alpha, or its default."""
        return DERIVATIVES[self.name][1] if self.alpha is None else self.alpha

    def derivative(self, z: Tensor) -> Tensor:
        """g(z), of the shape of z."""
        return DERIVATIVES[self.name][0](z, self.steepness)


class Spike(torch.autograd.Function):
    """Step forward, surrogate backward. Use it through `spike`."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, surrogate: SurrogateConfig, strict: bool) -> Tensor:
        ctx.save_for_backward(z)
        ctx.surrogate = surrogate
        return (z > 0 if strict else z >= 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (z,) = ctx.saved_tensors
        return grads[0] * ctx.surrogate.derivative(z), None, None


def spike(z: Tensor, surrogate: SurrogateConfig | None = None, *, strict: bool = False) -> Tensor:
    """Spikes 0/1 of z = potential - threshold, any shape, in the dtype of z; the gradient is the surrogate's (default: sigmoid, alpha 4)."""
    return Spike.apply(z, surrogate or SurrogateConfig(), strict)  # type: ignore[no-any-return, no-untyped-call]


def sigmoid(z: Tensor, alpha: float = 4.0) -> Tensor:
    """`spike` with the sigmoid's derivative."""
    return spike(z, SurrogateConfig(name="sigmoid", alpha=alpha))


def arctan(z: Tensor, alpha: float = 2.0) -> Tensor:
    """`spike` with the arctangent's derivative."""
    return spike(z, SurrogateConfig(name="arctan", alpha=alpha))


def boxcar(z: Tensor, alpha: float = 1.0, *, strict: bool = True) -> Tensor:
    """`spike` with a box for a derivative; strict by default, as in SpArch."""
    return spike(z, SurrogateConfig(name="boxcar", alpha=alpha), strict=strict)


def fast_sigmoid(z: Tensor, alpha: float = 25.0) -> Tensor:
    """`spike` with the fast sigmoid's derivative."""
    return spike(z, SurrogateConfig(name="fast-sigmoid", alpha=alpha))


def triangle(z: Tensor, alpha: float = 1.0) -> Tensor:
    """`spike` with a triangle for a derivative."""
    return spike(z, SurrogateConfig(name="triangle", alpha=alpha))
