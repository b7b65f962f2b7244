"""Other people's systems beside ours: WORLD, Opus, EnCodec, the PyPI package vocos, and files that somebody else made.

`world`             analysis and synthesis by WORLD (Morise, Yokomori and Ozawa, 2016; package pyworld): Harvest, CheapTrick, D4C
`opus:KBPS`         Opus (RFC 6716) through opusenc and opusdec; the bytes are those of the .opus file without padding and comments
`encodec:...`       EnCodec (Defossez et al., 2022) through transformers, `encodec:KBPS` or `encodec:FOLDER:KBPS`; the bytes are those of its codes, packed
`pypi-vocos:FOLDER` the package vocos with a published checkpoint (config.yaml and pytorch_model.bin)
`files:FOLDER`      files already made, named like the originals (any container); aligned and resampled where they must be
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import math
import os
import shutil
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavespike.errors import AudioError, MissingDependencyError, UsageError
from wavespike.metrics.alignment import align
from wavespike.metrics.systems import Made, System
from wavespike.signal.files import SUFFIXES, read
from wavespike.signal.resample import Samples, resample


@dataclasses.dataclass(frozen=True)
class Peer:
    """How a peer is written, and what opens it from the words after its name."""

    usage: str
    open: Callable[[str], System]


class World(System):
    """WORLD at the file's own rate; f0 60 to 500 Hz in steps of 5 ms."""

    parameters = 0

    def __init__(self, rest: str):
        if rest:
            raise UsageError(f"world: expected no options, got {rest!r}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that pkg_resources is deprecated
                import pyworld
        except ImportError as error:  # also when setuptools, whose pkg_resources it imports, is too new
            raise MissingDependencyError("WORLD", "pyworld", "pitch") from error
        self._world = pyworld

    def make(self, audio: Samples, rate_hz: int, path: Path) -> Made:
        world, x = self._world, audio.astype(np.float64)
        if x.size < rate_hz // 20:
            raise AudioError(f"{path}: WORLD needs at least 0.05 s, got {x.size / rate_hz:.3f} s")
        f0, times = world.harvest(x, rate_hz, f0_floor=60.0, f0_ceil=500.0)
        envelope, aperiodicity = world.cheaptrick(x, f0, times, rate_hz), world.d4c(x, f0, times, rate_hz)
        made = world.synthesize(f0, envelope, aperiodicity, rate_hz)[: x.size]
        return Made(np.pad(made, (0, x.size - made.size)).astype(np.float32), rate_hz)

    def identity(self, path: Path | None = None) -> str:
        return f"pyworld {_version('pyworld')}"


class Opus(System):
    """opusenc and opusdec of opus-tools, variable bitrate, complexity 10."""

    kind = "codec"
    parameters = 0
    in_process = False

    def __init__(self, rest: str):
        try:
            self.kbps = float(rest)
        except ValueError:
            raise UsageError(f"opus: expected kilobits a second, 6 to 256, as in opus:12, got {rest!r}") from None
        if not 6 <= self.kbps <= 256:
            raise UsageError(f"opus: expected 6 to 256 kilobits a second, got {rest}")
        for tool in ("opusenc", "opusdec"):
            if shutil.which(tool) is None:
                raise UsageError(f"opus: expected the program {tool} on the path, found none; install opus-tools (Debian: apt install opus-tools)")

    def make(self, audio: Samples, rate_hz: int, path: Path) -> Made:
        import soundfile

        with tempfile.TemporaryDirectory(prefix="wavespike-opus-") as folder:
            source, coded, out = (str(Path(folder) / name) for name in ("in.wav", "coded.opus", "out.wav"))
            soundfile.write(source, audio, rate_hz, subtype="PCM_24")
            _call("opusenc", "--quiet", "--bitrate", f"{self.kbps:g}", "--serial", "0", "--padding", "0", "--discard-comments", source, coded)
            _call("opusdec", "--quiet", "--rate", "48000", "--float", "--no-dither", coded, out)
            samples, own_hz = read(out)
            return Made(resample(samples.mean(0), own_hz, rate_hz)[: audio.size], rate_hz, Path(coded).stat().st_size)

    def identity(self, path: Path | None = None) -> str:
        return f"opus {self.kbps} {_call('opusenc', '--version')}"

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "nominal_bitrate_bps": 1000 * self.kbps}


