"""Judging recognisers: accuracy per example with a 95 % interval, confusion, firing rates, and operations per inference counted from real tensors.

Equations: the interval is Wilson's, (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), z = 1.96; operations and their prices are those of
`wavespike.metrics.energy`. A product with spikes costs one AC for every synapse of every spike, one with other values a MAC for every synapse of the layer.
Departures: a normalisation is counted as part of the linear map that it can be folded into; the front end and the softmax are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from wavespike.metrics.energy import TECHNOLOGIES, Operations
from wavespike.models.sparch import ANN, SpArch
from wavespike.nn.recurrent import DelayedLinear, RecurrentLayer

PRICES = TECHNOLOGIES["45nm"]


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
                "energy_uj": round(energy_uj(self.operations), 2), "parameters": self.parameters}

    def text(self) -> str:
        """One line for a person."""
        low, high = self.interval
        rate = "" if self.rate is None else f", firing rate {100 * self.rate:.1f} %"
        return (f"accuracy {100 * self.accuracy:.1f} % (95 %: {100 * low:.1f}-{100 * high:.1f}; {self.correct} of {self.examples}){rate}, "
                f"{energy_uj(self.operations):.2f} uJ an inference ({self.operations.macs:.3g} MACs, {self.operations.acs:.3g} ACs)")


def wilson(correct: int, examples: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a proportion. (0, 1) without examples."""
    if examples == 0:
        return 0.0, 1.0
    p = correct / examples
    centre, spread = p + z * z / (2 * examples), z * math.sqrt(p * (1 - p) / examples + z * z / (4 * examples**2))
    scale = 1 + z * z / examples
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def energy_uj(operations: Operations) -> float:
    """Microjoules in 45 nm, 32-bit floats."""
    return operations.energy_pj(PRICES) * 1e-6


@torch.inference_mode()
def count_operations(model: SpArch, features: Tensor) -> tuple[Operations, float | None]:
    """Operations of one inference (features [1, C, L]) and the mean firing rate, from the tensors that really occur."""
    model.eval()
    x, _ = model.steps(features)
    h = x.transpose(0, 1)
    total, fired, cells = Operations(), 0.0, 0
    net = model.net
    for number, layer in enumerate(net.layers):
        out, _ = layer(h)
        total += _layer(layer, h, out, analogue=number == 0 or not layer.spiking)
        fired, cells = fired + float(out.sum()), cells + out.numel()
        h = out
    classes = len(model.labels)
    if isinstance(net, ANN):  # one product, after the sum over time
        total += Operations(macs=h.shape[1] * h.shape[2] * classes)
        return total, None
    readings = float(classes * h.shape[0] * h.shape[1])
    total += Operations(acs=float(torch.count_nonzero(h)) * classes, neuron_multiplies=2 * readings, neuron_adds=readings)
    return total, fired / cells


def _layer(layer: RecurrentLayer, x: Tensor, out: Tensor, analogue: bool) -> Operations:
    """x [S, B, F] -> out [S, B, H (x 2)]."""
    H, gates = layer.hidden_size, len(layer.gates)
    sides = 2 if layer.bidirectional and isinstance(layer.W, DelayedLinear) else 1
    cells = float(out.numel())
    if analogue:
        done = Operations(macs=float(x.numel()) * H * gates * sides, effective_macs=float(torch.count_nonzero(x)) * H * gates * sides)
    else:
        done = Operations(acs=float(torch.count_nonzero(x)) * H * sides)
    if not layer.spiking:
        done += Operations(macs=cells * H * gates if layer.recurrent else 0.0, functions=cells * gates)
        if gates > 1:  # z y + (1 - z) c, and r y
            done += Operations(multiplies=cells * gates, adds=cells * 2)
        return done
    spikes = float(torch.count_nonzero(out))
    done += Operations(acs=spikes * H if layer.recurrent else 0.0)
    # alpha (u - q s) + (1 - alpha) I: two products, a sum; adaptation beta w + a u and I - w: two products, two sums; a spike adds its reset and b
    done += Operations(neuron_multiplies=cells * (4 if layer.adaptive else 2), neuron_adds=cells * (3 if layer.adaptive else 1)
                       + spikes * (2 if layer.adaptive else 1), neuron_comparisons=cells)
    return done


def evaluate(model: SpArch, clips: Iterable[Tensor], targets: Sequence[int]) -> Report:
    """Clips [T] at the model's rate (or spike counts [units, bins]) and their classes -> figures, one example at a time, without padding."""
    classes = len(model.labels)
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    total = Operations()
    rates: list[float] = []
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
    mean = Operations(**{name: value / max(1, count) for name, value in asdict(total).items()})
    return Report(examples=count, correct=int(confusion.diagonal().sum()), confusion=confusion, rate=sum(rates) / len(rates) if rates else None,
                  operations=mean, parameters=model.parameter_count())
