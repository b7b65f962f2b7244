"""Readers of labelled speech: list files, folders of classes, Speech Commands, Free Spoken Digits, Heidelberg Digits, and spike trains (SHD, SSC).

Each gives examples of the split asked for (`train`, `valid`, `test`). Validation is never the test set: where a corpus has no validation split, whole
speakers are held out of its training split, by a seed. Sources: Warden, "Speech Commands", 2018; Jackson, "Free Spoken Digit Dataset";
Cramer et al., "The Heidelberg spiking data sets", 2020.
Departures: SpArch validates SHD and HD on the test set; its bins of spike trains leave bin 0 empty and lose what is at the edge, ours do neither.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from wavespike.errors import ConfigError, MissingDependencyError, TrainingError, nearest

Split = Literal["train", "valid", "test"]
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus")
UNKNOWN_SPEAKER = ""


@dataclass(frozen=True)
class Example:
    """One recording: an audio file, its label and its speaker ("" when unknown)."""

    path: Path
    label: str
    speaker: str = UNKNOWN_SPEAKER


def hold_out_speakers(examples: Sequence[Example], split: Split, fraction: float = 0.1, seed: int = 0) -> list[Example]:
    """The training or the validation part of examples, by speaker: about `fraction` of the speakers (at least one) validate.

    Raises TrainingError when there are fewer than two speakers.
    """
    speakers = sorted({e.speaker for e in examples})
    if len(speakers) < 2:
        raise TrainingError(f"expected at least two speakers to hold one out for validation, got {len(speakers)}; give a validation list")
    random.Random(seed).shuffle(speakers)
    held = set(speakers[: max(1, round(fraction * len(speakers)))])
    return [e for e in examples if (e.speaker in held) == (split == "valid")]


def hold_out_examples(examples: Sequence[Example], split: Split, fraction: float = 0.1, seed: int = 0) -> list[Example]:
    """As `hold_out_speakers`, by example, for corpora that name no speakers."""
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    held = set(order[: max(1, round(fraction * len(order)))])
    return [e for i, e in enumerate(examples) if (i in held) == (split == "valid")]


def read_list(path: str | Path) -> list[Example]:
    """A list file with lines `path<TAB>label[<TAB>speaker]`, paths relative to its folder. Raises TrainingError naming the bad line."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: expected a list of `path<TAB>label<TAB>speaker`, got {type(error).__name__}; check the path") from error
    out = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) < 2 or not cells[0].strip() or not cells[1].strip():
            raise TrainingError(f"{path}:{number}: expected `path<TAB>label[<TAB>speaker]`, got {line[:60]!r}; labels are missing from this list")
        out.append(Example(path.parent / cells[0].strip(), cells[1].strip(), cells[2].strip() if len(cells) > 2 else UNKNOWN_SPEAKER))
    if not out:
        raise TrainingError(f"{path}: expected at least one example, got an empty list; add lines `path<TAB>label<TAB>speaker`")
    return out


def folders_of_classes(root: str | Path) -> list[Example]:
    """`root/<label>/**/<file>`; the speaker is the file name up to `_` when at least two files of two classes share it, else unknown."""
    root = _folder(root)
    found = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "_"))):
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not files:
            raise TrainingError(f"{folder}: expected audio of the class {folder.name!r}, found none; a class needs an example, or remove the folder")
        found += [Example(p, folder.name, p.stem.split("_")[0] if "_" in p.stem else UNKNOWN_SPEAKER) for p in files]
    if not found:
        raise TrainingError(f"{root}: expected one folder a class, found none; check the path")
    classes: dict[str, set[str]] = {}
    for e in found:
        classes.setdefault(e.speaker, set()).add(e.label)
    if all(len(c) == 1 for c in classes.values()):
        return [Example(e.path, e.label) for e in found]
    return found


def speech_commands(root: str | Path, split: Split) -> list[Example]:
    """Google Speech Commands v1 or v2: `<word>/<speaker>_nohash_<n>.wav` with its `validation_list.txt` and `testing_list.txt`."""
    root = _folder(root)
    lists: dict[str, set[str]] = {}
    for name, file in (("valid", "validation_list.txt"), ("test", "testing_list.txt")):
        path = root / file
        if not path.is_file():
            raise TrainingError(f"{root}: expected Speech Commands with {file}, found none; give the folder that the archive unpacks to")
        lists[name] = {line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}
        gone = [n for n in lists[name] if not (root / n).is_file()]
        if split == name and gone:
            raise TrainingError(f"{path}: expected {gone[0]} beside the list, found nothing ({len(gone)} of {len(lists[name])} missing); unpack it again")
    out = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "_"))):
        for path in sorted(folder.glob("*.wav")):
            name = f"{folder.name}/{path.name}"
            of = "valid" if name in lists["valid"] else "test" if name in lists["test"] else "train"
            if of == split:
                out.append(Example(path, folder.name, path.stem.split("_nohash_")[0]))
    return _some(out, root, split)


