"""A panel of metrics over many (reference, estimate) pairs: rows, means, and what is missing, by name.

No single number tells how a vocoder sounds (PESQ hears no phasiness, DNSMOS no wrong pitch), so they are reported together. An item without a
value in a metric is left out of that metric's mean and counted with its reason; NaN is never averaged. A metric whose package is not installed is
named as missing with the pip line that adds it.

Other packages add metrics of their own by `register`, called from a function that they name in the entry-point group `wavespike.metrics`.
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
from wavespike.metrics import pitch, quality, utmos
from wavespike.metrics.common import ScoreError, as_samples, finite, pair
from wavespike.metrics.intervals import FEWEST, bootstrap_interval, bootstrap_intervals
from wavespike.signal.resample import resample

ENTRY_POINTS = "wavespike.metrics"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """One score: `rate_hz` is the rate it works at, `span` its range, `group` the computation that yields it, `intrusive` whether it needs a reference.

    `waveform` scores ask for the waveform itself: they have no meaning for a vocoder, which makes a phase of its own. `needs()` says what else than
    packages must be there (weights, a service), or an empty string.
    """

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
    waveform: bool = False
    needs: Callable[[], str] | None = None


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
    "estoi": Metric(label="ESTOI", unit="", better="higher", rate_hz=16000, span=(0.0, 1.0), group="estoi",
                    source="Jensen and Taal, 2016", packages=("pystoi",), extra="metrics"),
    "visqol": Metric(label="ViSQOL", unit="MOS-LQO", better="higher", rate_hz=16000, span=(1.0, 4.64), group="visqol",
                     source="Chinen et al., ViSQOL v3, 2020, speech mode with the lattice", packages=("visqol", "ai_edge_litert"), extra="visqol"),
    "dnsmos_ovrl": Metric(label="DNSMOS OVRL", source=_P835, **_DNSMOS),  # type: ignore[arg-type]
    "dnsmos_sig": Metric(label="DNSMOS SIG", source=_P835, **_DNSMOS),  # type: ignore[arg-type]
    "dnsmos_bak": Metric(label="DNSMOS BAK", source=_P835, **_DNSMOS),  # type: ignore[arg-type]
    "dnsmos_p808": Metric(label="DNSMOS P.808", source="Reddy, Gopal and Cutler, DNSMOS, 2021", **_DNSMOS),  # type: ignore[arg-type]
    "plcmos": Metric(label="PLCMOS", unit="MOS", better="higher", rate_hz=16000, span=(1.0, 5.0), group="plcmos", source="Diener et al., PLCMOS v2, 2023",
                     packages=("speechmos", "onnxruntime"), extra="metrics", intrusive=False),
    "utmos": Metric(label="UTMOS", unit="MOS", better="higher", rate_hz=16000, span=(1.0, 5.0), group="utmos", source="Saeki et al., UTMOS, 2022",
                    packages=(), extra="", intrusive=False, needs=utmos.needs),
    "mel_l1": Metric(label="mel L1", unit="Np", better="lower", rate_hz=24000, span=(0.0, float("inf")), group="mel_l1",
                     source="Vocos's features", packages=(), extra=""),
    "lsd": Metric(label="LSD", unit="dB", better="lower", rate_hz=24000, span=(0.0, 80.0), group="lsd",
                  source="Gray and Markel, 1976, 80 dB range", packages=(), extra=""),
    "mcd": Metric(label="MCD", unit="dB", better="lower", rate_hz=24000, span=(0.0, float("inf")), group="mcd",
                  source="Kubichek, 1993, 24 coefficients, no warping", packages=(), extra=""),
    "si_sdr": Metric(label="SI-SDR", unit="dB", better="higher", rate_hz=24000, span=(-200.0, 200.0), group="si_sdr",
                     source="Le Roux, Wisdom, Erdogan and Hershey, 2019", packages=(), extra="", waveform=True),
    "vuv_f1": Metric(label="V/UV F1", unit="", better="higher", span=(0.0, 1.0), source="voicing decisions of pYIN", **_PITCH),  # type: ignore[arg-type]
    "pitch_rmse_cents": Metric(label="pitch RMSE", unit="cents", better="lower", span=(0.0, float("inf")),
                               source="pYIN (Mauch and Dixon, 2014), jointly voiced frames", **_PITCH),  # type: ignore[arg-type]
    "periodicity_rmse": Metric(label="periodicity RMSE", unit="", better="lower", span=(0.0, 1.0),
                               source="Morrison et al., 2022, with pYIN's probability of voicing", **_PITCH),  # type: ignore[arg-type]
}
"""Name of a score -> what it is. Every signal is resampled to the metric's own rate."""

