"""A run is a folder: what was asked for, what happened, and the models that came of it.

    config.yaml      the resolved recipe: with the commit in run.json all that is needed to do it again
    run.json         commit, seed, machine, versions, command, and every time it was resumed
    log.jsonl        figures by step; tensorboard/ holds the same, with audio and pictures
    checkpoints/     last.ckpt (for `resume`) and the best ones by validation
    best/, last/     models for `wavespike.load`: the best by validation, and the one of the last step
    cache/           decoded audio and pitch labels

Everything is written under a temporary name and renamed, so a kill at any moment leaves whole files.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import pickle
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import yaml

import wavespike
from wavespike.config import to_dict
from wavespike.errors import CheckpointError, ConfigError, OutputError, TrainingError, UsageError
from wavespike.models.base import Model
from wavespike.models.registry import build
from wavespike.training.config import TrainConfig, plain, train_config
from wavespike.training.data import Data
from wavespike.training.keeper import RunKeeper, replace_text
from wavespike.training.parallel import AveragingStrategy
from wavespike.training.registry import data_class, task_class
from wavespike.training.task import Task

CONFIG, FACTS, LOG, LAST = "config.yaml", "run.json", "log.jsonl", "checkpoints/last.ckpt"
WHOLE = "expected a whole checkpoint of this run, got one that does not load"
FOLDER_VARIABLE = "WAVESPIKE_RUN"
"""Environment variable that tells the processes started for DDP which folder the first one chose."""

Report = Callable[[str], None]


def is_first() -> bool:
    """Whether this is the first process of the run, also before the processes are connected (started by Lightning, torchrun or SLURM)."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def to_stderr(line: str) -> None:
    """Reports of the first process, one line each."""
    if is_first():
        print(line, file=sys.stderr, flush=True)


def new_folder(name: str, chosen: str | Path | None = None) -> Path:
    """Make the folder of a new run: the chosen one, or runs/NAME, runs/NAME-2, ... Raises UsageError when the chosen one holds a run."""
    if not is_first():
        return Path(os.environ.get(FOLDER_VARIABLE) or chosen or f"runs/{name}")
    folder = Path(chosen) if chosen is not None else Path("runs") / name
    if chosen is None:
        number = 1
        while (folder / CONFIG).exists():
            number += 1
            folder = Path("runs") / f"{name}-{number}"
    elif (folder / CONFIG).exists():
        raise UsageError(f"{folder}: expected a new run folder, got one with a run; continue it with 'wavespike resume {folder}', or choose another --run")
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: expected a folder that can be written, got {error.strerror or error}; choose another --run") from error
    os.environ[FOLDER_VARIABLE] = str(folder.resolve())
    return folder


def train(config: TrainConfig, chosen: str | Path | None = None) -> Path:
    """Check what can be checked at once, make the run's folder, train -> the folder."""
    data_class(config.data.type_name).check(config)
    return start(config, new_folder(config.name, chosen))


def start(config: TrainConfig, folder: Path, *, model: Model[Any] | None = None, data: Callable[..., Data] | None = None, report: Report = to_stderr) -> Path:
    """Train from step 0 in a folder of `new_folder`. `model` replaces the one that would be built from the configuration, `data` the class of its data."""
    if is_first():
        replace_text(folder / CONFIG, yaml.safe_dump(plain(config), sort_keys=False))
        replace_text(folder / FACTS, json.dumps(facts(config), indent=2) + "\n")
    keeper = RunKeeper(folder, config, report)
    try:
        _fit(config, keeper, None, model, report, data)
    except BaseException:
        if not keeper.started and is_first():
            _unmake(folder)
        raise
    return folder


def _unmake(folder: Path) -> None:
    """Take back a run that never started; what else is in the folder stays."""
    for name in (CONFIG, FACTS):
        (folder / name).unlink(missing_ok=True)
    for empty in (folder / "checkpoints", folder, folder.parent if folder.parent.name == "runs" else folder):
        with contextlib.suppress(OSError):
            empty.rmdir()


def resume(folder: Path, *, model: Model[Any] | None = None, report: Report = to_stderr) -> Path:
    """Go on from the last checkpoint of a run (from step 0 when it was stopped before the first one)."""
    config = read_config(folder)
    last = folder / LAST
    checkpoint = last if last.is_file() else None
    if (folder / "last" / "config.json").is_file() and checkpoint is not None:
        done = steps_of(checkpoint)
        if done >= config.trainer.steps:
            report(f"{folder}: already at step {done} of {config.trainer.steps}; to train longer raise trainer.steps in {folder / CONFIG}, then resume")
            return folder
    _fit(config, RunKeeper(folder, config, report, resumed=checkpoint is not None), checkpoint, model, report)
    return folder


