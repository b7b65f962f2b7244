"""Any number of systems over any number of files: scores, speed, memory, energy, bitrate. `evaluate` is the one function behind `wavespike eval`.

Every file is read, given to every system, and scored by the panel at the file's own rate, so that all are measured against the same reference. Two things are
cached by content: what a system made of a file (by audio, weights, configuration, seed and code), and the scores of what was made (by both signals and the judges),
so that a change of code that leaves the sound as it was costs no new scores. What fails is named and counted, and the rest is done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavespike.errors import AudioError, UsageError, WavespikeError
from wavespike.metrics import utmos
from wavespike.metrics.cache import Cache, content_key, file_hash
from wavespike.metrics.footprint import peak_memory_mb
from wavespike.metrics.machine import load_average, machine, versions
from wavespike.metrics.panel import DEFAULT, METRICS, Difference, Pair, Panel, Report, Row
from wavespike.metrics.systems import Made, System, code_version
from wavespike.signal.files import read
from wavespike.signal.resample import Samples

PROBE_S = 5.0
"""Speed and memory are measured on so much of the first file, energy is counted on `ENERGY_S` of it."""
ENERGY_S = 2.0
ROUNDS = 3
PATIENCE_S = 4.0
"""A call that takes longer is timed once."""
KEPT_SAMPLES = 50_000_000
"""What the systems made stays in memory up to this many samples, for the report; beyond that it is made again."""
RETRIED = (WavespikeError, RuntimeError, ValueError, ArithmeticError, LookupError, OSError)
"""Errors of a system that concern one file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How to judge. `metrics` None takes the default panel, less waveform scores for vocoders; `costs` adds peak memory and counted energy; the others are
    compared with the system `against`, None the first."""

    metrics: Sequence[str] | None = None
    seed: int = 0
    peak: float | None = None
    processes: int = 1
    cache: Path | None = None
    costs: bool = False
    against: str | None = None
    time_again: bool = False
    """Measure speed although it is known: the machine was busy."""
    condition: Mapping[str, list[int]] = dataclasses.field(default_factory=dict)
    """What processes that measure memory are told besides the name."""


@dataclasses.dataclass
class Result:
    """One system: scores in the order of the files, sizes of its bit streams, what was done to its files, and what it costs."""

    system: System
    report: Report
    bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    speed: dict[str, float] = dataclasses.field(default_factory=dict)
    load: float | None = None
    """The machine's load average when the speed was measured."""
    peak_memory_mb: float | None = None
    energy: dict[str, Any] | None = None
    problems: list[str] = dataclasses.field(default_factory=list)
    """Costs that could not be measured, in words."""


@dataclasses.dataclass
class Evaluation:
    """Everything that was found, and the audio behind it."""

    data: str
    settings: Settings
    seconds: dict[str, float]
    """Usable files and how long they are, in order."""
    unreadable: dict[str, str]
    original: Report
    results: dict[str, Result]
    threads: int
    _kept: dict[tuple[str, str], Made]

    def read(self, name: str) -> tuple[Samples, int]:
        """The original as it was judged."""
        return read_mono(Path(name), self.settings.peak)

    def made(self, system: str, name: str) -> Made:
        """What a system made of a file, from memory or made again. Raises WavespikeError where it failed."""
        if (system, name) in self._kept:
            return self._kept[system, name]
        audio, rate_hz = self.read(name)
        return _make(self.results[system].system, audio, rate_hz, Path(name), self.settings.seed)

    def bitrate_bps(self, system: str) -> float | None:
        """Bits of the real streams over the seconds of their files; None where there is no stream."""
        sizes = self.results[system].bytes
        return 8 * sum(sizes.values()) / sum(self.seconds[name] for name in sizes) if sizes else None

    @property
    def against(self) -> str:
        """The system that the others are compared with."""
        return next(iter(self.results)) if self.settings.against is None else self.settings.against

    def differences(self, system: str, against: str) -> dict[str, Difference]:
        """Metric -> a system's scores less those of another, file by file."""
        return self.results[system].report.differences(self.results[against].report, self.settings.seed)

    def energy_over_twin(self, system: str) -> float | None:
        """Counted energy of a system over that of its dense twin; None where the twin is not among the systems or either was not counted."""
        own = self.results[system]
        twin = None if own.system.twin is None else self.results.get(own.system.twin)
        if twin is None or own.energy is None or twin.energy is None:
            return None
        return float(own.energy["millijoules_per_second"] / twin.energy["millijoules_per_second"])

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        seed = self.settings.seed
        models = {}
        for name, result in self.results.items():
            speed = result.speed
            rtf = speed.get("all_threads", speed.get("1_thread"))
            differences = {} if name == self.against else self.differences(name, self.against)
            models[name] = {
                **result.system.facts(), "real_time_factor": rtf, "times_real_time": None if rtf is None else 1 / rtf,
                "real_time_factor_1_thread": speed.get("1_thread"), "load_when_timed": result.load, "seconds": sum(self.seconds.values()),
                "bitrate_bps": self.bitrate_bps(name), "peak_memory_mb": result.peak_memory_mb, "energy": result.energy, "energy_over_twin": self.energy_over_twin(name),
                "notes": result.notes, "problems": result.problems, "metrics": result.report.as_dict(seed),
                "differences": {metric: dataclasses.asdict(d) | {"interval": list(d.interval)} for metric, d in differences.items()},
            }
        return {"data": self.data, "files": len(self.seconds), "unreadable": self.unreadable, "threads": self.threads, "peak": self.settings.peak, "seed": seed,
                "against": self.against, "original": {"metrics": self.original.as_dict(seed)}, "models": models, "machine": machine(), "versions": versions()}