def spoken_digits(root: str | Path, split: Split) -> list[Example]:
    """Free Spoken Digits: `recordings/<digit>_<speaker>_<take>.wav`. Test: takes 0-4 (official); validation: takes 5-9; training: the rest."""
    root = _folder(root)
    folder = root / "recordings" if (root / "recordings").is_dir() else root
    out = []
    for path in sorted(folder.glob("*.wav")):
        hit = re.fullmatch(r"(\d)_(.+)_(\d+)", path.stem)
        if hit is None:
            raise TrainingError(f"{path}: expected a name like 7_jackson_32.wav, got another; is it the Free Spoken Digit Dataset?")
        take = int(hit[3])
        if split == ("test" if take < 5 else "valid" if take < 10 else "train"):
            out.append(Example(path, hit[1], hit[2]))
    return _some(out, folder, split)


def heidelberg_digits(root: str | Path, split: Split, fraction: float = 0.1, seed: int = 0) -> list[Example]:
    """Heidelberg Digits: FLAC files and `{train,test}_filenames.txt`, names `lang-<language>_speaker-<n>_trial-<n>_digit-<d>.flac`.

    Labels: 0-9 English, 10-19 German. Validation: speakers of the training list, held out by the seed.
    """
    root = _folder(root)
    path = root / ("test_filenames.txt" if split == "test" else "train_filenames.txt")
    if not path.is_file():
        raise TrainingError(f"{root}: expected Heidelberg Digits with {path.name}, found none; give the folder that the archive unpacks to")
    out = []
    for name in filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines())):
        hit = re.search(r"lang-([a-z]+)_speaker-(\d+).*digit-(\d)\.\w+$", name)
        if hit is None:
            raise TrainingError(f"{path}: expected names like lang-english_speaker-00_trial-0_digit-0.flac, got {name!r}; is it Heidelberg Digits?")
        where = next((p for p in (root / name, root / "audio" / name) if p.is_file()), None)
        if where is None:
            raise TrainingError(f"{root}: expected {name} of {path.name}, found nothing; unpack the archive again")
        out.append(Example(where, str(int(hit[3]) + (10 if hit[1].startswith("g") else 0)), hit[2]))
    return _some(out if split == "test" else hold_out_speakers(out, split, fraction, seed), root, split)


def _folder(root: str | Path) -> Path:
    if not Path(root).is_dir():
        raise TrainingError(f"{root}: expected a folder with the corpus, found nothing there; check data.data_folder")
    return Path(root)


def _some(examples: list[Example], root: Path, split: str) -> list[Example]:
    if not examples:
        raise TrainingError(f"{root}: expected examples for the split {split!r}, found none; check the folder")
    return examples


def label_index(examples: Iterable[Example], labels: Sequence[str], what: str = "the training list", complete: bool = True) -> list[int]:
    """Index of each example's label. Raises TrainingError for a label the model has not and, if `complete`, ConfigError for a class without example."""
    known = {name: i for i, name in enumerate(labels)}
    out = []
    for e in examples:
        if e.label not in known:
            raise TrainingError(f"{e.path}: expected a label of {', '.join(labels)}, got {e.label!r}{nearest(e.label, known)}; add it to model.labels")
        out.append(known[e.label])
    missing = [name for i, name in enumerate(labels) if i not in set(out)]
    if missing and complete:
        raise ConfigError(f"expected at least one example of every class in {what}, got none of {missing[0]!r}; add some or remove it from model.labels")
    return out


# spike trains


def bin_spikes(times_s: np.ndarray[Any, Any], units: np.ndarray[Any, Any], count: int = 700, bins: int = 100, duration_s: float = 1.4) -> Tensor:
    """Events -> counts [units, bins]: bin floor(t * bins / duration), events at or beyond the last edge in the last bin. Counts are not clipped to 1."""
    times = np.asarray(times_s, np.float64)
    index = np.clip(np.floor(times * bins / duration_s).astype(np.int64), 0, bins - 1)
    flat = np.bincount(np.asarray(units, np.int64) * bins + index, minlength=count * bins)
    return torch.from_numpy(flat.reshape(count, bins)).float()


