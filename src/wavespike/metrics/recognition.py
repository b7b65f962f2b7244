"""Judging recognisers: accuracy per example with a 95 % interval, confusion, firing rates, and operations per inference counted from real tensors.

Equations: the interval is Wilson's, (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), z = 1.96; operations are counted by
`wavespike.metrics.energy`, as those of the vocoders: a product with spikes costs one AC for every synapse of every spike, one with other values a MAC for every
synapse of the layer.
Departures: the front end is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wavespike.metrics.energy import TECHNOLOGIES, Operations, count_run
from wavespike.models.sparch import SpArch
from wavespike.nn.recording import record_spikes, spiking_layers

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


def count_operations(model: SpArch, features: Tensor) -> tuple[Operations, float | None]:
    """Operations of one inference (features [1, C, L]) and the mean firing rate of its layers (None for a dense network), by the counter of the vocoders."""
    counted = count_run(model.eval(), lambda: model.logits(features))
    rates = list(counted.rates.values())
    return counted.total, sum(rates) / len(rates) if rates else None


def evaluate(model: SpArch, clips: Iterable[Tensor], targets: Sequence[int], *, count_every: int = 1) -> Report:
    """Clips [T] at the model's rate (or spike counts [units, bins]) and their classes -> figures, one example at a time, without padding.

    Operations are counted on every `count_every`-th example, firing rates on all.
    """
    classes = len(model.labels)
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    total = Operations()
    spikes, sites, counted, count = 0.0, 0, 0, 0
    model.eval()
    spiking = bool(spiking_layers(model))
    for clip, target in zip(clips, targets, strict=True):
        with torch.inference_mode():
            features = model.features(clip[None]) if clip.ndim == 1 else clip[None]
            with record_spikes(model) if spiking else nullcontext() as record:
                answer = int(model.logits(features).argmax())
        if record is not None:
            spikes += sum(layer.spikes for layer in record.layers.values())
            sites += sum(layer.sites for layer in record.layers.values())
        if count % count_every == 0:
            total += count_run(model, partial(model.logits, features), rates=False).total
            counted += 1
        confusion[target, answer] += 1
        count += 1
    mean = Operations(**{name: value / max(1, counted) for name, value in asdict(total).items()})
    return Report(examples=count, correct=int(confusion.diagonal().sum()), confusion=confusion, rate=spikes / max(1, sites) if spiking else None,
                  operations=mean, parameters=model.parameter_count())
