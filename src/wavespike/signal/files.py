"""Audio files in and out through libsndfile: WAV, FLAC, OGG (Vorbis, Opus) and MP3, any channel count, whole or in blocks.

Samples are float32 [C, T] in -1..1. Reading refuses what cannot be right (not audio, truncated, no samples, NaN or Inf). Writing goes to a temporary
name beside the target and is renamed at the end, so a failure leaves no partial file; samples beyond full scale are clipped and counted.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import soundfile

from wavespike.errors import AudioError, OutputError, UsageError, nearest
from wavespike.signal.resample import Samples, resample

SUFFIXES = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".opus": "OGG", ".mp3": "MP3"}
"""File name ending -> container."""

SampleFormat = Literal["int16", "int24", "int32", "float"]
_PCM = {"int16": "PCM_16", "int24": "PCM_24", "int32": "PCM_32", "float": "FLOAT"}
_LOSSY = {".ogg": "VORBIS", ".opus": "OPUS", ".mp3": "MPEG_LAYER_III"}
_RATES = {".opus": (8000, 12000, 16000, 24000, 48000), ".mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)}
_MOST_CHANNELS = {".flac": 8, ".mp3": 2, ".ogg": 255, ".opus": 255, ".wav": 1024}
_STREAMED = 0x7FFFFF00  # writers that cannot seek put a length this large or larger into a WAV header
BLOCK_FRAMES = 1 << 17


class Reader:
    """An audio file read block by block.

        with Reader(path) as audio:
            for block in audio.blocks():   # [C, n]

    `rate_hz`, `channels`, `frames` (None when the header does not say). Raises AudioError in one line for whatever cannot be used.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._check_path()
        try:
            self._file = soundfile.SoundFile(str(self.path))
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{self.path}: expected audio ({', '.join(s[1:].upper() for s in SUFFIXES)}), got data that is none or damaged "
                             f"({_reason(error)}); convert it first") from error
        self.rate_hz = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.frames: int | None = int(self._file.frames) if 0 <= self._file.frames < 2**62 else None
        try:
            self._check_header()
        except AudioError:
            self._file.close()
            raise

    def _check_path(self) -> None:
        path = self.path
        if path.is_dir():
            raise AudioError(f"{path}: expected an audio file, got a folder; name a file in it")
        if not path.exists():
            raise AudioError(f"{path}: expected an audio file, found nothing; check the path")
        if path.is_file() and path.stat().st_size == 0:
            raise AudioError(f"{path}: expected an audio file, got an empty one (0 bytes); fetch or record it again")
        if not os.access(path, os.R_OK):
            raise AudioError(f"{path}: expected a file that can be read, got no permission; change its mode")

    def _check_header(self) -> None:
        if self.frames == 0:
            raise AudioError(f"{self.path}: expected at least one sample of audio, got none; record it again")
        if self._file.format in ("WAV", "WAVEX"):
            hit = re.search(r"^data : (\d+) \(should be (\d+)\)", self._file.extra_info, re.MULTILINE)
            if hit and int(hit[2]) < int(hit[1]) < _STREAMED:
                raise AudioError(f"{self.path}: expected {hit[1]} bytes of samples as its header says, got {hit[2]}: the file is truncated; fetch it again")

    def blocks(self, frames: int = BLOCK_FRAMES) -> Iterator[Samples]:
        """Consecutive blocks [C, n] with 1 <= n <= frames. Raises AudioError for NaN, Inf, damage, or an end before the announced one."""
        done = 0
        while True:
            try:
                block = self._file.read(frames, dtype="float32", always_2d=True)
            except (soundfile.LibsndfileError, RuntimeError) as error:
                raise AudioError(f"{self.path}: damaged or truncated after {done / self.rate_hz:.2f} s ({_reason(error)}); fetch it again") from error
            if block.shape[0] == 0:
                break
            _check_finite(self.path, block, done, self.rate_hz)
            done += block.shape[0]
            yield np.ascontiguousarray(block.T)
        if done == 0:
            raise AudioError(f"{self.path}: expected at least one sample of audio, got none; record it again")
        if self.frames is not None and done < self.frames:
            raise AudioError(f"{self.path}: expected {self.frames} samples as its header says, got {done}: the file is truncated; fetch it again")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read(path: str | Path, rate_hz: int | None = None) -> tuple[Samples, int]:
    """A whole file -> (samples [C, T], sampling rate in hertz); resampled to `rate_hz` when one is given. Raises AudioError."""
    with Reader(path) as audio:
        samples = np.concatenate(list(audio.blocks()), axis=1)
        own_hz = audio.rate_hz
    return (samples, own_hz) if rate_hz is None else (resample(samples, own_hz, rate_hz), rate_hz)