DEFAULT = ("pesq_wb", "stoi", "estoi", "visqol", "dnsmos_ovrl", "dnsmos_sig", "dnsmos_p808", "plcmos", "mel_l1", "lsd", "mcd", "si_sdr", "vuv_f1",
           "pitch_rmse_cents", "periodicity_rmse")


def register(name: str, metric: Metric, compute: Callable[..., float]) -> None:
    """Add a score of another package to the panel under `name`.

    `compute(estimate)`, or `compute(reference, estimate)` for an intrusive metric, gets mono float32 arrays [T] at `metric.rate_hz` and returns a float;
    it raises `ScoreError` where there is no value. It must be a module's function, so that other processes find it.
    """
    if not name.isidentifier():
        raise UsageError(f"expected a metric's name of letters, digits and _, got {name!r}")
    if (name in METRICS or name in _GROUPS) and name not in _REGISTERED:
        raise UsageError(f"expected a name that no metric of wavespike has, got {name!r}; choose another")
    METRICS[name] = dataclasses.replace(metric, group=name)
    _REGISTERED[name] = compute


@functools.cache
def load_plug_ins() -> dict[str, str]:
    """Run the functions that installed packages name in the entry-point group `wavespike.metrics`; name -> error of those that fail."""
    from importlib.metadata import entry_points

    failed: dict[str, str] = {}
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()()
        except Exception as error:  # somebody else's code: named, and the rest goes on
            failed[point.name] = f"{type(error).__name__}: {error}"
    return failed


@dataclasses.dataclass(frozen=True)
class Pair:
    """A named item: mono signals [T] at one rate; `reference` None scores only the metrics that need none."""

    name: str
    reference: Any
    estimate: Any
    rate_hz: int


@dataclasses.dataclass(frozen=True)
class Row:
    """Scores of one item, and for each score it lacks the reason. `tracks` are the pitch tracks (`reference`, `estimate`) in Hz, None where unvoiced,
    one value a `pitch.HOP_S`, when a score of the pitch was asked for."""

    name: str
    scores: dict[str, float]
    failures: dict[str, str]
    tracks: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far one system's score lies from another's over the `items` that both have: the mean of the differences and its bootstrap 95 % interval.

    `verdict` is `better` or `worse` where the interval leaves out zero, and empty where it does not or where there are too few items to say.
    """

    mean: float
    interval: tuple[float, float]
    items: int
    verdict: Literal["better", "worse", ""]


@dataclasses.dataclass(frozen=True)
class Report:
    """Rows in the order of the items; `missing` = metric -> pip line, for metrics whose package is not installed."""

    rows: list[Row]
    missing: dict[str, str]

    def means(self) -> dict[str, float]:
        """Metric -> mean over the items that have it; a metric that no item has is absent."""
        names = dict.fromkeys(name for row in self.rows for name in row.scores)
        return {name: float(np.mean([row.scores[name] for row in self.rows if name in row.scores])) for name in names}

    def intervals(self, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Metric -> bootstrap 95 % interval of its mean over the items; absent where fewer than two items have a value."""
        out = {}
        for name in self.means():
            interval = bootstrap_interval([row.scores[name] for row in self.rows if name in row.scores], seed)
            if interval is not None:
                out[name] = interval
        return out

    def differences(self, reference: Report, seed: int = 0) -> dict[str, Difference]:
        """Metric -> this report less `reference`, paired item by item (by name); absent where fewer than two items have both scores."""
        others = {row.name: row.scores for row in reference.rows}
        pairs = [(row.scores, others[row.name]) for row in self.rows if row.name in others]
        alike: dict[tuple[int, ...], list[str]] = {}  # metrics that the same items have are drawn together
        for metric in self.means():
            alike.setdefault(tuple(i for i, (a, b) in enumerate(pairs) if metric in a and metric in b), []).append(metric)
        out: dict[str, Difference] = {}
        for items, metrics in alike.items():
            values = np.array([[pairs[i][0][m] - pairs[i][1][m] for m in metrics] for i in items], np.float64).reshape(len(items), len(metrics))
            found = bootstrap_intervals(values, seed)
            if found is None:
                continue
            for metric, mean, low, high in zip(metrics, values.mean(0), *found, strict=True):
                told = len(items) >= FEWEST and (low > 0 or high < 0)
                verdict: Literal["better", "worse", ""] = "" if not told else "better" if (low > 0) == (METRICS[metric].better == "higher") else "worse"
                out[metric] = Difference(float(mean), (float(low), float(high)), len(items), verdict)
        return {metric: out[metric] for metric in self.means() if metric in out}

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

    def as_dict(self, seed: int = 0) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"means": self.means(), "intervals": {k: list(v) for k, v in self.intervals(seed).items()}, "counts": self.counts(), "failures": self.failures(), "missing": self.missing,
                "items": [{"name": row.name, **row.scores} for row in self.rows]}


