"""Data as a function of an index: item g of a run is the same whenever, wherever and however often it is asked for.

The n-th step of a run takes the global items n * G .. (n + 1) * G - 1 with G = batch_size * accumulate * processes; each process takes its own part.
What an item is depends on the seed and g alone (`generator`), so a resumed run sees exactly what the unbroken one would have seen.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as L
import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from wavespike.errors import ConfigError, TrainingError
from wavespike.models.base import Model
from wavespike.training.config import DataConfig, TrainConfig


def generator(seed: int, *key: int) -> np.random.Generator:
    """A random generator that is a function of a seed and of non-negative indices."""
    return np.random.default_rng([seed, *key])


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray[Any, Any]:
    return generator(seed, 1, epoch).permutation(size)


def shuffled(seed: int, index: int, size: int) -> int:
    """Item `index` of an endless row of shuffled epochs over `size` things: every thing once an epoch."""
    epoch, place = divmod(index, size)
    return int(_permutation(seed, epoch, size)[place])


class StepSampler(Sampler[list[int]]):
    """Global item indices of this process, one list a step, for the steps first..last-1. See the module's equation."""

    def __init__(self, first: int, last: int, per_process: int, rank: int = 0, processes: int = 1):
        self.first, self.last, self.per_process, self.rank, self.processes = first, last, per_process, rank, processes

    def __len__(self) -> int:
        return max(0, self.last - self.first)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.last):
            start = (step * self.processes + self.rank) * self.per_process
            yield list(range(start, start + self.per_process))


class Part(Sampler[int]):
    """Every `processes`-th index of `size`, from `rank`. A process that would have none repeats one (Lightning asks for one each; figures go by index)."""

    def __init__(self, size: int, rank: int, processes: int):
        self.indices = range(rank, size, processes) if rank < size else range(rank % size, rank % size + 1)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


class Data(L.LightningDataModule, abc.ABC):
    """Base of data. A subclass gives `prepare_data` (rank 0: compute and cache), `train_items`, `valid_items` and perhaps `collate`.

    `train_items()[g]` must be a function of the seed and the global index g >= 0, without end; `valid_items()` is finite and in a fixed order.
    """

    config_class: ClassVar[type[DataConfig]]

    def __init__(self, config: TrainConfig, model: Model[Any], folder: Path, report: Callable[[str], None] = print):
        super().__init__()
        self.train_config, self.model, self.folder, self.report = config, model, folder, report
        self.cache = Path(config.data.cache) if config.data.cache is not None else folder / "cache"

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        """Raise at once, before anything is made, for data that is missing altogether."""
        return None

    @abc.abstractmethod
    def train_items(self) -> Dataset[Any]:
        """Endless items by global index."""

    @abc.abstractmethod
    def valid_items(self) -> Dataset[Any] | None:
        """Finite items, or None for a run without validation."""

    collate: Callable[[list[Any]], Any] | None = None
    """How items become a batch; None stacks tensors. Validation batches have one item."""

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self._train, self._valid = self.train_items(), self.valid_items()

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)

    def train_dataloader(self) -> DataLoader[Any]:
        """The steps from the task's `steps_done` to the next validation."""
        c, t = self.train_config.data, self.train_config.trainer
        done: int = self.trainer.lightning_module.steps_done if self.trainer is not None else 0  # type: ignore[assignment]
        last = min(t.steps, (done // t.validate_every + 1) * t.validate_every)
        rank, processes = self._place()
        sampler = StepSampler(done, last, c.batch_size * t.accumulate, rank, processes)
        return DataLoader(self._train, batch_sampler=sampler, num_workers=c.num_workers, collate_fn=self.collate)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if self._valid is None:
            return []
        rank, processes = self._place()
        sampler = Part(len(self._valid), rank, processes)  # type: ignore[arg-type]
        return DataLoader(self._valid, batch_size=1, sampler=sampler, num_workers=0, collate_fn=self.collate)


def required(config: DataConfig, what: str = "train") -> tuple[str, ...]:
    """`data.train` (or another field) as a tuple. Raises ConfigError when nothing is given."""
    value = getattr(config, what)
    if not value:
        raise ConfigError(f"recipe.data.{what}: expected a list file or a folder, got nothing; add data.{what}=PATH")
    return (value,) if isinstance(value, str) else tuple(value)


AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif", ".w64")


def list_files(sources: tuple[str, ...]) -> list[Path]:
    """Paths of list files (one path a line, first tab-separated field, relative to the list's folder) and folders (searched for audio, sorted).

    Raises TrainingError for a source that is missing or names nothing.
    """
    out: list[Path] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
        elif path.is_file():
            if path.suffix.lower() in AUDIO_SUFFIXES:
                found = [path]
            else:
                try:
                    lines = path.read_text(encoding="utf-8").splitlines()
                except UnicodeDecodeError as error:
                    raise TrainingError(f"{path}: expected a list of paths in UTF-8, got another kind of file; give a list, a folder or audio") from error
                found = [path.parent / line.split("\t")[0].strip() for line in lines if line.strip()]
        else:
            raise TrainingError(f"{path}: expected a list file or a folder of audio, found nothing there; check the path")
        if not found:
            raise TrainingError(f"{path}: expected at least one audio file, found none; check the list or the folder")
        out += found
    return out


@dataclasses.dataclass(frozen=True)
class Troubles:
    """Files that cannot be used as they are: reported once, by name, with the reason."""

    bad: tuple[tuple[Path, str], ...] = ()
    short: tuple[Path, ...] = ()

    def lines(self, short_are: str) -> list[str]:
        out = [f"skipped {path}: {reason}" for path, reason in self.bad]
        return out + [f"{short_are} {path}: shorter than one crop" for path in self.short]
