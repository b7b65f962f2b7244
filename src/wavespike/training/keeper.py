"""What is kept of a run while it goes: figures, checkpoints, exported models, a progress bar."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from torch import Tensor

from wavespike.errors import MissingDependencyError, OutputError, TrainingError, nearest
from wavespike.hub.load import save
from wavespike.training.config import TrainConfig, plain
from wavespike.training.task import Task


def replace_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it. Raises OutputError when that fails."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: expected a file that can be written, got {error.strerror or error}; free some space or choose another --run") from error
    finally:
        temporary.unlink(missing_ok=True)


class RunKeeper(L.Callback):
    """Writes the run folder. Only the first process writes; all take part in saving, as Lightning asks."""

    def __init__(self, folder: Path, config: TrainConfig, report: Callable[[str], None], resumed: bool = False):
        self.folder, self.config, self.report, self.resumed = folder, config, report, resumed
        self.started = self.finished = self.interrupted = False
        self.writer: Any = None
        self.rows: Any = None
        self.bar: Any = None

    # figures

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        assert isinstance(task, Task)
        self.started = True
        self.begin = self.previous = (time.monotonic(), task.steps_done)
        self.has_validation = bool(trainer.val_dataloaders)
        if not trainer.is_global_zero:
            return
        for leftover in (self.folder / "checkpoints").glob("*.part"):
            leftover.unlink()
        self._trim_log(task.steps_done)
        self.rows = (self.folder / "log.jsonl").open("a", encoding="utf-8")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependencyError("training logs", "tensorboard", "train") from error
        self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=task.steps_done + 1 if self.resumed else None)
        for name, hint in getattr(getattr(task, "judge", None), "missing", {}).items():
            self.report(f"validation without {name}: its package is not installed ({hint})")
        if self.resumed:
            facts = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
            facts["resumed"].append({"step": task.steps_done, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
            replace_text(self.folder / "run.json", json.dumps(facts, indent=2) + "\n")
            self.report(f"{self.folder}: resumed at step {task.steps_done} of {self.config.trainer.steps}")
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.bar.start()
            self.row = self.bar.add_task(self.config.name, total=self.config.trainer.steps, completed=task.steps_done, note="")

    def _trim_log(self, step: int) -> None:
        """Drop rows after the checkpoint (they will come again) and a last line that a kill cut in half."""
        path = self.folder / "log.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
        replace_text(path, "".join(f"{line}\n" for line in kept))

    def _write(self, kind: str, step: int, figures: dict[str, float]) -> None:
        if self.rows is None:
            return
        self.rows.write(json.dumps({"step": step, "kind": kind, **figures}) + "\n")
        self.rows.flush()
        for name, value in figures.items():
            self.writer.add_scalar(f"{kind}/{name}", value, step)

    def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, *rest: Any) -> None:
        assert isinstance(task, Task)
        t, step = self.config.trainer, task.steps_done
        if step % t.log_every == 0 or step == t.steps or step == 1:
            now = time.monotonic()
            figures = {name: float(value) for name, value in task.figures.items()}
            figures["steps_per_second"] = (step - self.previous[1]) / max(1e-9, now - self.previous[0])
            self.previous = (now, step)
            self._write("train", step, figures)
            note = "  ".join(f"{name.removeprefix('loss/')} {value:.3f}" for name, value in figures.items() if name.startswith("loss/"))
            if self.bar is not None:
                self.bar.update(self.row, completed=step, note=note)
            elif trainer.is_global_zero:
                self.report(f"step {step}/{t.steps}  {note}  {figures['steps_per_second']:.2f} steps/s")
        elif self.bar is not None:
            self.bar.update(self.row, completed=step)
        validates = self.has_validation and (step % t.validate_every == 0 or step == t.steps)
        if not validates and (step % t.checkpoint_every == 0 or step == t.steps):  # else after the validation, which then is not done twice
            self._save(trainer, self.folder / "checkpoints" / "last.ckpt")

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        assert isinstance(task, Task)
        if task.steps_done >= self.config.trainer.steps:
            trainer.should_stop = True
            self.finished = True
            if trainer.is_global_zero:
                self._export(task, "last", {})

    # validation and checkpoints

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        assert isinstance(task, Task)
        step, figures = task.steps_done, task.last_validation
        self._write("valid", step, figures)
        if trainer.is_global_zero:
            self._show(task, step)
            text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items() if "@" not in name)
            (self.bar.console.print if self.bar is not None else self.report)(f"step {step}  validation: {text}")
        self._keep_best(trainer, task, step, figures)
        self._save(trainer, self.folder / "checkpoints" / "last.ckpt")

    def _keep_best(self, trainer: L.Trainer, task: Task, step: int, figures: dict[str, float]) -> None:
        monitor = self.config.trainer.monitor or task.monitor
        if monitor not in figures:
            if f"{monitor}_failed" in figures:
                return  # no item has it this time
            raise TrainingError(f"trainer.monitor: expected a figure of the validation ({', '.join(figures)}), got {monitor!r}{nearest(monitor, figures)}")
        sign = 1.0 if task.lower_is_better(monitor) else -1.0
        path = self.folder / "checkpoints" / f"step-{step:08d}_{monitor}={figures[monitor]:.6g}.ckpt"
        kept = {p: sign * float(p.stem.rpartition("=")[2]) for p in path.parent.glob(f"step-*_{monitor}=*.ckpt") if p != path}
        mine = sign * figures[monitor]
        best = all(mine < score for score in kept.values())
        worth = len(kept) < self.config.trainer.keep_best or any(mine < score for score in kept.values())
        best, worth = trainer.strategy.broadcast((best, worth))
        if not worth:
            return
        self._save(trainer, path)
        if trainer.is_global_zero:
            for old in sorted(kept, key=lambda p: kept[p])[max(0, self.config.trainer.keep_best - 1) :]:
                if kept[old] >= mine:
                    old.unlink(missing_ok=True)
            if best:
                self._export(task, "best", figures)

    def _save(self, trainer: L.Trainer, path: Path) -> None:
        part = path.with_suffix(".part")
        try:
            trainer.save_checkpoint(part)
            if trainer.is_global_zero:
                os.replace(part, path)
        except (OSError, RuntimeError) as error:
            part.unlink(missing_ok=True)
            raise OutputError(f"{path}: expected a checkpoint to be written, got {error}; free some space, then 'wavespike resume {self.folder}'") from error

    def _export(self, task: Task, name: str, figures: dict[str, float]) -> None:
        save(task.judged, self.folder / name, card=card(self.config, task.steps_done, figures),
             training={"recipe": plain(self.config), "step": task.steps_done, "validation": figures})

    def _show(self, task: Task, step: int) -> None:
        """Audio and pictures of the last validation."""
        shown: dict[str, tuple[Tensor, Tensor]] = getattr(task, "shown", {})
        for name, (original, output) in shown.items():
            rate = task.model.sample_rate
            for what, audio in (("original", original), ("output", output)):
                if what == "output" or step == self.config.trainer.validate_every:
                    self.writer.add_audio(f"{name}/{what}", audio[None].clamp(-1, 1), step, rate)
            figure = spectrogram_pair(original, output, rate)
            if figure is not None:
                self.writer.add_figure(f"{name}/spectrogram", figure, step)
        self.writer.flush()

    # the end

    def on_exception(self, trainer: L.Trainer, task: L.LightningModule, exception: BaseException) -> None:
        self.interrupted = isinstance(exception, KeyboardInterrupt)
        if self.interrupted and self.started and trainer.is_global_zero:
            if self.bar is not None:
                self.bar.stop()
            self.report(f"{self.folder}: stopped; continue it with 'wavespike resume {self.folder}'")

    def teardown(self, trainer: L.Trainer, task: L.LightningModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.stop()
        if self.writer is not None:
            self.writer.close()
        if self.rows is not None:
            self.rows.close()
            self.rows = None


def spectrogram_pair(original: Tensor, output: Tensor, sample_rate: int) -> Any:
    """A figure with the log-mel spectrograms of original and output [T] side by side; None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    from wavespike.signal.mel import log_mel
    from wavespike.training.adversarial_losses import mel_loss_config

    config = mel_loss_config(sample_rate)
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    rows = [log_mel(x[None], config)[0].numpy() for x in (original, output)]
    top = max(r.max() for r in rows)
    for axes, mel, title in zip(figure.subplots(1, 2, sharey=True), rows, ("original", "output"), strict=True):
        extent = (0, mel.shape[1] * config.hop_length / sample_rate, 0, mel.shape[0])
        axes.imshow(mel, origin="lower", aspect="auto", vmin=top - 10, vmax=top, extent=extent)
        axes.set(title=title, xlabel="time in s", ylabel="mel band")
    return figure


def card(config: TrainConfig, step: int, figures: dict[str, float]) -> str:
    """The model card of an export: where it comes from and what it scored, for a person to complete."""
    rows = [f"| {name} | {value:.4g} |" for name, value in figures.items() if math.isfinite(value)]
    table = ["## Metrics", "", "On the run's validation data.", "", "| figure | value |", "|---|---|", *rows, ""] if rows else []
    sources = [str(s) for s in ((config.data.train,) if isinstance(config.data.train, str) else config.data.train or ())]
    return "\n".join([
        f"# {config.name}", "", f"A {config.model.type_name} model, trained with the task `{config.task.type_name}` for {step} steps with wavespike.", "",
        "## Data", "", *(f"- {Path(s).name}" for s in sources), "", *table,
        "## Licence", "", "Not stated: it depends on the data; state it before you publish.", "",
        "## Intended use", "", "Resynthesis of speech. Not judged by listeners.", "",
    ])