class Encodec(System):
    """EnCodec of transformers, mono, at one of its bitrates."""

    kind = "codec"
    network = "dense"

    def __init__(self, rest: str):
        source, _, kbps = rest.rpartition(":")
        try:
            self.kbps = float(kbps)
        except ValueError:
            raise UsageError(f"encodec: expected kilobits a second at the end, as in encodec:6 or encodec:FOLDER:6, got {rest!r}") from None
        self.source = source or "facebook/encodec_24khz"
        try:
            transformers: Any = importlib.import_module("transformers")
        except ImportError as error:
            raise MissingDependencyError("EnCodec", "transformers", "encodec") from error
        try:
            with _quiet():
                self.model: Any = transformers.EncodecModel.from_pretrained(self.source)
                self.model.eval()
        except Exception as error:  # the hub cannot be reached, or the folder holds something else
            raise UsageError(f"encodec: expected the weights of EnCodec in {self.source!r}, found none ({type(error).__name__}); "
                             "give a folder with config.json and model.safetensors: encodec:FOLDER:KBPS") from error
        offered = self.model.config.target_bandwidths
        if self.kbps not in offered:
            raise UsageError(f"encodec: expected one of {', '.join(f'{b:g}' for b in offered)} kilobits a second, got {kbps}")
        self.sample_rate = int(self.model.config.sampling_rate)
        self.parameters = sum(p.numel() for p in self.model.parameters())

    def make(self, audio: Samples, rate_hz: int, path: Path) -> Made:
        assert self.sample_rate is not None
        source = torch.from_numpy(resample(audio, rate_hz, self.sample_rate))
        channels = int(self.model.config.audio_channels)
        with torch.inference_mode():
            encoded = self.model.encode(source.expand(1, channels, -1), bandwidth=self.kbps)
            made = self.model.decode(encoded.audio_codes, encoded.audio_scales, return_dict=False)[0][0].mean(0)[: source.numel()]
        bits = math.ceil(math.log2(self.model.config.codebook_size))
        size = sum(math.ceil(part.numel() * bits / 8) for part in encoded.audio_codes)
        return Made(made.numpy(), self.sample_rate, size + 4 * sum(s is not None for s in encoded.audio_scales))

    def identity(self, path: Path | None = None) -> str:
        return f"encodec {self.kbps} {_version('transformers')} {_state_hash(self.model)}"

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "nominal_bitrate_bps": 1000 * self.kbps}


class PypiVocos(System):
    """Backbone and head of the package vocos; the mel is ours, which equals its features to 1e-5 (the package's own needs torchaudio)."""

    network = "dense"

    def __init__(self, rest: str):
        from wavespike.hub.importers.files import read_pickle
        from wavespike.hub.importers.vocos import CONFIG, WEIGHTS, read_config
        from wavespike.nn.convnext import ConvNeXtConfig
        from wavespike.nn.heads import ISTFTHeadConfig
        from wavespike.signal.mel import MelConfig

        folder = Path(rest)
        if not rest or not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
            raise UsageError(f"pypi-vocos: expected a folder with {CONFIG} and {WEIGHTS}, as in pypi-vocos:FOLDER, got {rest!r}")
        config = read_config(folder / CONFIG)
        if not (isinstance(config.features, MelConfig) and isinstance(config.backbone, ConvNeXtConfig) and isinstance(config.head, ISTFTHeadConfig)):
            raise UsageError(f"{folder}: expected mel features, a VocosBackbone and an ISTFTHead, got another architecture; wavespike loads it by itself: --model {folder}")
        with stand_ins():
            try:
                heads, models = importlib.import_module("vocos.heads"), importlib.import_module("vocos.models")
            except Exception as error:
                raise UsageError(f"pypi-vocos: expected the package vocos, which does not import ({type(error).__name__}: {error}); "
                                 "run: pip install --no-deps vocos") from error
        b, h = config.backbone, config.head
        self.features = config.features
        self.model: Any = torch.nn.ModuleDict({
            "backbone": models.VocosBackbone(input_channels=b.input_channels, dim=b.dim, intermediate_dim=b.intermediate_dim, num_layers=b.num_layers),
            "head": heads.ISTFTHead(dim=h.dim, n_fft=h.n_fft, hop_length=h.hop_length, padding=h.padding)})
        self.model.eval()
        state = {k: v for k, v in read_pickle(folder / WEIGHTS).items() if not k.startswith("feature_extractor.")}
        try:
            self.model.load_state_dict(state)
        except RuntimeError as error:
            raise UsageError(f"{folder}: expected weights of the package vocos, got others ({str(error).splitlines()[0]})") from error
        self.sample_rate = self.features.sample_rate
        self.parameters = sum(p.numel() for p in self.model.parameters())

    def make(self, audio: Samples, rate_hz: int, path: Path) -> Made:
        from wavespike.signal.mel import log_mel

        assert self.sample_rate is not None
        source = torch.from_numpy(resample(audio, rate_hz, self.sample_rate))
        hop = self.features.hop_length
        with torch.inference_mode():
            mel = log_mel(torch.nn.functional.pad(source, (0, -source.numel() % hop))[None], self.features)
            made = self.model["head"](self.model["backbone"](mel))[0, : source.numel()]
        return Made(made.numpy(), self.sample_rate)

    def identity(self, path: Path | None = None) -> str:
        return f"pypi-vocos {_version('vocos')} {_state_hash(self.model)}"


