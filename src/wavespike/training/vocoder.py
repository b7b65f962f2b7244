"""What the tasks that train vocoders share: conditions, and how a validation item is judged."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from wavespike.errors import ConfigError
from wavespike.metrics.panel import METRICS
from wavespike.models.base import Model, Vocoder
from wavespike.training.config import TaskConfig, TrainConfig
from wavespike.training.judge import VALIDATED, Judge
from wavespike.training.task import Batch, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocoderTaskConfig(TaskConfig):
    """`metrics` are those of `wavespike.metrics` that validation computes beside the mel distance; missing packages are named once."""

    metrics: tuple[str, ...] = VALIDATED


class VocoderTask(Task):
    """Base of tasks whose model is a `Vocoder`. Raises ConfigError for another kind."""

    SHOWN = 3
    """Validation items that are kept as audio and pictures."""

    model: Vocoder[Any]

    def __init__(self, model: Model[Any], config: TrainConfig):
        if not isinstance(model, Vocoder):
            raise ConfigError(f"recipe.task: expected a vocoder to train, got the {model.kind or 'unknown'} model {type(model).__name__}; choose another task")
        super().__init__(model, config)
        assert isinstance(config.task, VocoderTaskConfig)
        self.judge = Judge(model.sample_rate, config.task.metrics)
        self.shown: dict[str, tuple[Tensor, Tensor]] = {}
        """Name -> (original, output) [T] of the last validation."""

    @property
    def num_conditions(self) -> int | None:
        """Rows of the model's adaptive norms (EnCodec bandwidths), None without them."""
        found: int | None = getattr(getattr(self.model.config, "backbone", None), "adanorm_num_embeddings", None)
        return found

    def draw_condition(self, audio: Tensor) -> Tensor | None:
        """A condition for every item [B], drawn at random, where the model has conditions."""
        n = self.num_conditions
        return None if n is None else torch.randint(0, n, (audio.shape[0],), device=audio.device)

    def lower_is_better(self, figure: str) -> bool:
        metric = METRICS.get(figure.partition("@")[0])
        return super().lower_is_better(figure) if metric is None else metric.better == "lower"

    def discriminate(self, group: nn.Module, audio: Tensor, condition: Tensor | None = None) -> tuple[list[Tensor], list[list[Tensor]]]:
        """(scores, feature maps) of a discriminator group, in the run's precision; scores are float32."""
        with self.mixed():
            scores, maps = group(audio, condition)
        return [score.float() for score in scores], maps

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.shown = {}

    def validate(self, batch: Batch, index: int) -> dict[str, float | None]:
        """Copy-synthesis of one item, under every condition where there are any: figures `<name>` over all, `<name>@<condition>` for each."""
        audio = batch["audio"]
        if self.num_conditions is None:
            output = self.judged(audio)
            self._show(f"{index}", audio, output, index)
            return self.judge(audio[0], output[0])
        rows = []
        out: dict[str, float | None] = {}
        for k in range(self.num_conditions):
            condition = torch.full((1,), k, device=audio.device)
            output = self.judged(audio, bandwidth_id=condition)
            self._show(f"{index}@{k}", audio, output, index)
            rows.append(self.judge(audio[0], output[0]))
            out |= {f"{name}@{k}": value for name, value in rows[-1].items()}
        for name in rows[0]:
            values = [v for row in rows if (v := row.get(name)) is not None]
            out[name] = sum(values) / len(values) if len(values) == len(rows) else None
        return out

    def _show(self, name: str, original: Tensor, output: Tensor, index: int) -> None:
        if index < self.SHOWN:
            self.shown[name] = (original[0].float().cpu(), output[0].float().cpu())
