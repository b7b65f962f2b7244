"""Labelled speech as items of a run: features computed on the fly from audio held in memory, augmented while training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from wavespike.errors import ConfigError, TrainingError
from wavespike.models.base import Model
from wavespike.models.sparch import SpArch, SpikeInputConfig
from wavespike.signal.files import read
from wavespike.training.augmentation import AugmentConfig, augment_audio, spec_augment
from wavespike.training.classification import collate
from wavespike.training.config import DataConfig, TrainConfig
from wavespike.training.data import Data, generator, shuffled
from wavespike.training.speech_datasets import (
    Example,
    SpikeFile,
    Split,
    folders_of_classes,
    heidelberg_digits,
    hold_out_examples,
    hold_out_speakers,
    label_index,
    read_list,
    speech_commands,
    spoken_digits,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledSpeechConfig(DataConfig):
    """What to read, under SpArch's names: `dataset_name` (shd, ssc, hd, sc, fsdd, folders, lists), `data_folder`, `use_augm`.

    `lists` reads `train` and `valid` (names in `data_folder`, or paths). `valid_fraction` of the speakers is held out where a corpus has no validation
    split. `noise` is a list of noise files for the augmentation; `max_s` cuts longer clips.
    """

    type_name: ClassVar[str] = "labelled-speech"

    dataset_name: Literal["shd", "ssc", "hd", "sc", "fsdd", "folders", "lists"] = "shd"
    data_folder: str = "data/shd_dataset/"
    batch_size: int = 128
    use_augm: bool = False
    augment: AugmentConfig = AugmentConfig()
    noise: str | None = None
    valid_fraction: float = 0.1
    max_s: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.valid_fraction < 1 or self.max_s <= 0:
            raise ConfigError(f"data: expected 0 < valid_fraction < 1 and max_s > 0, got {self.valid_fraction} and {self.max_s}")


def read_examples(config: LabelledSpeechConfig, split: Split, seed: int) -> list[Example]:
    """The examples of an audio corpus and split."""
    c, root = config, Path(config.data_folder)
    if c.dataset_name == "sc":
        return speech_commands(root, split)
    if c.dataset_name == "fsdd":
        return spoken_digits(root, split)
    if c.dataset_name == "hd":
        return heidelberg_digits(root, split, c.valid_fraction, seed)
    if c.dataset_name == "folders":
        found = folders_of_classes(root)
    else:
        name = c.valid if split == "valid" and c.valid else c.train
        if not isinstance(name, str):
            raise ConfigError("recipe.data.train: expected the name of one list, got nothing; add data.train=train.txt data.valid=valid.txt")
        found = read_list(name if Path(name).is_file() else root / name)
        if c.valid:
            return found
    by_speaker = len({e.speaker for e in found}) > 1
    return (hold_out_speakers if by_speaker else hold_out_examples)(found, split, c.valid_fraction, seed)


class AudioItems(Dataset[dict[str, Tensor]]):
    """Clips in memory; training items are endless, shuffled and augmented as a function of the seed and the index."""

    def __init__(self, clips: list[Tensor], targets: list[int], model: SpArch, config: LabelledSpeechConfig, seed: int, training: bool, noise: Tensor | None):
        self.clips, self.targets, self.model, self.config, self.seed, self.training, self.noise = clips, targets, model, config, seed, training, noise

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        place = shuffled(self.seed, index, len(self.clips)) if self.training else index
        audio, c = self.clips[place][None], self.config
        augmented = self.training and c.use_augm
        g = torch.Generator().manual_seed(int(generator(self.seed, 7, index).integers(2**62)))
        if augmented:
            audio = augment_audio(audio, self.model.sample_rate, c.augment, g, self.noise)
        with torch.no_grad():
            features = self.model.features(audio)
            if augmented:
                features = spec_augment(features, c.augment, g)
        return {"features": features[0], "target": torch.tensor(self.targets[place])}


class SpikeItems(Dataset[dict[str, Tensor]]):
    """Spike counts of a file in SHD's layout."""

    def __init__(self, file: SpikeFile, indices: list[int], seed: int, training: bool):
        self.file, self.indices, self.seed, self.training = file, indices, seed, training

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        place = shuffled(self.seed, index, len(self.indices)) if self.training else index
        counts, label = self.file.item(self.indices[place])
        return {"features": counts, "target": torch.tensor(label)}


class LabelledSpeech(Data):
    """Data of the classification task."""

    config_class: ClassVar[type[DataConfig]] = LabelledSpeechConfig
    collate = staticmethod(collate)

    def __init__(self, config: TrainConfig, model: Model[Any], folder: Path, report: Callable[[str], None] = print):
        super().__init__(config, model, folder, report)
        if not isinstance(model, SpArch) or not isinstance(config.data, LabelledSpeechConfig):
            raise ConfigError("recipe.data: expected a recogniser for labelled speech, got another kind of model; choose another data type")
        self.recogniser, self.config = model, config.data
        spikes = isinstance(model.config.features, SpikeInputConfig)
        if spikes != (self.config.dataset_name in ("shd", "ssc")):
            raise ConfigError(f"recipe.model.features: expected {'a filterbank' if spikes else 'spikes'} for the data set {self.config.dataset_name}, "
                              f"got {'spikes' if spikes else 'a filterbank'}; set model.features.type")

    def train_items(self) -> Dataset[Any]:
        return self._items("train")

    def valid_items(self) -> Dataset[Any] | None:
        return self._items("valid")

    def _items(self, split: Split) -> Dataset[Any]:
        seed = self.train_config.trainer.seed
        if self.config.dataset_name in ("shd", "ssc"):
            return self._spikes(split, seed)
        examples = read_examples(self.config, split, seed)
        targets = label_index(examples, self.recogniser.labels, f"the split {split!r}", complete=split == "train")
        most = round(self.config.max_s * self.recogniser.sample_rate)
        clips = [self._clip(e.path)[:most] for e in examples]
        noise = None
        if split == "train" and self.config.use_augm and self.config.noise is not None:
            pieces = [self._clip(Path(self.config.noise).parent / line.split("\t")[0]) for line in Path(self.config.noise).read_text().splitlines() if line]
            noise = torch.cat([p / p.abs().max().clamp(min=1e-6) for p in pieces])
        return AudioItems(clips, targets, self.recogniser, self.config, seed, split == "train", noise)

    def _clip(self, path: Path) -> Tensor:
        return torch.from_numpy(read(path, self.recogniser.sample_rate)[0]).mean(0)

    def _spikes(self, split: Split, seed: int) -> Dataset[Any]:
        front, root = self.recogniser.config.features, Path(self.config.data_folder)
        assert isinstance(front, SpikeInputConfig)
        name, own = self.config.dataset_name, root / f"{self.config.dataset_name}_{split}.h5"
        path = own if own.is_file() else root / f"{name}_train.h5"
        file = SpikeFile(path, front.units, front.bins, front.duration_s)
        if int(file.labels.max()) >= len(self.recogniser.labels):
            raise TrainingError(f"{path}: expected labels 0..{len(self.recogniser.labels) - 1}, got {int(file.labels.max())}; add labels to model.labels")
        complete = (root / f"{name}_valid.h5").is_file()
        indices = list(range(len(file))) if complete else file.split(split, self.config.valid_fraction, seed)
        return SpikeItems(file, indices, seed, split == "train")
