"""A task is a way of learning: which losses in which order. Everything else about a step is here, once.

A step of the run is one update of the model. It goes through the task's phases (for example discriminator, then generator), each with its own
optimiser: zero gradients, accumulate over micro-batches, clip, update. Learning rates, random numbers and data are functions of the step, so the state
of a run is the weights, the optimisers' moments and `steps_done`.
"""

from __future__ import annotations

import abc
import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from wavespike.errors import ConfigError, TrainingError
from wavespike.models.base import Model
from wavespike.training.config import OptimizerConfig, TaskConfig, TrainConfig
from wavespike.training.parallel import average_gradients

Batch = dict[str, Tensor]
Figures = dict[str, Tensor | float]


class Task(L.LightningModule, abc.ABC):
    """Base of tasks. A subclass gives `loss`, and where it has more than one phase `phases`, `parameters_of` and `optimizer_of`.

    `self.model` learns; `self.judged` is what is validated and exported: its moving average where `trainer.ema_decay` is above 0.
    """

    config_class: ClassVar[type[TaskConfig]]
    monitor: ClassVar[str] = "mel"
    """The validation figure that picks the best checkpoints, unless `trainer.monitor` names another."""

    def __init__(self, model: Model[Any], config: TrainConfig):
        super().__init__()
        self.automatic_optimization = False
        self.model, self.train_config = model, config
        self.steps_done = 0
        self.average: Model[Any] | None = None
        if config.trainer.ema_decay:
            self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.figures: Figures = {}
        """Figures of the last step, for logs."""
        self.last_validation: dict[str, float] = {}

    # what a task gives

    @classmethod
    def needs_pitch(cls, config: TrainConfig) -> bool:
        """Whether audio batches must carry pitch labels."""
        return False

    def phases(self, step: int) -> tuple[str, ...]:
        """The phases of a step, in order; the last one updates the model."""
        return ("model",)

    @abc.abstractmethod
    def loss(self, phase: str, batch: Batch) -> tuple[Tensor, Figures]:
        """The loss whose gradient a phase follows, and figures for the log."""

    def parameters_of(self, phase: str) -> Iterator[nn.Parameter]:
        """What a phase updates. Everything else is held fixed in it."""
        return (p for p in self.model.parameters() if p.requires_grad)

    def optimizer_of(self, phase: str) -> OptimizerConfig:
        return self.train_config.optimizer

    def shares_of(self, phase: str, parameters: list[nn.Parameter]) -> dict[float, list[nn.Parameter]]:
        """The parameters of a phase by the share of the learning rate that they follow."""
        return {1.0: parameters}

    def all_phases(self) -> tuple[str, ...]:
        """Every phase that ever occurs, each once: the order of the optimisers."""
        return ("model",)

    def validate(self, batch: Batch, index: int) -> dict[str, float | None]:
        """Figures of one validation item; None says that a figure could not be computed."""
        return {}

    def lower_is_better(self, figure: str) -> bool:
        """Which way a validation figure is good."""
        return any(word in figure for word in ("mel", "loss", "error", "distance"))

    # what every task has

    @property
    def judged(self) -> Model[Any]:
        return self.model if self.average is None else self.average

    def mixed(self) -> torch.autocast:
        """`with self.mixed():` computes in bfloat16 where `trainer.precision` is bf16-mixed. Not for spectra: there are no complex bfloat16 numbers."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.train_config.trainer.precision == "bf16-mixed")

    def configure_optimizers(self) -> Any:
        makers: dict[str, Any] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "radam": torch.optim.RAdam}
        out = []
        self._held: dict[str, list[nn.Parameter]] = {}
        for phase in self.all_phases():
            c = self.optimizer_of(phase)
            self._held[phase] = list(self.parameters_of(phase))
            if not self._held[phase]:
                raise ConfigError(f"recipe.task: expected parameters to train in phase {phase!r}, got none; is this a model that learns?")
            groups = [{"params": parameters, "share": share} for share, parameters in self.shares_of(phase, self._held[phase]).items()]
            out.append(makers[c.name](groups, lr=c.learning_rate, betas=c.betas, eps=c.eps, weight_decay=c.weight_decay))
        return out

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        t = self.train_config.trainer
        optimizers = self.optimizers()
        if not isinstance(optimizers, list):
            optimizers = [optimizers]
        by_phase = dict(zip(self.all_phases(), optimizers, strict=True))
        figures: Figures = {}
        for number, phase in enumerate(self.phases(self.steps_done)):
            optimizer, parameters = by_phase[phase], self._held[phase]
            rate = self.optimizer_of(phase).rate_at(self.steps_done, t.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("share", 1.0)
            optimizer.zero_grad()
            with only(self, parameters):
                for part, piece in enumerate(micro_batches(batch, t.accumulate)):
                    self._seed(number, part)
                    value, more = self.loss(phase, piece)
                    self._check(value, phase, piece, number, part)
                    self.manual_backward(value / t.accumulate)
                    for key, figure in {f"loss/{phase}": value.detach(), **more}.items():
                        figures[key] = figures.get(key, 0.0) + figure / t.accumulate
            average_gradients(parameters, self.trainer.world_size)
            norm = nn.utils.clip_grad_norm_(parameters, t.clip if t.clip is not None else math.inf)
            if not math.isfinite(float(norm)):
                name = next((n for n, p in self.named_parameters() if p.grad is not None and not bool(torch.isfinite(p.grad).all())), "an unknown one")
                raise TrainingError(f"step {self.steps_done + 1}: the gradient of parameter {name} is not finite (phase {phase}); {self._advice()}")
            figures[f"gradient_norm/{phase}"] = float(norm)
            figures[f"learning_rate/{phase}"] = rate
            optimizer.step()
        self._follow()
        self.steps_done += 1
        self.figures = figures

    def _seed(self, *key: int) -> None:
        """Random numbers are a function of seed, step, phase, micro-batch and process: nothing about them needs to be stored."""
        value = 0
        for k in (self.train_config.trainer.seed, self.steps_done, self.global_rank, *key):  # Knuth's linear congruential step mixes them
            value = (value * 6364136223846793005 + k + 1442695040888963407) % 2**63
        torch.manual_seed(value)

    @torch.no_grad()
    def _follow(self) -> None:
        """theta' <- theta' + (1 - d) (theta - theta') with d = min(ema_decay, (n + 2) / (n + 11)): short runs are not held back by the start."""
        if self.average is None:
            return
        n = self.steps_done
        weight = 1 - min(self.train_config.trainer.ema_decay, (n + 2) / (n + 11))
        for slow, fast in zip(self.average.parameters(), self.model.parameters(), strict=True):
            slow.lerp_(fast, weight)
        for kept, now in zip(self.average.buffers(), self.model.buffers(), strict=True):
            kept.copy_(now)

    def _check(self, value: Tensor, phase: str, piece: Batch, number: int, part: int) -> None:
        """Stop all processes together when the loss of one is not finite."""
        bad = not math.isfinite(float(value.detach()))
        somewhere = bad
        if self.trainer.world_size > 1:
            flag = torch.tensor([float(bad)], device=self.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            somewhere = bool(flag.item())
        if bad:
            raise TrainingError(self._diagnose(phase, piece, number, part))
        if somewhere:
            raise TrainingError(f"step {self.steps_done + 1}: the loss of phase {phase} is not finite in another process; {self._advice()}")

    def _advice(self) -> str:
        return "training stops and the last checkpoint stays as it is; lower the learning rate, or clip the gradient (trainer.clip=10)"

    def _diagnose(self, phase: str, batch: Batch, number: int, part: int) -> str:
        """The first layer whose output is not finite, found by running the same phase again."""
        where = next((f"parameter {n}" for n, p in self.named_parameters() if not bool(torch.isfinite(p).all())), None)
        if where is None:
            self._seed(number, part)
            with torch.no_grad():
                where = first_non_finite(self, lambda: self.loss(phase, batch))
        return f"step {self.steps_done + 1}: the loss of phase {phase} is not finite, first in {where}; {self._advice()}"

    # validation: figures of all processes, failed ones left out and counted

    def on_validation_epoch_start(self) -> None:
        self._rows: dict[int, dict[str, float | None]] = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        sampler = getattr(self.trainer.val_dataloaders, "sampler", None)
        index = getattr(sampler, "indices", range(batch_idx + 1))[batch_idx]
        self._rows[index] = self.validate(batch, index)

    def on_validation_epoch_end(self) -> None:
        rows = self._rows
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, rows)
            rows = {index: row for part in gathered for index, row in part.items()}
        self.last_validation = mean_figures([rows[index] for index in sorted(rows)])

    # the checkpoint holds exactly the state of a run

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.pop("loops", None)  # where the run stands is steps_done, and nothing else
        checkpoint["wavespike"] = {"steps_done": self.steps_done}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps_done = int(checkpoint["wavespike"]["steps_done"])


class only:
    """Let gradients flow into these parameters alone: `with only(task, parameters): ...`."""

    def __init__(self, module: nn.Module, parameters: list[nn.Parameter]):
        self.module, self.chosen = module, {id(p) for p in parameters}

    def __enter__(self) -> None:
        self.before = [(p, p.requires_grad) for p in self.module.parameters()]
        for p, _ in self.before:
            p.requires_grad_(id(p) in self.chosen)

    def __exit__(self, *error: object) -> None:
        for p, flag in self.before:
            p.requires_grad_(flag)


def micro_batches(batch: Batch, parts: int) -> list[Batch]:
    """Cut a batch {name: [parts * B, ...]} into `parts` equal ones."""
    if parts == 1:
        return [batch]
    cut = {name: value.chunk(parts) for name, value in batch.items()}
    return [{name: pieces[i] for name, pieces in cut.items()} for i in range(parts)]


def first_non_finite(module: nn.Module, run: Callable[[], Any]) -> str:
    """Run something and name the first submodule whose output is not finite, or say that it was outside of all layers."""
    found: list[str] = []

    def finite(value: Any) -> bool:
        if isinstance(value, Tensor):
            return bool(torch.isfinite(torch.view_as_real(value) if value.is_complex() else value).all())
        if isinstance(value, (tuple, list)):
            return all(map(finite, value))
        return True

    def watch(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not finite(output):
                found.append(f"layer {name} ({type(layer).__name__})")
        return hook

    handles = [layer.register_forward_hook(watch(name)) for name, layer in module.named_modules() if name]
    try:
        run()
    except Exception:
        if not found:
            raise
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "the loss itself (every layer's output is finite)"


def mean_figures(rows: list[dict[str, float | None]]) -> dict[str, float]:
    """Means over the items that have a figure; `<name>_failed` counts those that have not (None or not finite), where there are any."""
    out: dict[str, float] = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row[name] for row in rows if name in row]
        good = [v for v in values if v is not None and math.isfinite(v)]
        if good:
            out[name] = sum(good) / len(good)
        if len(good) < len(values):
            out[f"{name}_failed"] = float(len(values) - len(good))
    return out