def read_mono(path: Path, peak: float | None = None) -> tuple[Samples, int]:
    """A file as mono samples [T], the mean of its channels, scaled to `peak` where one is given, and its rate. Raises AudioError."""
    samples, rate_hz = read(path)
    mono = samples.mean(0)
    loudest = float(np.abs(mono).max())
    return (mono * np.float32(peak / loudest) if peak is not None and loudest > 0 else mono), rate_hz


def evaluate(systems: Mapping[str, System], files: Sequence[Path], settings: Settings | None = None, *, data: str = "",
             advance: Callable[[], None] = lambda: None) -> Evaluation:
    """Judge `systems` (name -> system) on `files`; `advance` is called once for each file of the originals and of each system.

    Raises AudioError when no file can be used, UsageError when the system to compare with is not among them.
    """
    chosen = Settings() if settings is None else settings
    if chosen.against is not None and chosen.against not in systems:
        raise UsageError(f"expected a system to compare with of {', '.join(systems)}, got {chosen.against!r}")
    threads = torch.get_num_threads()  # a metric's package may change it later
    panel = Panel(chosen.metrics or DEFAULT, chosen.processes, chosen.seed)
    cache = Cache(chosen.cache)
    work = _Work(chosen, panel, cache, files, advance)
    original = work.originals()
    if not work.seconds:
        raise AudioError(f"{data}: expected at least one usable file, got none; the first: {next(iter(work.unreadable.values()))}")
    results = {name: Result(system, Report([], {})) for name, system in systems.items()}
    work.speeds(results)  # before scoring processes keep the machine busy
    if chosen.costs:
        for name, result in results.items():
            work.costs(name, result)
    for name, result in results.items():
        work.score(name, result)
    return Evaluation(data, chosen, work.seconds, work.unreadable, original, results, threads, work.kept)


