"""A panel of metrics over many (reference, estimate) pairs: rows, means, and what is missing, by name.

No single number tells how a vocoder sounds (PESQ hears no phasiness, DNSMOS no wrong pitch), so they are reported together. An item without a
value in a metric is left out of that metric's mean and counted with its reason; NaN is never averaged. A metric whose package is not installed is
named as missing with the pip line that adds it.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from wavespike.errors import UsageError, WavespikeError, nearest
from wavespike.metrics import pitch, quality
from wavespike.metrics.common import ScoreError, as_samples, pair


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """One score: `rate_hz` is the rate it works at, `span` its range, `group` the computation that yields it, `intrusive` whether it needs a reference."""

    label: str
    unit: str
    better: Literal["higher", "lower"]
    rate_hz: int
    span: tuple[float, float]
    group: str
    source: str
    packages: tuple[str, ...]
    extra: str
    intrusive: bool = True


_DNSMOS = {"unit": "MOS", "better": "higher", "rate_hz": 16000, "span": (1.0, 5.0), "group": "dnsmos", "packages": ("speechmos", "onnxruntime", "librosa"), "extra": "metrics", "intrusive": False}
_PITCH = {"rate_hz": 16000, "group": "pitch", "packages": ("librosa",), "extra": "metrics"}
_P835 = "Reddy, Gopal and Cutler, DNSMOS P.835, 2022"

METRICS: dict[str, Metric] = {
    "pesq_wb": Metric(label="PESQ-WB", unit="MOS-LQO", better="higher", rate_hz=16000, span=(1.04, 4.64), group="pesq_wb",
                      source="ITU-T P.862.2, 2007", packages=("pesq",), extra="pesq"),
    "pesq_nb": Metric(label="PESQ-NB", unit="MOS-LQO", better="higher", rate_hz=8000, span=(1.02, 4.55), group="pesq_nb",
                      source="ITU-T P.862 and P.862.1, 2003", packages=("pesq",), extra="pesq"),
    "stoi": Metric(label="STOI", unit="", better="higher", rate_hz=16000, span=(0.0, 1.0), group="stoi",
                   source="Taal, Hendriks, Heusdens and Jensen, 2011", packages=("pystoi",), extra="metrics"),
    "dnsmos_ovrl": Metric(label="DNSMOS OVRL", source=_P835, **_DNSMOS),  # type: ignore[arg-type]
    "dnsmos_sig": Metric(label="DNSMOS SIG", source=_P835, **_DNSMOS),  # type: ignore[arg-type]
    "dnsmos_bak": Metric(label="DNSMOS BAK", source=_P835, **_DNSMOS),  # type: ignore[arg-type]
    "dnsmos_p808": Metric(label="DNSMOS P.808", source="Reddy, Gopal and Cutler, DNSMOS, 2021", **_DNSMOS),  # type: ignore[arg-type]
    "mel_l1": Metric(label="mel L1", unit="Np", better="lower", rate_hz=24000, span=(0.0, float("inf")), group="mel_l1",
                     source="Vocos's features", packages=(), extra=""),
    "vuv_f1": Metric(label="V/UV F1", unit="", better="higher", span=(0.0, 1.0), source="voicing decisions of pYIN", **_PITCH),  # type: ignore[arg-type]
    "pitch_rmse_cents": Metric(label="pitch RMSE", unit="cents", better="lower", span=(0.0, float("inf")),
                               source="pYIN (Mauch and Dixon, 2014), jointly voiced frames", **_PITCH),  # type: ignore[arg-type]
    "periodicity_rmse": Metric(label="periodicity RMSE", unit="", better="lower", span=(0.0, 1.0),
                               source="Morrison et al., 2022, with pYIN's probability of voicing", **_PITCH),  # type: ignore[arg-type]
}
"""Name of a score -> what it is. Every signal is resampled to the metric's own rate."""

