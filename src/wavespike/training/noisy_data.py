"""Noisy-clean pairs: noise mixed into speech at a random ratio, or paired folders. Item g is a function of the seed and g."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wavespike.errors import ConfigError, TrainingError
from wavespike.training.audio_data import AudioCrops, AudioData, AudioDataConfig, AudioFile, AudioPieces, Samples, read_mono, tiled
from wavespike.training.config import DataConfig
from wavespike.training.data import generator, list_files


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisyAudioDataConfig(AudioDataConfig):
    """Speech as in `audio`, with what the encoder hears beside it.

    noise              list file(s) or folder(s) of noise, mixed at a ratio drawn from `snr_db`
    noisy_train, noisy_valid   instead: folders with a noisy file of the same name for every clean one
    """

    type_name: ClassVar[str] = "noisy-audio"

    noise: str | tuple[str, ...] | None = None
    snr_db: tuple[float, float] = (0.0, 15.0)
    noisy_train: str | None = None
    noisy_valid: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.noise is None) == (self.noisy_train is None):
            raise ConfigError("data: expected either noise (to mix) or noisy_train (paired files), got both or neither")
        if self.noisy_train is not None and self.speed is not None:
            raise ConfigError("data.speed: expected no speed perturbation with paired files (noisy_train), got one; leave speed out")
        if self.snr_db[0] > self.snr_db[1]:
            raise ConfigError(f"data.snr_db: expected two ratios in decibels, the lower first, got {list(self.snr_db)}")


def mix(speech: Samples, noise: Samples, snr_db: float) -> Samples:
    """speech + noise [T] with 10 log10(power of speech / power of noise) = snr_db; silence stays as it is."""
    speech_power, noise_power = float(np.mean(speech.astype(np.float64) ** 2)), float(np.mean(noise.astype(np.float64) ** 2))
    if speech_power == 0 or noise_power == 0:
        return speech.copy()
    gain = np.sqrt(speech_power / noise_power / 10 ** (snr_db / 10))
    return (speech + np.float32(gain) * noise).astype(np.float32)


class Noises:
    """Excerpts of noise files, chosen by a random generator."""

    def __init__(self, files: list[Path], sample_rate: int):
        self.files, self.sample_rate = files, sample_rate
        self._held: dict[Path, Samples] = {}

    def excerpt(self, random: np.random.Generator, samples: int) -> Samples:
        """[T] of a random file from a random place, repeated where the file is short."""
        path = self.files[int(random.integers(len(self.files)))]
        if path not in self._held:
            self._held[path] = read_mono(path, self.sample_rate)
        noise = tiled(self._held[path], samples)
        start = int(random.integers(len(noise) - samples + 1))
        return noise[start : start + samples]


def partner(path: Path, folder: Path) -> Path:
    """The noisy file of a clean one. Raises TrainingError when there is none."""
    found = folder / path.name
    if not found.is_file():
        raise TrainingError(f"{found}: expected the noisy partner of {path}, found none; the names in both folders must be the same")
    return found


class NoisyCrops(AudioCrops):
    """Endless crops {"audio": clean [T], "noisy": [T]}."""

    def __init__(self, *rest: Any, noises: Noises | None, **more: Any):
        super().__init__(*rest, **more)
        self.noises = noises

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = super().__getitem__(index)
        if self.noises is not None:
            c = self.config
            assert isinstance(c, NoisyAudioDataConfig)
            random = generator(self.seed, 5, index)
            ratio = float(random.uniform(*c.snr_db))
            clean = item["audio"].numpy()
            item["noisy"] = torch.from_numpy(mix(clean, self.noises.excerpt(random, len(clean)), ratio))
        return item

    def _crop(self, file: AudioFile, audio: Samples, place: float, level: float, speed: float = 1.0) -> dict[str, Tensor]:
        c = self.config
        assert isinstance(c, NoisyAudioDataConfig)
        if c.noisy_train is None:
            return super()._crop(file, audio, place, level, speed)
        noisy = read_mono(partner(file.path, Path(c.noisy_train)), self.sample_rate)
        both = np.stack([audio[: min(len(audio), len(noisy))], noisy[: min(len(audio), len(noisy))]])
        item = super()._crop(file, both[0], place, level)
        start = self._start(both.shape[1], c.crop_samples, place)
        gain = self._gain(float(np.abs(both).max()), level)
        clean, heard = (torch.from_numpy(tiled(part[start : start + c.crop_samples], c.crop_samples)[: c.crop_samples] * np.float32(gain)) for part in both)
        return {**item, "audio": clean, "noisy": heard}


class NoisyPieces(AudioPieces):
    """Validation pieces {"audio", "noisy"} [T], the same every time."""

    def __init__(self, *rest: Any, noises: Noises | None, seed: int):
        super().__init__(*rest)
        self.noises, self.seed = noises, seed

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = super().__getitem__(index)
        c = self.config
        assert isinstance(c, NoisyAudioDataConfig)
        clean = item["audio"].numpy()
        if self.noises is not None:
            random = generator(self.seed, 6, index)
            ratio = float(random.uniform(*c.snr_db))
            return {**item, "noisy": torch.from_numpy(mix(clean, self.noises.excerpt(random, len(clean)), ratio))}
        assert c.noisy_valid is not None
        file = self.files[index]
        whole = file.read(self.sample_rate)
        gain = 10 ** (c.valid_peak_db / 20) / max(float(np.abs(whole).max()), 1e-5)
        noisy = read_mono(partner(file.path, Path(c.noisy_valid)), self.sample_rate)[: len(clean)]
        return {"audio": item["audio"][: len(noisy)], "noisy": torch.from_numpy(noisy * np.float32(gain))}


class NoisyAudioData(AudioData):
    """Speech with noise, for denoising."""

    config_class: ClassVar[type[DataConfig]] = NoisyAudioDataConfig

    def _noises(self) -> Noises | None:
        c = self.config
        assert isinstance(c, NoisyAudioDataConfig)
        if c.noise is None:
            return None
        return Noises(list_files((c.noise,) if isinstance(c.noise, str) else tuple(c.noise)), self.sample_rate)

    def train_items(self) -> Dataset[Any]:
        files = self._scan("train", self.pitch, silent=True)
        return NoisyCrops(files, self.config, self.sample_rate, self.hop_length, self.train_config.trainer.seed, self.pitch, self.report, noises=self._noises())

    def valid_items(self) -> Dataset[Any] | None:
        c = self.config
        assert isinstance(c, NoisyAudioDataConfig)
        if not c.valid or (c.noise is None and c.noisy_valid is None):
            return None
        return NoisyPieces(self._scan("valid", False, silent=True), c, self.sample_rate, noises=self._noises(), seed=self.train_config.trainer.seed)