class Panel:
    """Scores pairs of signals in the chosen metrics.

        report = Panel().run(Pair(name, reference, estimate, 24000) for ...)
        report.means()["dnsmos_p808"]

    `processes` above 1 spreads items over processes; the scores and their order are the same. Raises UsageError for an unknown metric.
    """

    def __init__(self, metrics: Sequence[str] = DEFAULT, processes: int = 1, seed: int = 0):
        load_plug_ins()
        for name in metrics:
            if name not in METRICS:
                raise UsageError(f"expected a metric of {', '.join(METRICS)}, got {name!r}{nearest(name, METRICS)}")
        if processes < 1:
            raise UsageError(f"expected processes >= 1, got {processes}")
        self.metrics = tuple(dict.fromkeys(metrics))
        self.processes = processes
        self.seed = seed
        self.missing = {name: hint for name in self.metrics if (hint := _missing(METRICS[name]))}

    def score(self, item: Pair, metrics: Sequence[str] | None = None) -> Row:
        """One item in every metric (or in those of `metrics`) that is installed. Bad input and metrics without a value become failures of the row, never
        an exception."""
        return _score(item, self._wanted(metrics), self.seed)

    def _wanted(self, metrics: Sequence[str] | None) -> tuple[str, ...]:
        return tuple(m for m in self.metrics if m not in self.missing and (metrics is None or m in metrics))

    def run(self, pairs: Iterable[Pair], progress: Callable[[Row], None] | None = None) -> Report:
        """All items; `pairs` may be a generator (few are held at a time). `progress` is called with each finished row, in order."""
        rows = []
        for row in self.rows((item, None) for item in pairs):
            rows.append(row)
            if progress is not None:
                progress(row)
        return Report(rows, dict(self.missing))

    def rows(self, items: Iterable[tuple[Pair, Sequence[str] | None]]) -> Iterator[Row]:
        """Rows in the order of the items, each scored in its own choice of metrics (None: all of the panel)."""
        if self.processes == 1:
            for item, metrics in items:
                yield self.score(item, metrics)
            return
        import multiprocessing
        from concurrent.futures import Future, ProcessPoolExecutor

        waiting: deque[Future[Row]] = deque()
        plug_ins = {name: (dataclasses.replace(METRICS[name], needs=None), compute) for name, compute in _REGISTERED.items() if name in self.metrics}
        # spawn: forking a process whose torch or BLAS threads run may hang
        with ProcessPoolExecutor(self.processes, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(plug_ins,)) as pool:
            for item, metrics in items:
                plain = Pair(item.name, None if item.reference is None else _plain(item.reference), _plain(item.estimate), item.rate_hz)
                waiting.append(pool.submit(_score, plain, self._wanted(metrics), self.seed))
                if len(waiting) > 2 * self.processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