def steps_of(checkpoint: Path) -> int:
    """Steps done in a checkpoint. Raises CheckpointError when it does not load."""
    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["wavespike"]["steps_done"])
    except (EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{checkpoint}: {WHOLE} ({error}); copy one of the best over it") from error


def read_config(folder: Path) -> TrainConfig:
    """The configuration of a run folder. Raises UsageError when it is not one."""
    path = folder / CONFIG
    if not path.is_file():
        raise UsageError(f"{folder}: expected a run folder with {CONFIG}, found none; give the folder that 'wavespike train' named")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected YAML, got text that does not parse; restore the file") from error
    return train_config(data if isinstance(data, dict) else {})


def facts(config: TrainConfig) -> dict[str, Any]:
    """Commit, seed, machine and versions, for results that can be traced."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "name": config.name, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": [Path(sys.argv[0]).name, *sys.argv[1:]], "commit": commit(),
        "seed": config.trainer.seed,
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count(), "gpus": gpus, "threads": torch.get_num_threads()},
        "versions": {"wavespike": wavespike.__version__, "python": platform.python_version(), "torch": torch.__version__, "lightning": importlib.metadata.version("lightning")},
        "resumed": [],
    }


def commit() -> str | None:
    """The commit of the source tree that wavespike runs from (`+changes` when files differ from it), None outside of one."""
    root = Path(wavespike.__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        if git("ls-files", "--", "__init__.py") == "":  # installed inside somebody else's repository
            return None
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def build_model(config: TrainConfig, fresh: bool = True) -> Model[Any]:
    """The model of a recipe with weights from the seed, from `init`, or (not `fresh`) any, because a checkpoint follows.

    A fresh model with a feature extractor that has codebooks of another model (EnCodec) takes them.
    """
    torch.manual_seed(config.trainer.seed)
    model = build(to_dict(config.model))
    if not fresh:
        return model
    if config.init is not None:
        from wavespike.hub.load import load
        from wavespike.hub.state import load_state

        source = Path(config.init) / "best" if (Path(config.init) / "best" / "config.json").is_file() else config.init
        trained = load(source)
        if type(trained) is not type(model):
            raise CheckpointError(f"recipe.init: expected a {type(model).__name__}, got a {type(trained).__name__} in {config.init}; choose another")
        load_state(model, trained.state_dict(), str(config.init))
    elif (copy := getattr(getattr(model, "feature_extractor", None), "copy_codebooks", None)) is not None:
        copy()
    return model


def _fit(config: TrainConfig, keeper: RunKeeper, checkpoint: Path | None, model: Model[Any] | None, report: Report,
         data_type: Callable[..., Data] | None = None) -> None:
    t, folder = config.trainer, keeper.folder
    _quiet()
    if t.threads is not None:
        torch.set_num_threads(t.threads)
    if t.accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError("recipe.trainer.accelerator: expected a CUDA device, found none; use trainer.accelerator=cpu")
    model = build_model(config, checkpoint is None) if model is None else model
    torch.manual_seed(t.seed)
    task: Task = task_class(config.task.type_name)(model, config)
    data: Data = (data_type or data_class(config.data.type_name))(config, model, folder, report)
    on_cpu = t.accelerator == "cpu" or not torch.cuda.is_available()
    many = t.devices * t.num_nodes > 1
    strategy: Any = AveragingStrategy(process_group_backend="gloo" if on_cpu else None) if many else "auto"
    trainer = L.Trainer(
        accelerator="cpu" if on_cpu else "cuda", devices=t.devices, num_nodes=t.num_nodes, strategy=strategy, max_epochs=-1,
        max_steps=-1, logger=False, callbacks=[keeper], enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False, default_root_dir=str(folder),
    )
    try:
        trainer.fit(task, datamodule=data, ckpt_path=str(checkpoint) if checkpoint else None, weights_only=True)
    except SystemExit as end:  # Lightning's answer to Ctrl-C
        if keeper.interrupted:
            raise KeyboardInterrupt from end
        raise
    except (EOFError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        if checkpoint is not None and not keeper.started:
            raise CheckpointError(f"{checkpoint}: {WHOLE} ({error}); copy one of the best over it") from error
        raise
    if not keeper.finished:
        raise TrainingError(f"{folder}: training ended early at step {task.steps_done} of {t.steps}; continue it with 'wavespike resume {folder}'")


def _quiet() -> None:
    """The trainer's notes about itself are not ours."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning.*")
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*")
