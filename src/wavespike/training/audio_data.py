"""Crops of speech from list files and folders: any rate (resampled), any channel count (averaged), peak gain at random, pitch labels on request.

Departures from Vocos: the gain needs no external tool, bad and short files are reported by name, and item g is a function of the seed and g.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wavespike.errors import ConfigError, MissingDependencyError, TrainingError
from wavespike.training.config import DataConfig, TrainConfig
from wavespike.training.data import Data, Troubles, generator, list_files, required, shuffled

Samples = np.ndarray[Any, np.dtype[np.float32]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioDataConfig(DataConfig):
    """Crops of `crop_samples` (at the model's rate), their file's peak at a random level in `peak_db`; validation at `valid_peak_db`.

    order      "epoch": every file once an epoch; "length": a file is as likely as it is long
    short      what happens to files shorter than a crop: "tile" repeats them, "skip" leaves them out
    keep_decoded  decoded and resampled audio is kept in the cache folder (4 bytes a sample), so that an item costs no decoding
    speed      (low, high): half of the crops are played at a random speed in this range, pitch and formants moving with it: more voices than were recorded
    valid_files   at most so many validation files; of each at most `valid_samples`
    """

    type_name: ClassVar[str] = "audio"

    crop_samples: int = 16384
    peak_db: tuple[float, float] = (-6.0, -1.0)
    valid_peak_db: float = -3.0
    order: Literal["epoch", "length"] = "epoch"
    short: Literal["tile", "skip"] = "tile"
    speed: tuple[float, float] | None = None
    keep_decoded: bool = False
    valid_files: int = 100
    valid_samples: int = 48384

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("crop_samples", "valid_files", "valid_samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name}: expected 1 or more, got {getattr(self, name)}")
        if self.speed is not None and not 0.25 <= self.speed[0] <= self.speed[1] <= 4:
            raise ConfigError(f"data.speed: expected 0.25 <= low <= high <= 4, got {self.speed[0]} and {self.speed[1]}")
        if self.peak_db[0] > self.peak_db[1] or self.peak_db[1] > 0:
            raise ConfigError(f"data.peak_db: expected two levels, the lower first, none above 0, got {list(self.peak_db)}")


def read_mono(path: Path, sample_rate: int) -> Samples:
    """A file as mono float32 [T] at `sample_rate`. Raises TrainingError when it cannot be read, is empty or not finite."""
    import soundfile

    try:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        reason = "no such file" if not path.exists() else " ".join(str(error).split())
        raise TrainingError(f"{path}: expected audio, got a file that cannot be read ({reason}); remove it from the list") from error
    if not len(audio):
        raise TrainingError(f"{path}: expected samples, got an empty file; remove it from the list")
    mono = audio.mean(1)
    if not np.isfinite(mono).all():
        raise TrainingError(f"{path}: expected finite samples, got NaN or Inf; remove it from the list")
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate)
    return np.ascontiguousarray(mono, dtype=np.float32)


def pitch_labels(audio: Samples, sample_rate: int, hop_length: int, f_min_hz: float = 55.0, f_max_hz: float = 550.0) -> Samples:
    """Pitch by Harvest (Morise, 2017) on 8 kHz audio: [T] -> hertz [T // hop + 1] at samples 0, hop, 2 hop, ...; 0 where unvoiced."""
    try:
        import pyworld
    except ImportError as error:
        raise MissingDependencyError("pitch labels", "pyworld", "pitch") from error
    frames = len(audio) // hop_length + 1
    low = soxr.resample(audio.astype(np.float64), sample_rate, 8000) if sample_rate != 8000 else audio.astype(np.float64)
    if len(low) < 800:  # Harvest needs a tenth of a second
        return np.zeros(frames, np.float32)
    f0, _ = pyworld.harvest(low, 8000, f0_floor=f_min_hz, f0_ceil=f_max_hz, frame_period=1000 * hop_length / sample_rate)
    return np.pad(f0, (0, max(0, frames - len(f0))))[:frames].astype(np.float32)


def _cache_name(path: Path, *what: Any) -> str:
    stat = path.stat()
    text = repr((str(path.resolve()), stat.st_size, stat.st_mtime_ns, *what))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _save_array(path: Path, array: Samples) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.part")
    with temporary.open("wb") as file:
        np.save(file, array)
    temporary.replace(path)


def _prepare(job: tuple[Path, int, int, str | None, str | None]) -> tuple[Path, int, str]:
    """(file, rate, hop, audio cache, pitch cache) -> (file, samples at the rate, reason when it cannot be used)."""
    path, rate, hop, audio_file, pitch_file = job
    try:
        audio = read_mono(path, rate)
        if audio_file is not None and not Path(audio_file).exists():
            _save_array(Path(audio_file), audio)
        if pitch_file is not None and not Path(pitch_file).exists():
            _save_array(Path(pitch_file), pitch_labels(audio, rate, hop))
    except TrainingError as error:
        return path, 0, str(error).partition(": ")[2]
    return path, len(audio), ""


@dataclasses.dataclass(frozen=True)
class AudioFile:
    """One usable file: where it is, its length at the model's rate, and its cached arrays."""

    path: Path
    samples: int
    audio: Path | None = None
    pitch: Path | None = None

    def read(self, sample_rate: int) -> Samples:
        return np.load(self.audio, mmap_mode="r") if self.audio is not None else read_mono(self.path, sample_rate)


def scan(paths: list[Path], sample_rate: int, hop_length: int, cache: Path, *, keep_decoded: bool = False, pitch: bool = False, workers: int = 0,
         progress: Callable[[Iterable[Any], int, str], Iterable[Any]] | None = None) -> tuple[list[AudioFile], Troubles]:
    """Lengths of all files, and, where asked, decoded audio and pitch labels in the cache folder (computed once).

    Without caches only headers are read. Raises MissingDependencyError when pitch is asked for and pyworld is missing.
    """
    import soundfile

    if pitch:
        pitch_labels(np.zeros(1, np.float32), 8000, 80)  # a missing package is found before any work
    if keep_decoded or pitch:
        cache.mkdir(parents=True, exist_ok=True)
    files: list[AudioFile] = []
    bad: list[tuple[Path, str]] = []
    jobs: list[tuple[Path, int, int, str | None, str | None]] = []
    found: dict[Path, AudioFile] = {}
    for path in dict.fromkeys(paths):
        if not path.is_file():
            bad.append((path, "no such file"))
            continue
        audio = cache / f"{_cache_name(path, sample_rate)}.audio.npy" if keep_decoded else None
        f0 = cache / f"{_cache_name(path, sample_rate, hop_length)}.pitch.npy" if pitch else None
        try:
            info = soundfile.info(path)
            samples = round(info.frames * sample_rate / info.samplerate)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            bad.append((path, " ".join(str(error).split())))
            continue
        if samples < 1:
            bad.append((path, "expected samples, got an empty file; remove it from the list"))
            continue
        if audio is not None and audio.exists():
            samples = len(np.load(audio, mmap_mode="r"))
        found[path] = AudioFile(path, samples, audio, f0)
        if (audio is not None and not audio.exists()) or (f0 is not None and not f0.exists()):
            jobs.append((path, sample_rate, hop_length, str(audio) if audio else None, str(f0) if f0 else None))
    if jobs:
        show = progress or (lambda rows, total, what: rows)
        what = "pitch labels" if pitch else "decoding"
        if workers > 1:
            with ProcessPoolExecutor(workers) as pool:
                results = list(show(pool.map(_prepare, jobs, chunksize=4), len(jobs), what))
        else:
            results = list(show(map(_prepare, jobs), len(jobs), what))
        for path, samples, reason in results:
            if reason:
                bad.append((path, reason))
                del found[path]
            else:
                found[path] = dataclasses.replace(found[path], samples=samples)
    files = [found[p] for p in dict.fromkeys(paths) if p in found]
    return files, Troubles(bad=tuple(bad))


def tiled(audio: Samples, samples: int) -> Samples:
    """Repeat a short signal until it has `samples`, [T] -> [>= samples]."""
    return np.tile(audio, -(-samples // len(audio))) if len(audio) < samples else audio


def fill_unvoiced(f0_hz: Samples) -> tuple[Samples, Samples]:
    """Pitch with 0 where unvoiced -> (pitch interpolated over unvoiced frames, voicing 0 or 1); 150 Hz where nothing is voiced."""
    voiced = f0_hz > 0
    if not voiced.any():
        return np.full_like(f0_hz, 150.0), voiced.astype(np.float32)
    index = np.arange(len(f0_hz))
    return np.interp(index, index[voiced], f0_hz[voiced]).astype(np.float32), voiced.astype(np.float32)


def played(labels: Samples, frames: int, speed: float) -> Samples:
    """Pitch labels [l] of audio that is played at `speed`: [frames] hertz, 0 where either neighbour is unvoiced."""
    place = np.arange(frames) * speed
    left = np.minimum(place.astype(np.int64), len(labels) - 1)
    right = np.minimum(np.ceil(place).astype(np.int64), len(labels) - 1)
    share = (place - left).astype(np.float32)
    between = labels[left] * (1 - share) + labels[right] * share
    return np.asarray(np.where((labels[left] > 0) & (labels[right] > 0), between * speed, 0.0), np.float32)


class AudioCrops(Dataset[dict[str, Tensor]]):
    """Endless training crops by global index: {"audio": [T], with pitch "f0_hz": [L] and "voiced": [L], L = T // hop + 1}.

    With pitch, crops start on a multiple of the hop, so that labels and frames agree.
    """

    ATTEMPTS = 16

    def __init__(self, files: list[AudioFile], config: AudioDataConfig, sample_rate: int, hop_length: int, seed: int, pitch: bool = False,
                 report: Callable[[str], None] = print):
        self.files, self.config, self.sample_rate, self.hop_length, self.seed, self.pitch = files, config, sample_rate, hop_length, seed, pitch
        self.report = report
        self.damaged: set[Path] = set()
        lengths = np.array([f.samples for f in files], np.float64)
        self.cumulative = np.cumsum(lengths) / lengths.sum()

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        for attempt in range(self.ATTEMPTS):  # a header may promise what the file does not hold: take another file then, always the same
            pick, place, level, coin, pace = generator(self.seed, 0, index, attempt).random(5)
            if self.config.order == "length" or attempt:
                which = min(int(np.searchsorted(self.cumulative, pick, side="right")), len(self.files) - 1)
            else:
                which = shuffled(self.seed, index, len(self.files))
            file = self.files[which]
            try:
                speed = 1.0 if self.config.speed is None or coin < 0.5 else self.config.speed[0] + pace * (self.config.speed[1] - self.config.speed[0])
                return self._crop(file, file.read(self.sample_rate), float(place), float(level), float(speed))
            except TrainingError as error:
                if file.path not in self.damaged:
                    self.damaged.add(file.path)
                    self.report(f"skipped {error}")
        raise TrainingError(f"recipe.data.train: expected usable audio, got {self.ATTEMPTS} damaged files in a row; see the reasons above")

    def _gain(self, peak: float, level: float) -> float:
        low, high = self.config.peak_db
        return float(10 ** ((low + level * (high - low)) / 20) / max(peak, 1e-5))

    def _start(self, length: int, span: int, place: float) -> int:
        """First sample of a crop of `span`, at `place` 0..1 of where it may begin."""
        step = self.hop_length if self.pitch else 1
        return int(place * (max(0, length - span) // step + 1)) * step

    def _crop(self, file: AudioFile, audio: Samples, place: float, level: float, speed: float = 1.0) -> dict[str, Tensor]:
        c = self.config
        gain = self._gain(float(np.abs(audio).max()), level)
        span = math.ceil(c.crop_samples * speed)  # samples that are played in a crop
        start = self._start(len(audio), span, place)
        crop = tiled(np.asarray(audio[start : start + span]), span)[:span]
        if speed != 1.0:
            crop = tiled(soxr.resample(crop, self.sample_rate * speed, self.sample_rate), c.crop_samples)[: c.crop_samples]
        item = {"audio": torch.from_numpy(np.array(crop, np.float32) * np.float32(gain))}
        if self.pitch:
            assert file.pitch is not None
            frames = c.crop_samples // self.hop_length + 1
            first = start // self.hop_length
            labels = np.asarray(np.load(file.pitch, mmap_mode="r")[first : first + span // self.hop_length + 2])
            f0, voiced = fill_unvoiced(played(tiled(labels, span // self.hop_length + 2), frames, speed))
            item |= {"f0_hz": torch.from_numpy(f0), "voiced": torch.from_numpy(voiced)}
        return item


class AudioPieces(Dataset[dict[str, Tensor]]):
    """Validation pieces: the first `valid_samples` of each file at a fixed peak, {"audio": [T]}."""

    def __init__(self, files: list[AudioFile], config: AudioDataConfig, sample_rate: int):
        self.files, self.config, self.sample_rate = files, config, sample_rate

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        audio = self.files[index].read(self.sample_rate)
        gain = 10 ** (self.config.valid_peak_db / 20) / max(float(np.abs(audio).max()), 1e-5)
        return {"audio": torch.from_numpy(np.array(audio[: self.config.valid_samples], np.float32) * np.float32(gain))}


class AudioData(Data):
    """Speech for vocoders and codecs. Pitch labels are made when the task has `needs_pitch`."""

    config_class: ClassVar[type[DataConfig]] = AudioDataConfig

    def __init__(self, config: TrainConfig, *rest: Any, **more: Any):
        super().__init__(config, *rest, **more)
        assert isinstance(config.data, AudioDataConfig)
        self.config = config.data
        self._found: dict[str, list[AudioFile]] = {}
        self.sample_rate = self.model.sample_rate
        self.hop_length = int(getattr(self.model, "hop_length", getattr(self.model, "hop", 256)))
        from wavespike.training.registry import task_class

        self.pitch = bool(task_class(config.task.type_name).needs_pitch(config))

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        for what in ("train", "valid"):
            if what == "train" or config.data.valid:
                list_files(required(config.data, what))

    def _scan(self, what: str, pitch: bool, silent: bool) -> list[AudioFile]:
        if what not in self._found:
            self._found[what] = self._scan_files(what, pitch, silent)
        return self._found[what]

    def _scan_files(self, what: str, pitch: bool, silent: bool) -> list[AudioFile]:
        c = self.config
        paths = list_files(required(c, what))
        if what == "valid":
            paths = paths[: c.valid_files]
        from wavespike.training.progress import track

        files, troubles = scan(paths, self.sample_rate, self.hop_length, self.cache, keep_decoded=c.keep_decoded and what == "train", pitch=pitch,
                               workers=c.num_workers, progress=None if silent else track)
        if what == "train":
            short = tuple(f.path for f in files if f.samples < c.crop_samples)
            troubles = dataclasses.replace(troubles, short=short)
            if c.short == "skip":
                files = [f for f in files if f.samples >= c.crop_samples]
        if not silent:
            for line in troubles.lines("skipped" if c.short == "skip" else "repeated"):
                self.report(line)
        if not files:
            raise TrainingError(f"recipe.data.{what}: expected at least one usable audio file, got none of {len(paths)}; see the reasons above")
        return files

    def prepare_data(self) -> None:
        """On one process a machine: report troubles, fill the caches."""
        self._scan("train", self.pitch, silent=False)
        if self.config.valid:
            self._scan("valid", False, silent=False)

    def train_items(self) -> Dataset[Any]:
        files = self._scan("train", self.pitch, silent=True)
        return AudioCrops(files, self.config, self.sample_rate, self.hop_length, self.train_config.trainer.seed, self.pitch, self.report)

    def valid_items(self) -> Dataset[Any] | None:
        return AudioPieces(self._scan("valid", False, silent=True), self.config, self.sample_rate) if self.config.valid else None