class Files(System):
    """`FOLDER/NAME.*` for the original `.../NAME.*`; where several originals share a name, `FOLDER/PARENT/NAME.*` is looked for first."""

    kind = "recordings"
    network = "unknown"
    computes = False

    def __init__(self, rest: str):
        self.folder = Path(rest)
        if not rest or not self.folder.is_dir():
            raise UsageError(f"files: expected a folder with the files of a system, as in files:FOLDER, got {rest!r}")

    def _find(self, path: Path) -> Path:
        for stem in (self.folder / path.parent.name / path.stem, self.folder / path.stem):
            for ending in dict.fromkeys((path.suffix.lower(), *SUFFIXES)):
                if (found := stem.with_name(stem.name + ending)).is_file():
                    return found
        raise AudioError(f"{self.folder}: expected a file {path.stem} with an ending of {', '.join(SUFFIXES)} for {path}, found none; name files like the originals")

    def make(self, audio: Samples, rate_hz: int, path: Path) -> Made:
        found = self._find(path)
        samples, own_hz = read(found)
        made, notes = align(audio, samples.mean(0), rate_hz, own_hz)
        return Made(made, rate_hz, None, tuple(f"{found}: {note}" for note in notes))

    def identity(self, path: Path | None = None) -> str:
        if path is None:
            return f"files {self.folder.resolve()}"
        try:
            return hashlib.sha256(self._find(path).read_bytes()).hexdigest()
        except (AudioError, OSError):
            return "none"


PEERS: dict[str, Peer] = {
    "world": Peer("world", World),
    "opus": Peer("opus:KBPS", Opus),
    "encodec": Peer("encodec:[FOLDER:]KBPS", Encodec),
    "pypi-vocos": Peer("pypi-vocos:FOLDER", PypiVocos),
    "files": Peer("files:FOLDER", Files),
}
"""Name before the colon -> peer."""


def open_peer(name: str) -> System:
    """Raises UsageError (or MissingDependencyError) in one line that says what the peer needs."""
    kind, _, rest = name.partition(":")
    return PEERS[kind].open(rest)


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _state_hash(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _call(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-200:]
        raise AudioError(f"{words[0]}: expected it to succeed, got exit code {done.returncode} ({said}); try the same by hand")
    return done.stdout or done.stderr


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
        yield


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Empty modules under the names of packages that vocos imports and its decoder does not use, while it is being imported."""
    placed = []
    for name, members in (("torchaudio", ()), ("torchaudio.functional", ()), ("torchaudio.functional.functional", ("_hz_to_mel", "_mel_to_hz")),
                          ("encodec", ("EncodecModel",))):
        try:
            importlib.import_module(name)
        except Exception:
            stand_in = types.ModuleType(name)
            for member in members:
                setattr(stand_in, member, None)
            sys.modules[name] = stand_in
            placed.append(name)
    try:
        yield
    finally:
        for name in placed:
            del sys.modules[name]