class _Work:
    """One evaluation while it runs."""

    def __init__(self, settings: Settings, panel: Panel, cache: Cache, files: Sequence[Path], advance: Callable[[], None]):
        self.settings, self.panel, self.cache, self.files, self.advance = settings, panel, cache, files, advance
        self.seconds: dict[str, float] = {}
        self.unreadable: dict[str, str] = {}
        self.hashes: dict[str, str] = {}
        self.kept: dict[tuple[str, str], Made] = {}
        self._kept_samples = 0
        self._making = content_key(settings.seed, settings.peak, code_version("signal", "metrics/peers.py", "metrics/alignment.py"))
        self._judging = content_key(settings.seed, settings.peak, _judges())

    def originals(self) -> Report:
        """The originals themselves, in the metrics that need no reference."""
        wanted = [m for m in self.panel.metrics if not METRICS[m].intrusive]

        def items() -> Iterator[tuple[str, Any, str]]:
            for path in dict.fromkeys(self.files):
                name = str(path)
                self.hashes[name] = file_hash(path)
                try:
                    audio, rate_hz = read_mono(path, self.settings.peak)
                except AudioError as error:
                    self.unreadable[name] = str(error)
                    self.advance()
                    continue
                self.seconds[name] = audio.size / rate_hz
                yield name, (None, audio, rate_hz), content_key("original", self.hashes[name], self._judging)

        return Report(list(self._scored(items(), wanted)), {m: hint for m, hint in self.panel.missing.items()})

    def score(self, name: str, result: Result) -> None:
        """Fill in the scores of one system."""
        system = result.system
        wanted = list(self.panel.metrics)
        if self.settings.metrics is None and not system.waveform:
            wanted = [m for m in wanted if not METRICS[m].waveform]
        rows: dict[str, Row] = {}

        def items() -> Iterator[tuple[str, Any, str]]:
            for file in self.seconds:
                key = content_key("made", system.identity(Path(file)), self.hashes[file], self._making)
                known = self.cache.get(key)
                signals = None
                if known is None or self._lacking(known["heard"], wanted):
                    try:
                        audio, rate_hz = read_mono(Path(file), self.settings.peak)
                        made = _make(system, audio, rate_hz, Path(file), self.settings.seed)
                    except RETRIED as error:
                        rows[file] = Row(file, {}, {m: _said(error) for m in wanted if m not in self.panel.missing})
                        self.advance()
                        continue
                    self._keep(name, file, made)
                    estimate = made.at(rate_hz)  # judged at the file's own rate, so that every system is measured against the same reference
                    heard = content_key("scores", self.hashes[file], hashlib.sha256(np.ascontiguousarray(estimate).tobytes()).hexdigest(), estimate.dtype, self._judging)
                    signals = (audio, estimate, rate_hz)
                    known = {"heard": heard, "bytes": made.bytes, "notes": list(made.notes)}
                    self.cache.put(key, known)
                if known["bytes"] is not None:
                    result.bytes[file] = known["bytes"]
                if known["notes"]:
                    result.notes[file] = known["notes"]
                yield file, signals, known["heard"]

        for row in self._scored(items(), wanted):
            rows[row.name] = row
        result.report = Report([rows[file] for file in self.seconds], {m: h for m, h in self.panel.missing.items() if m in wanted})

    def _lacking(self, key: str, wanted: Sequence[str]) -> list[str]:
        """Which of the wanted scores are not kept under a key."""
        entry = self.cache.get(key) or {"scores": {}, "failures": {}}
        return [m for m in wanted if m not in self.panel.missing and m not in entry["scores"] and m not in entry["failures"]]

    def _scored(self, items: Iterator[tuple[str, Any, str]], wanted: Sequence[str]) -> Iterator[Row]:
        """Rows in the order of the items (name, (reference, estimate, rate) or None when all is known, key), cached as they come."""
        queue: list[tuple[str, str, bool]] = []

        def unknown() -> Iterator[tuple[Pair, Sequence[str]]]:
            for name, signals, key in items:
                lacking = [] if signals is None else self._lacking(key, wanted)
                queue.append((name, key, bool(lacking)))
                if lacking:
                    yield Pair(name, signals[0], signals[1], signals[2]), lacking

        def known() -> Iterator[Row]:
            while queue and not queue[0][2]:
                name, key, _ = queue.pop(0)
                self.advance()
                yield _row(name, self.cache.get(key) or {"scores": {}, "failures": {}}, wanted)

        for row in self.panel.rows(unknown()):
            yield from known()
            name, key, _ = queue.pop(0)
            assert name == row.name
            entry = self.cache.get(key) or {"scores": {}, "failures": {}}
            entry = {"scores": {**entry["scores"], **row.scores}, "failures": {**entry["failures"], **row.failures}, "tracks": row.tracks or entry.get("tracks", {})}
            self.cache.put(key, entry)
            self.advance()
            yield _row(name, entry, wanted)
        yield from known()

    def _keep(self, name: str, file: str, made: Made) -> None:
        if self._kept_samples + made.audio.size <= KEPT_SAMPLES:
            self._kept_samples += made.audio.size
            self.kept[name, file] = made

    def speeds(self, results: Mapping[str, Result]) -> None:
        """Real-time factor of every system, as the commands run it, on the start of the first usable file, on one thread and on all: median of `ROUNDS` calls
        after a first one.

        The systems take turns, so that what else the machine does slows all alike; hence a change of one is a reason to time all anew.
        """
        timed = {name: result for name, result in results.items() if result.system.computes}
        threads, file = torch.get_num_threads(), next(iter(self.seconds))
        identities = [(name, result.system.identity()) for name, result in timed.items()]
        key = content_key("speeds", identities, self.hashes[file], self.settings.seed, self.settings.peak, _costs_code(), threads, machine(), PROBE_S, ROUNDS)
        known = None if self.settings.time_again else self.cache.get(key)
        if known is None:
            audio, rate_hz = read_mono(Path(file), self.settings.peak)
            audio = audio[: round(PROBE_S * rate_hz)]
            times: dict[tuple[str, str], list[float]] = {(label, name): [] for label in ("1_thread", "all_threads") for name in timed}
            load, told = load_average(), {}
            used = {name: result.system.as_used() for name, result in timed.items()}
            try:
                for label, count in (("1_thread", 1), ("all_threads", threads)):
                    torch.set_num_threads(count)
                    for _ in range(1 + ROUNDS):
                        for name in timed:
                            so_far = times[label, name]
                            if name in told or (so_far and so_far[0] > PATIENCE_S):
                                continue
                            start = time.perf_counter()
                            try:
                                _make(used[name], audio, rate_hz, Path(file), self.settings.seed)
                            except RETRIED as error:
                                told[name] = _said(error)
                            so_far.append(time.perf_counter() - start)
            finally:
                torch.set_num_threads(threads)
            speeds = {name: {label: statistics.median(times[label, name][1:] or times[label, name]) * rate_hz / audio.size for label in ("1_thread", "all_threads")}
                      for name in timed if name not in told}
            known = {"load": load, "speeds": speeds, "problems": told}
            self.cache.put(key, known)
        for name, result in timed.items():
            result.speed, result.load = known["speeds"].get(name, {}), known["load"]
            result.problems += [known["problems"][name]] if name in known["problems"] else []

    def costs(self, name: str, result: Result) -> None:
        """Peak memory and counted energy of the start of the first usable file."""
        system = result.system
        if not system.computes or result.problems:
            return
        file = next(iter(self.seconds))
        key = content_key("costs", system.identity(), self.hashes[file], self.settings.seed, self.settings.peak, _costs_code(), machine(), PROBE_S, ENERGY_S)
        entry = self.cache.get(key) or {}
        try:
            if system.in_process and "peak_memory_mb" not in entry:
                entry["peak_memory_mb"] = peak_memory_mb(name, Path(file), PROBE_S, dict(self.settings.condition))
            if "energy" not in entry:
                audio, rate_hz = read_mono(Path(file), self.settings.peak)
                entry["energy"] = system.energy(audio[: round(ENERGY_S * rate_hz)], rate_hz)
        except RETRIED as error:
            result.problems.append(_said(error))
        if entry:
            self.cache.put(key, entry)
        result.peak_memory_mb, result.energy = entry.get("peak_memory_mb"), entry.get("energy")


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, WavespikeError) else f"{type(error).__name__}: {error}"


def _costs_code() -> str:
    """Changes when the code of what costs depend on does."""
    return code_version("signal", "runtime", *(f"metrics/{name}.py" for name in ("energy", "footprint", "systems", "peers")))


def _judges() -> str:
    """Changes when a score could: the code behind it and the versions of its packages."""
    code = code_version("signal", *(f"metrics/{name}.py" for name in ("common", "pitch", "quality", "utmos")))
    return f"{code} {sorted(versions().items())} {os.environ.get(utmos.VARIABLE, '')}"


def _row(name: str, entry: dict[str, Any], wanted: Sequence[str]) -> Row:
    """What was asked for, in the panel's order."""
    return Row(name, {m: entry["scores"][m] for m in wanted if m in entry["scores"]},
               {m: entry["failures"][m] for m in wanted if m in entry["failures"]}, entry.get("tracks", {}))


def _make(system: System, audio: Samples, rate_hz: int, path: Path, seed: int) -> Made:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return system.make(audio, rate_hz, path)