class SpikeFile:
    """Spike trains in the layout of SHD and SSC: `spikes/times` and `spikes/units` (one row of events an example), `labels`, `extra/speaker`, `extra/keys`.

    `len`, `item(i) -> (counts [units, bins], label index)`, `labels` [N], `speakers` [N] or None, `keys`: names of the labels, or None.
    Raises MissingDependencyError without h5py and TrainingError for a file that is damaged or laid out otherwise.
    """

    def __init__(self, path: str | Path, units: int = 700, bins: int = 100, duration_s: float = 1.4):
        try:
            import h5py
        except ImportError as error:
            raise MissingDependencyError("Reading spike trains", "h5py", "spikes") from error
        self.path, self.units, self.bins, self.duration_s = Path(path), units, bins, duration_s
        if not self.path.is_file():
            raise TrainingError(f"{path}: expected an HDF5 file of spike trains, found nothing; check the path")
        try:
            with h5py.File(self.path, "r") as file:
                for name in ("spikes/times", "spikes/units", "labels"):
                    if name not in file:
                        raise TrainingError(f"{path}: expected the data set {name!r} (the layout of SHD), found {', '.join(file) or 'nothing'}")
                self.labels = np.asarray(file["labels"], np.int64)
                self._times = [np.asarray(t, np.float64) for t in file["spikes/times"][:]]
                self._units = [np.asarray(u, np.int64) for u in file["spikes/units"][:]]
                extra = file.get("extra", {})
                self.speakers = np.asarray(extra["speaker"], np.int64) if "speaker" in extra else None
                self.keys = tuple(k.decode() if isinstance(k, bytes) else str(k) for k in extra["keys"][:]) if "keys" in extra else None
        except OSError as error:
            raise TrainingError(f"{path}: expected an HDF5 file, got one that is damaged ({' '.join(str(error).split())[:100]}); fetch it again") from error
        if not len(self.labels) == len(self._times) == len(self._units):
            raise TrainingError(f"{path}: expected as many labels as spike trains, got {len(self.labels)} and {len(self._times)}; the file is damaged")
        highest = max((int(u.max()) for u in self._units if len(u)), default=0)
        if highest >= units:
            raise TrainingError(f"{path}: expected units 0..{units - 1}, got unit {highest}; set model.features.units to the file's number of channels")

    def __len__(self) -> int:
        return len(self.labels)

    def item(self, index: int) -> tuple[Tensor, int]:
        return bin_spikes(self._times[index], self._units[index], self.units, self.bins, self.duration_s), int(self.labels[index])

    def split(self, split: Split, fraction: float = 0.1, seed: int = 0) -> list[int]:
        """Indices that train or validate, whole speakers held out (by example where the file names no speakers)."""
        examples = [Example(Path(str(i)), str(label), UNKNOWN_SPEAKER if self.speakers is None else str(self.speakers[i]))
                    for i, label in enumerate(self.labels)]
        hold = hold_out_examples if self.speakers is None or len(set(self.speakers.tolist())) < 2 else hold_out_speakers
        return [int(e.path.name) for e in hold(examples, split, fraction, seed)]


def write_spikes(path: Path, trains: Sequence[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]], labels: Sequence[int], keys: Sequence[str],
                 speakers: Sequence[int] | None = None) -> None:
    """Write (times_s, units) pairs in SHD's layout, atomically."""
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError("Writing spike trains", "h5py", "spikes") from error
    from wavespike.signal.files import replacing

    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        spikes = file.create_group("spikes")
        times = spikes.create_dataset("times", (len(trains),), dtype=h5py.vlen_dtype(np.float32))
        units = spikes.create_dataset("units", (len(trains),), dtype=h5py.vlen_dtype(np.uint16))
        for i, (t, u) in enumerate(trains):
            times[i], units[i] = np.asarray(t, np.float32), np.asarray(u, np.uint16)
        file.create_dataset("labels", data=np.asarray(labels, np.uint16))
        extra = file.create_group("extra")
        extra.create_dataset("keys", data=np.asarray([k.encode() for k in keys], dtype=h5py.string_dtype()))
        if speakers is not None:
            extra.create_dataset("speaker", data=np.asarray(speakers, np.uint16))
