"""Judging recognisers: accuracy per example with a 95 % interval, confusion, firing rates, and operations per inference counted from real tensors.

Equations: the interval is Wilson's, (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), z = 1.96; energy = 4.6 pJ a multiplication with
addition (MAC) + 0.9 pJ an addition (AC), 45 nm, 32-bit floats (Horowitz, 2014). A product with spikes costs one AC for every synapse of every spike.
Departures: a normalisation is counted as part of the linear map that it can be folded into; the front end is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wavespike.models.sparch import ANN, SpArch
from wavespike.nn.recurrent import DelayedLinear, RecurrentLayer

MAC_PJ, AC_PJ = 4.6, 0.9


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Multiplications with addition and additions of one inference."""

    macs: float = 0.0
    acs: float = 0.0

    @property
    def energy_uj(self) -> float:
        """Microjoules."""
        return (self.macs * MAC_PJ + self.acs * AC_PJ) * 1e-6

    def __add__(self, other: Operations) -> Operations:
        return Operations(macs=self.macs + other.macs, acs=self.acs + other.acs)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `evaluate` found. `confusion` [truth, answer] counts examples; `rate` is spikes a neuron and step (None for dense networks)."""

    examples: int
    correct: int
    confusion: Tensor
    rate: float | None
    operations: Operations
    parameters: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.examples

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy."""
        return wilson(self.correct, self.examples)

    def row(self, model: str, data: str) -> dict[str, Any]:
        """Plain data."""
        low, high = self.interval
        return {"model": model, "data": data, "examples": self.examples, "accuracy": round(self.accuracy, 4), "accuracy_95": [round(low, 4), round(high, 4)],
                "firing_rate": None if self.rate is None else round(self.rate, 4), "macs": round(self.operations.macs), "acs": round(self.operations.acs),
                "energy_uj": round(self.operations.energy_uj, 2), "parameters": self.parameters}

    def text(self) -> str:
        """One line for a person."""
        low, high = self.interval
        rate = "" if self.rate is None else f", firing rate {100 * self.rate:.1f} %"
        return (f"accuracy {100 * self.accuracy:.1f} % (95 %: {100 * low:.1f}-{100 * high:.1f}; {self.correct} of {self.examples}){rate}, "
                f"{self.operations.energy_uj:.1f} uJ an inference ({self.operations.macs:.3g} MACs, {self.operations.acs:.3g} ACs)")


def wilson(correct: int, examples: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a proportion. (0, 1) without examples."""
    if examples == 0:
        return 0.0, 1.0
    p = correct / examples
    centre, spread = p + z * z / (2 * examples), z * math.sqrt(p * (1 - p) / examples + z * z / (4 * examples**2))
    scale = 1 + z * z / examples
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


@torch.inference_mode()
def count_operations(model: SpArch, features: Tensor) -> tuple[Operations, float | None]:
    """Operations of one inference (mean over the batch [B, C, L]) and the mean firing rate, from the tensors that really occur."""
    model.eval()
    x, _ = model.steps(features)
    batch = x.shape[0]
    h = x.transpose(0, 1)
    total, fired, cells = Operations(), 0.0, 0
    net = model.net
    for number, layer in enumerate(net.layers):
        out, _ = layer(h)
        total += _layer(layer, h, out, analogue=number == 0 or not layer.spiking)
        fired, cells = fired + float(out.sum()), cells + out.numel()
        h = out
    classes = len(model.labels)
    if isinstance(net, ANN):
        total += Operations(macs=batch * h.shape[-1] * classes)
        return Operations(macs=total.macs / batch, acs=total.acs / batch), None
    total += Operations(macs=2.0 * classes * h.shape[0] * batch, acs=float(torch.count_nonzero(h)) * classes)
    return Operations(macs=total.macs / batch, acs=total.acs / batch), fired / cells


def _layer(layer: RecurrentLayer, x: Tensor, out: Tensor, analogue: bool) -> Operations:
    """x [S, B, F] -> out [S, B, H (x 2)]."""
    H, gates, sides = layer.hidden_size, len(layer.gates), 2 if layer.bidirectional else 1
    seen = float(torch.count_nonzero(x)) * H * gates * (sides if isinstance(layer.W, DelayedLinear) else 1)
    macs, acs = (seen, 0.0) if analogue else (0.0, seen)
    cells = float(out.numel())
    if not layer.spiking:
        macs += cells * H * gates if layer.recurrent else 0.0
        return Operations(macs=macs + cells * (gates - 1) * 2)
    spikes = float(torch.count_nonzero(out))
    acs += spikes * H if layer.recurrent else 0.0
    # alpha (u - q s) + (1 - alpha) I is two products, beta w + a u two more; what a spike adds (reset, b s) are additions
    return Operations(macs=macs + cells * (4 if layer.adaptive else 2), acs=acs + spikes * (2 if layer.adaptive else 1))


def evaluate(model: SpArch, clips: Iterable[Tensor], targets: Sequence[int]) -> Report:
    """Clips [T] at the model's rate (or spike counts [units, bins]) and their classes -> figures, one example at a time, without padding."""
    classes = len(model.labels)
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    total, rates = Operations(), []
    count = 0
    for clip, target in zip(clips, targets, strict=True):
        with torch.inference_mode():
            features = model.features(clip[None]) if clip.ndim == 1 else clip[None]
            answer = int(model.logits(features).argmax())
        operations, rate = count_operations(model, features)
        total += operations
        if rate is not None:
            rates.append(rate)
        confusion[target, answer] += 1
        count += 1
    mean = Operations(macs=total.macs / max(1, count), acs=total.acs / max(1, count))
    return Report(examples=count, correct=int(confusion.diagonal().sum()), confusion=confusion, rate=sum(rates) / len(rates) if rates else None,
                  operations=mean, parameters=model.parameter_count())