DEFAULT = ("pesq_wb", "stoi", "dnsmos_ovrl", "dnsmos_sig", "dnsmos_p808", "mel_l1", "vuv_f1", "pitch_rmse_cents", "periodicity_rmse")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A named item: mono signals [T] at one rate; `reference` None scores only the metrics that need none."""

    name: str
    reference: Any
    estimate: Any
    rate_hz: int


@dataclasses.dataclass(frozen=True)
class Row:
    """Scores of one item, and for each score it lacks the reason."""

    name: str
    scores: dict[str, float]
    failures: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Report:
    """Rows in the order of the items; `missing` = metric -> pip line, for metrics whose package is not installed."""

    rows: list[Row]
    missing: dict[str, str]

    def means(self) -> dict[str, float]:
        """Metric -> mean over the items that have it; a metric that no item has is absent."""
        names = dict.fromkeys(name for row in self.rows for name in row.scores)
        return {name: float(np.mean([row.scores[name] for row in self.rows if name in row.scores])) for name in names}

    def counts(self) -> dict[str, int]:
        """Metric -> number of items in its mean."""
        return {name: sum(name in row.scores for row in self.rows) for name in self.means()}

    def failures(self) -> dict[str, dict[str, str]]:
        """Metric -> {item: reason} for the items that were left out of its mean."""
        out: dict[str, dict[str, str]] = {}
        for row in self.rows:
            for metric, reason in row.failures.items():
                out.setdefault(metric, {})[row.name] = reason
        return out

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"means": self.means(), "counts": self.counts(), "failures": self.failures(), "missing": self.missing,
                "items": [{"name": row.name, **row.scores} for row in self.rows]}


class Panel:
    """Scores pairs of signals in the chosen metrics.

        report = Panel().run(Pair(name, reference, estimate, 24000) for ...)
        report.means()["dnsmos_p808"]

    `processes` above 1 spreads items over processes; the scores and their order are the same. Raises UsageError for an unknown metric.
    """

    def __init__(self, metrics: Sequence[str] = DEFAULT, processes: int = 1):
        for name in metrics:
            if name not in METRICS:
                raise UsageError(f"expected a metric of {', '.join(METRICS)}, got {name!r}{nearest(name, METRICS)}")
        if processes < 1:
            raise UsageError(f"expected processes >= 1, got {processes}")
        self.metrics = tuple(dict.fromkeys(metrics))
        self.processes = processes
        self.missing = {name: hint for name in self.metrics if (hint := _missing(METRICS[name]))}

    def score(self, item: Pair) -> Row:
        """One item in every metric that is installed. Bad input and metrics without a value become failures of the row, never an exception."""
        wanted = [m for m in self.metrics if m not in self.missing]
        return _score(item, tuple(wanted))

    def run(self, pairs: Iterable[Pair], progress: Callable[[Row], None] | None = None) -> Report:
        """All items; `pairs` may be a generator (few are held at a time). `progress` is called with each finished row, in order."""
        rows = []
        for row in self._rows(pairs):
            rows.append(row)
            if progress is not None:
                progress(row)
        return Report(rows, dict(self.missing))

    def _rows(self, pairs: Iterable[Pair]) -> Iterator[Row]:
        if self.processes == 1:
            yield from map(self.score, pairs)
            return
        import multiprocessing
        from concurrent.futures import Future, ProcessPoolExecutor

        wanted = tuple(m for m in self.metrics if m not in self.missing)
        waiting: deque[Future[Row]] = deque()
        # spawn: forking a process whose torch or BLAS threads run may hang
        with ProcessPoolExecutor(self.processes, multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
            for item in pairs:
                plain = Pair(item.name, None if item.reference is None else _plain(item.reference), _plain(item.estimate), item.rate_hz)
                waiting.append(pool.submit(_score, plain, wanted))
                if len(waiting) > 2 * self.processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def _plain(audio: Any) -> Any:
    return audio.detach().cpu().numpy() if hasattr(audio, "detach") else audio


def _missing(metric: Metric) -> str:
    import importlib.util

    present = all(importlib.util.find_spec(package) for package in metric.packages)
    return "" if present else f"pip install 'wavespike[{metric.extra}]'"


def _score(item: Pair, metrics: tuple[str, ...]) -> Row:
    scores: dict[str, float] = {}
    failures: dict[str, str] = {}
    done: dict[str, dict[str, float | WavespikeError]] = {}
    for name in metrics:
        metric = METRICS[name]
        if item.reference is None and metric.intrusive:
            continue
        if metric.group not in done:
            done[metric.group] = _run_group(metric.group, item)
        value = done[metric.group].get(name, done[metric.group].get("*"))
        if isinstance(value, float):
            scores[name] = value
        else:
            failures[name] = str(value)
    return Row(item.name, scores, failures)


def _run_group(group: str, item: Pair) -> dict[str, float | WavespikeError]:
    try:
        return _GROUPS[group](item)
    except WavespikeError as error:
        return {"*": error}
    except (ValueError, ArithmeticError, LookupError, RuntimeError) as error:  # a metric's package gave up on this item
        return {"*": ScoreError(f"{type(error).__name__}: {error}")}


def _single(name: str, function: Callable[..., float], **options: Any) -> Callable[[Pair], dict[str, float | WavespikeError]]:
    return lambda item: {name: function(item.reference, item.estimate, item.rate_hz, **options)}


def _dnsmos(item: Pair) -> dict[str, float | WavespikeError]:
    return {f"dnsmos_{short}": value for short, value in quality.dnsmos(item.estimate, item.rate_hz).items()}


@functools.lru_cache(maxsize=32)
def _track(data: bytes) -> pitch.PitchTrack:
    return pitch.track(np.frombuffer(data, np.float32))


def _pitch(item: Pair) -> dict[str, float | WavespikeError]:
    a, b = pair(item.reference, item.estimate, item.rate_hz, pitch.RATE_HZ)
    # the reference's track is remembered: several models are scored against the same reference
    reference, estimate = _track(a.tobytes()), pitch.track(as_samples(b))
    out: dict[str, float | WavespikeError] = {}
    for name, function in (("vuv_f1", pitch.voicing_f1), ("pitch_rmse_cents", pitch.pitch_rmse_cents), ("periodicity_rmse", pitch.periodicity_rmse)):
        try:
            out[name] = function(reference, estimate)
        except WavespikeError as error:
            out[name] = error
    return out


_GROUPS: dict[str, Callable[[Pair], dict[str, float | WavespikeError]]] = {
    "pesq_wb": _single("pesq_wb", quality.pesq, band="wb"),
    "pesq_nb": _single("pesq_nb", quality.pesq, band="nb"),
    "stoi": _single("stoi", quality.stoi),
    "mel_l1": _single("mel_l1", quality.mel_l1),
    "dnsmos": _dnsmos,
    "pitch": _pitch,
}
