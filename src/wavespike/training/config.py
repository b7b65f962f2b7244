"""What a training run is made of: frozen configurations of the model, the task, the data, the optimiser and the trainer."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from wavespike.config import Config, from_dict, to_dict
from wavespike.errors import ConfigError
from wavespike.models.registry import model_class
from wavespike.training.registry import data_class, task_class


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig(Config):
    """Base of the configurations of tasks (ways of learning)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Base of the configurations of data. `batch_size` is that of one process and one micro-batch; `num_workers` 0 loads in the training process.

    `train` and `valid` are list files or folders (one or several). `cache` is a folder for what is computed once; None is `cache` in the run folder.
    """

    train: str | tuple[str, ...] | None = None
    valid: str | tuple[str, ...] | None = None
    batch_size: int = 16
    num_workers: int = 0
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_workers < 0:
            raise ConfigError(f"data: expected batch_size >= 1 and num_workers >= 0, got {self.batch_size} and {self.num_workers}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Config):
    """An optimiser and its learning rate over the steps.

    lr(n) = learning_rate * min(1, (n + 1) / warmup_steps) * s(n) with s one of: constant 1; cosine from 1 to `final_ratio` at the last step;
    exponential `decay` ** (n / decay_steps); step `decay` ** floor(n / decay_steps).
    """

    name: Literal["adamw", "adam", "radam"] = "adamw"
    learning_rate: float = 5e-4
    betas: tuple[float, float] = (0.8, 0.9)
    eps: float = 1e-8
    weight_decay: float = 0.01
    schedule: Literal["constant", "cosine", "exponential", "step"] = "cosine"
    warmup_steps: int = 0
    final_ratio: float = 0.0
    decay: float = 0.5
    decay_steps: int = 100_000

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ConfigError(f"optimizer.learning_rate: expected a value above 0, got {self.learning_rate}")
        if self.decay_steps < 1 or self.warmup_steps < 0:
            raise ConfigError(f"optimizer: expected decay_steps >= 1 and warmup_steps >= 0, got {self.decay_steps} and {self.warmup_steps}")

    def rate_at(self, step: int, steps: int) -> float:
        """Learning rate of step 0, 1, ... of `steps`."""
        rate = self.learning_rate * (min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0)
        if self.schedule == "cosine":
            rate *= max(self.final_ratio, 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps)))))
        elif self.schedule == "exponential":
            rate *= self.decay ** (step / self.decay_steps)
        elif self.schedule == "step":
            rate *= self.decay ** (step // self.decay_steps)
        return rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainerConfig(Config):
    """How long, how often, where.

    steps            updates of the model (a discriminator's updates are not counted)
    validate_every   steps between validations; a last one follows the last step
    checkpoint_every steps between writes of `checkpoints/last.ckpt`
    keep_best        checkpoints kept by `monitor` (a validation figure; None is the task's own choice)
    accumulate       micro-batches a step; one step sees batch_size * accumulate * devices * num_nodes items
    threads          CPU threads a process; None leaves PyTorch's choice
    precision        "bf16-mixed" lets a task compute parts in bfloat16 (discriminators, backbones, the encoder and decoder of a codec); spectra and losses stay in float32
    clip             limit of the gradient's norm; None does not clip
    ema_decay        decay of the exponential moving average of the weights, which is then validated and exported; 0 is off
    """

    steps: int = 1_000_000
    validate_every: int = 5_000
    checkpoint_every: int = 1_000
    log_every: int = 50
    keep_best: int = 3
    monitor: str | None = None
    seed: int = 4444
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    threads: int | None = None
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    accumulate: int = 1
    clip: float | None = None
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "validate_every", "checkpoint_every", "log_every", "keep_best", "devices", "num_nodes", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"trainer.{name}: expected 1 or more, got {getattr(self, name)}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"trainer.threads: expected 1 or more, got {self.threads}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"trainer.ema_decay: expected 0 <= ema_decay < 1, got {self.ema_decay}")
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"trainer.clip: expected a value above 0, got {self.clip}; leave it out to not clip")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """A whole run. `init` starts from the weights of a preset, a model folder or a run folder (its `best`) of the same configuration."""

    name: str
    model: Config
    task: TaskConfig
    data: DataConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    trainer: TrainerConfig = TrainerConfig()
    init: str | None = None


def train_config(data: dict[str, Any]) -> TrainConfig:
    """Plain data of a recipe -> configuration, strictly: the `type` of model, task and data selects the class through its registry."""
    data = dict(data)
    for key in ("model", "task", "data"):
        if key == "data":
            data.setdefault("data", {})
        part = data.get(key)
        if not isinstance(part, dict):
            raise ConfigError(f"recipe.{key}: expected a mapping with a type, got {'nothing' if part is None else repr(part)}")
        part = dict(part)
        if key == "data":
            part.setdefault("type", "audio")
        kind = part.pop("type", None)
        owner: Any = {"model": model_class, "task": task_class, "data": data_class}[key](kind)
        data[key] = from_dict(owner.config_class, part, f"recipe.{key}")
    return from_dict(TrainConfig, data, "recipe")


def plain(config: TrainConfig) -> dict[str, Any]:
    """The inverse of `train_config`."""
    out: dict[str, Any] = to_dict(config)
    return out