class Writer:
    """An audio file written block by block; it appears under its name only when the `with` block ends without an error.

    The container follows the name's ending; `sample_format` is for WAV and FLAC. `clipped` counts samples beyond full scale (integer formats).
    Raises OutputError or UsageError before anything is computed when the target cannot be written.
    """

    def __init__(self, path: str | Path, rate_hz: int, channels: int, sample_format: SampleFormat = "int16"):
        self.path = Path(path)
        self.rate_hz, self.channels = rate_hz, channels
        self.clipped = self.frames = 0
        container, subtype = check_output_format(self.path, rate_hz, channels, sample_format)
        self._counts_clipping = subtype not in ("FLOAT",)
        self._stack = contextlib.ExitStack()
        self._sink = _Sink(self._stack.enter_context(replacing(self.path)))
        try:
            self._file = soundfile.SoundFile(self._sink, "w", rate_hz, channels, subtype, format=container)
        except soundfile.LibsndfileError as error:
            self._fail(error)

    def write(self, block: Samples) -> None:
        """Append [C, n] (or [n] for one channel)."""
        block = np.atleast_2d(block)
        if block.shape[0] != self.channels:
            raise AudioError(f"{self.path}: expected {self.channels} channels, got {block.shape[0]}; open the writer with as many")
        if not np.isfinite(block).all():
            raise AudioError(f"{self.path}: expected finite samples, got NaN or Inf; check what made the audio")
        if self._counts_clipping:
            self.clipped += int((np.abs(block) > 1.0).sum())
        try:
            self._file.write(np.ascontiguousarray(block.T, np.float32))
        except (soundfile.LibsndfileError, RuntimeError, AssertionError) as error:  # soundfile asserts that every frame was written
            self._raise(error)
        if self._sink.error is not None:
            self._raise(self._sink.error)
        self.frames += block.shape[1]

    def _raise(self, error: BaseException) -> None:
        cause = self._sink.error or error
        raise _output_error(self.path, cause) from error

    def _fail(self, error: BaseException) -> None:
        wrapped = _output_error(self.path, self._sink.error or error)
        self._sink.close()
        self._stack.__exit__(type(wrapped), wrapped, None)
        raise wrapped from error

    def close(self) -> None:
        """Finish the file and give it its name. Raises OutputError when the last bytes cannot be written."""
        try:
            self._file.close()
            self._sink.close()
        except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
            self._fail(error)
        if self._sink.error is not None:
            self._fail(self._sink.error)
        self._stack.close()

    def discard(self) -> None:
        """Give the file up; nothing is left behind."""
        gone = OutputError(f"{self.path}: given up")
        with contextlib.suppress(Exception):
            self._file.close()
        with contextlib.suppress(Exception):
            self._sink.close()
        self._stack.__exit__(OutputError, gone, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def write(path: str | Path, audio: Samples, rate_hz: int, sample_format: SampleFormat = "int16") -> Path:
    """Write samples [T] or [C, T] as a whole. Raises OutputError or UsageError; no partial file is left."""
    audio = np.atleast_2d(np.asarray(audio, np.float32))
    with Writer(path, rate_hz, audio.shape[0], sample_format) as file:
        for start in range(0, audio.shape[1], BLOCK_FRAMES):
            file.write(audio[:, start : start + BLOCK_FRAMES])
    return Path(path)


def check_output_format(path: str | Path, rate_hz: int = 24000, channels: int = 1, sample_format: str = "int16") -> tuple[str, str]:
    """(container, subtype) for a file name, or UsageError when the format cannot hold the rate, the channels or the samples."""
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in SUFFIXES:
        raise UsageError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}, got {ending or 'no ending'!r}{nearest(ending, SUFFIXES)}")
    if sample_format not in _PCM:
        raise UsageError(f"expected a sample format of {', '.join(_PCM)}, got {sample_format!r}{nearest(sample_format, _PCM)}")
    if ending == ".flac" and sample_format in ("int32", "float"):
        raise UsageError(f"{path}: expected int16 or int24 for FLAC, got {sample_format}; write a WAV file instead")
    if channels > _MOST_CHANNELS[ending]:
        raise UsageError(f"{path}: expected at most {_MOST_CHANNELS[ending]} channels for {ending[1:].upper()}, got {channels}; write a WAV file instead")
    if ending in _RATES and rate_hz not in _RATES[ending]:
        raise UsageError(f"{path}: expected a rate of {', '.join(map(str, _RATES[ending]))} Hz for {ending[1:].upper()}, got {rate_hz}; write a WAV file instead")
    if ending == ".flac" and rate_hz > 655350:
        raise UsageError(f"{path}: expected at most 655350 Hz for FLAC, got {rate_hz}; write a WAV file instead")
    return SUFFIXES[ending], _LOSSY.get(ending, _PCM[sample_format])


