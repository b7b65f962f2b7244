"""Training recognisers of spoken words (Bittar and Garner, 2022).

L = CE(scores, label) + reg_factor (sum relu(reg_fmin - r) + sum relu(r - reg_fmax)), r the firing rate of each neuron in the batch.
The learning rate falls by `scheduler_factor` when the validation accuracy has not risen for more than `scheduler_patience` validations.
Departures: rates are those of the spikes themselves (published: after dropout, scaled); accuracy is counted per example, not per batch.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from wavespike.errors import ConfigError
from wavespike.models.base import Model
from wavespike.models.sparch import SpArch
from wavespike.training.config import OptimizerConfig, TaskConfig, TrainConfig
from wavespike.training.task import Batch, Figures, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationConfig(TaskConfig):
    """SpArch's regulariser and scheduler under its own names and defaults.

    scheduler_min_lr  below it the learning rate does not fall
    label_smoothing   share of the target that is spread over all classes (0: as published)
    rate_weight       weight of the mean firing rate in the loss (0: as published)
    """

    type_name: ClassVar[str] = "classification"

    use_regularizers: bool = False
    reg_factor: float = 0.5
    reg_fmin: float = 0.01
    reg_fmax: float = 0.5
    use_scheduler: bool = True
    scheduler_patience: int = 1
    scheduler_factor: float = 0.7
    scheduler_min_lr: float = 1e-6
    label_smoothing: float = 0.0
    rate_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.reg_fmin <= self.reg_fmax <= 1:
            raise ConfigError(f"task: expected 0 <= reg_fmin <= reg_fmax <= 1, got {self.reg_fmin} and {self.reg_fmax}")
        if not 0 < self.scheduler_factor <= 1 or self.scheduler_patience < 0:
            raise ConfigError(f"task: expected 0 < scheduler_factor <= 1 and scheduler_patience >= 0, got {self.scheduler_factor} and {self.scheduler_patience}")


def rate_penalty(rates: Tensor, low: float, high: float) -> Tensor:
    """sum relu(low - r) + sum relu(r - high) over neurons [H]."""
    return F.relu(low - rates).sum() + F.relu(rates - high).sum()


class Plateau:
    """Factor on the learning rate: multiplied by `factor` when a figure has not risen for more than `patience` updates (PyTorch's rule, mode max)."""

    def __init__(self, factor: float, patience: int):
        self.factor, self.patience = factor, patience
        self.best, self.bad, self.scale = -float("inf"), 0, 1.0

    def update(self, value: float) -> None:
        if value > self.best * (1 + 1e-4) or self.best == -float("inf"):
            self.best, self.bad = value, 0
            return
        self.bad += 1
        if self.bad > self.patience:
            self.scale, self.bad = self.scale * self.factor, 0


class ClassificationTask(Task):
    """Batches {"features": [B, C, L], "lengths": [B], "target": [B]}."""

    config_class: ClassVar[type[TaskConfig]] = ClassificationConfig
    monitor: ClassVar[str] = "accuracy"

    model: SpArch

    def __init__(self, model: Model[Any], config: TrainConfig):
        if not isinstance(model, SpArch):
            raise ConfigError(f"recipe.task: expected a recogniser to train, got the {model.kind or 'unknown'} model {type(model).__name__}; choose another task")
        super().__init__(model, config)
        assert isinstance(config.task, ClassificationConfig)
        self.config = config.task
        self.plateau = Plateau(self.config.scheduler_factor, self.config.scheduler_patience)

    def optimizer_of(self, phase: str) -> OptimizerConfig:
        base = self.train_config.optimizer
        rate = max(base.learning_rate * self.plateau.scale, min(self.config.scheduler_min_lr, base.learning_rate))
        return dataclasses.replace(base, learning_rate=rate)

    def loss(self, phase: str, batch: Batch) -> tuple[Tensor, Figures]:
        c = self.config
        logits, rates = self.model.scores(batch["features"], batch["lengths"])
        entropy = F.cross_entropy(logits, batch["target"], label_smoothing=c.label_smoothing)
        figures: Figures = {"entropy": entropy.detach(), "accuracy": (logits.argmax(-1) == batch["target"]).float().mean()}
        total = entropy
        if rates is not None:
            figures["rate"] = rates.mean().detach()
            if c.use_regularizers:
                penalty = rate_penalty(rates, c.reg_fmin, c.reg_fmax)
                figures["regularizer"] = penalty.detach()
                total = total + c.reg_factor * penalty
            total = total + c.rate_weight * rates.mean()
        return total, figures

    def validate(self, batch: Batch, index: int) -> dict[str, float | None]:
        judged = self.judged
        assert isinstance(judged, SpArch)
        logits, rates = judged.scores(batch["features"], batch["lengths"])
        right = (logits.argmax(-1) == batch["target"]).float().mean()
        out: dict[str, float | None] = {"accuracy": float(right), "entropy": float(F.cross_entropy(logits, batch["target"]))}
        if rates is not None:
            out["rate"] = float(rates.mean())
        return out

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if self.config.use_scheduler and "accuracy" in self.last_validation:
            self.plateau.update(self.last_validation["accuracy"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["wavespike"]["plateau"] = {"best": self.plateau.best, "bad": self.plateau.bad, "scale": self.plateau.scale}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        for name, value in checkpoint["wavespike"]["plateau"].items():
            setattr(self.plateau, name, value)


def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Items {"features": [C, L], "target": []} -> a padded batch with lengths."""
    lengths = torch.tensor([item["features"].shape[1] for item in items])
    longest = int(lengths.max())
    features = torch.stack([F.pad(item["features"], (0, longest - item["features"].shape[1])) for item in items])
    return {"features": features, "lengths": lengths, "target": torch.stack([item["target"] for item in items])}