def _start_worker(plug_ins: dict[str, tuple[Metric, Callable[..., float]]]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    for name, (metric, compute) in plug_ins.items():
        register(name, metric, compute)
    import torch

    torch.set_num_threads(1)


def _plain(audio: Any) -> Any:
    return audio.detach().cpu().numpy() if hasattr(audio, "detach") else audio


def _missing(metric: Metric) -> str:
    import importlib.util

    if not all(importlib.util.find_spec(package) for package in metric.packages):
        return f"pip install 'wavespike[{metric.extra}]'" if metric.extra else f"pip install {' '.join(metric.packages)}"
    return "" if metric.needs is None else metric.needs()


def _score(item: Pair, metrics: tuple[str, ...], seed: int = 0) -> Row:
    scores: dict[str, float] = {}
    failures: dict[str, str] = {}
    done: dict[str, dict[str, float | WavespikeError]] = {}
    for name in metrics:
        metric = METRICS[name]
        if item.reference is None and metric.intrusive:
            continue
        if metric.group not in done:
            done[metric.group] = _run_group(metric.group, item, seed)
        value = done[metric.group].get(name, done[metric.group].get("*"))
        if isinstance(value, float):
            scores[name] = value
        else:
            failures[name] = str(value)
    tracks = _tracks(item) if any(METRICS[name].group == "pitch" for name in scores) else {}
    return Row(item.name, scores, failures, tracks)


def _run_group(group: str, item: Pair, seed: int) -> dict[str, float | WavespikeError]:
    try:
        if group == "plcmos":
            return {"plcmos": quality.plcmos(item.estimate, item.rate_hz, seed)}
        return _plug_in(group, item) if group in _REGISTERED else _GROUPS[group](item)
    except WavespikeError as error:
        return {"*": error}
    except (ValueError, ArithmeticError, LookupError, RuntimeError) as error:  # a metric's package gave up on this item
        return {"*": ScoreError(f"{type(error).__name__}: {error}")}


def _single(name: str, function: Callable[..., float], **options: Any) -> Callable[[Pair], dict[str, float | WavespikeError]]:
    return lambda item: {name: function(item.reference, item.estimate, item.rate_hz, **options)}


def _plug_in(name: str, item: Pair) -> dict[str, float | WavespikeError]:
    metric, compute = METRICS[name], _REGISTERED[name]
    if metric.intrusive:
        value = compute(*pair(item.reference, item.estimate, item.rate_hz, metric.rate_hz))
    else:
        value = compute(resample(as_samples(item.estimate), item.rate_hz, metric.rate_hz))
    return {name: finite(value, metric.label)}


def _dnsmos(item: Pair) -> dict[str, float | WavespikeError]:
    return {f"dnsmos_{short}": value for short, value in quality.dnsmos(item.estimate, item.rate_hz).items()}


@functools.lru_cache(maxsize=64)
def _track(data: bytes) -> pitch.PitchTrack:
    return pitch.track(np.frombuffer(data, np.float32))


def _pitch(item: Pair) -> dict[str, float | WavespikeError]:
    a, b = pair(item.reference, item.estimate, item.rate_hz, pitch.RATE_HZ)
    # the reference's track is remembered: several models are scored against the same reference
    reference, estimate = _track(a.tobytes()), _track(b.tobytes())
    out: dict[str, float | WavespikeError] = {}
    for name, function in (("vuv_f1", pitch.voicing_f1), ("pitch_rmse_cents", pitch.pitch_rmse_cents), ("periodicity_rmse", pitch.periodicity_rmse)):
        try:
            out[name] = function(reference, estimate)
        except WavespikeError as error:
            out[name] = error
    return out


def _tracks(item: Pair) -> dict[str, list[float | None]]:
    signals = pair(item.reference, item.estimate, item.rate_hz, pitch.RATE_HZ)
    return {name: [round(float(f), 1) if v else None for f, v in zip(t.f0_hz, t.voiced, strict=True)]
            for name, t in zip(("reference", "estimate"), (_track(x.tobytes()) for x in signals), strict=True)}


_GROUPS: dict[str, Callable[[Pair], dict[str, float | WavespikeError]]] = {
    "pesq_wb": _single("pesq_wb", quality.pesq, band="wb"),
    "pesq_nb": _single("pesq_nb", quality.pesq, band="nb"),
    "stoi": _single("stoi", quality.stoi),
    "estoi": _single("estoi", quality.stoi, extended=True),
    "visqol": _single("visqol", quality.visqol),
    "mel_l1": _single("mel_l1", quality.mel_l1),
    "lsd": _single("lsd", quality.lsd),
    "mcd": _single("mcd", quality.mcd),
    "si_sdr": _single("si_sdr", quality.si_sdr),
    "utmos": lambda item: {"utmos": utmos.utmos(item.estimate, item.rate_hz)},
    "dnsmos": _dnsmos,
    "pitch": _pitch,
}
_REGISTERED: dict[str, Callable[..., float]] = {}