def check_output(path: str | Path) -> Path:
    """The file that will be written (links followed), or OutputError when its folder is missing or the name is a folder or a device."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise OutputError(f"{path}: expected a file name for the output, got a folder; add a name")
    if target.exists() and not target.is_file():
        raise OutputError(f"{path}: expected a file name for the output, got a device or pipe; name an ordinary file")
    if not target.parent.is_dir():
        raise OutputError(f"{path}: expected an output in a folder that exists, but {target.parent} does not; create it first")
    return target


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`: renamed to it when the block ends well, removed when it does not. Raises OutputError.

        with replacing("out.npz") as temporary, temporary.open("wb") as file: ...
    """
    target = check_output(path)
    temporary = target.with_name(f".{target.name[:200]}.{os.getpid()}.part")
    try:
        temporary.touch()  # an unwritable folder is found before anything is computed
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise _output_error(Path(path), error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


class _Sink(io.RawIOBase):
    """The file behind libsndfile. An error in a callback cannot pass through C, so it is kept in `error` for the caller."""

    def __init__(self, path: Path):
        self._raw = path.open("w+b")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                return self._raw.write(data)
            except OSError as error:
                self.error = error
        return 0

    def read(self, size: int = -1) -> bytes:
        return self._raw.read(size)

    def readinto(self, buffer: Any) -> int:
        return self._raw.readinto(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._raw.seek(offset, whence)  # flushes, so it may fail like a write
        except OSError as error:
            self.error = self.error or error
            return 0

    def tell(self) -> int:
        return self._raw.tell()

    def close(self) -> None:
        try:
            self._raw.close()
        except OSError as error:
            self.error = self.error or error
            with contextlib.suppress(OSError):
                self._raw.close()


def audio_files(source: str | Path, *, listed: bool = False) -> list[Path]:
    """The audio files of a folder (sorted, sub-folders included), of a list file (`listed`, or a name ending in .txt or .lst), or the one file itself.

    A list file has one path a line (text after a tab is ignored); relative paths count from the list's folder, else from the working folder.
    Raises AudioError when there is none.
    """
    path = Path(source)
    if path.is_dir() and not listed:
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith("."))
        if not found:
            raise AudioError(f"{path}: expected a folder with audio ({', '.join(SUFFIXES)}), found none; check the path")
        return found
    if listed or path.suffix.lower() in (".txt", ".lst"):
        return _read_list(path)
    return [path]


def _read_list(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise AudioError(f"{path}: expected a list of audio files, found nothing; check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise AudioError(f"{path}: expected a text file with one path a line, got {_reason(error)}; check the path") from error
    names = [name for line in lines if (name := line.split("\t")[0].strip())]
    if not names:
        raise AudioError(f"{path}: expected a list with one path a line, got an empty one; add paths")
    beside = [path.parent / name for name in names]
    return [there if there.exists() or not Path(name).exists() else Path(name) for name, there in zip(names, beside, strict=True)]


def _check_finite(path: Path, block: Samples, done: int, rate_hz: int) -> None:
    if not np.isfinite(block).all():
        frame, channel = np.argwhere(~np.isfinite(block))[0]
        raise AudioError(f"{path}: expected finite samples, got {block[frame, channel]} in channel {channel + 1} at {(done + frame) / rate_hz:.3f} s; "
                         "check what made the file")


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(getattr(error, "error_string", error)).strip().rstrip(".") or type(error).__name__


def _output_error(path: Path, error: BaseException) -> OutputError:
    if isinstance(error, OutputError):
        return error
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputError(f"{path}: expected room for the output, but the disk is full or its quota is reached ({_reason(error)}); free some and run again")
    return OutputError(f"{path}: expected an output that can be written, got {_reason(error)!r}; choose another place")
