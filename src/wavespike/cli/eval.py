"""`wavespike eval`: models over speech files, each metric's mean in one table (see wavespike.metrics.panel for what each metric is)."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from wavespike.cli.common import DEFAULT_MODEL, add_bandwidth, add_sampling, condition, note, progress, samples, sampling


def add_arguments(parser: Any) -> None:
    parser.add_argument("--model", type=str, nargs="+", default=[DEFAULT_MODEL], help="models' names (wavespike models), folders, or hub ids")
    parser.add_argument("--data", type=str, required=True, help="a folder with audio, a list file with one path a line (.txt, .lst), or one audio file")
    parser.add_argument("--limit", type=int, default=None, help="only the first N files")
    parser.add_argument("--metrics", type=str, nargs="+", default=None, help="which metrics (default: all but PESQ-NB and DNSMOS BAK)")
    parser.add_argument("--peak", type=float, default=None, help="scale every file to this peak first, 0..1 (default: as it is)")
    parser.add_argument("--processes", type=int, default=1, help="processes that compute metrics")
    add_bandwidth(parser)
    add_sampling(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Any) -> int:
    import torch

    from wavespike.errors import AudioError, UsageError
    from wavespike.hub.load import load
    from wavespike.metrics.panel import DEFAULT, Panel
    from wavespike.signal.files import audio_files

    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit: expected at least 1, got {args.limit}")
    if args.peak is not None and not 0 < args.peak <= 1:
        raise UsageError(f"--peak: expected a value in 0..1, got {args.peak}")
    panel = Panel(args.metrics or DEFAULT, args.processes)
    models = {name: load(name) for name in args.model}
    for name, model in models.items():
        if model.kind not in ("vocoder", "codec"):
            raise UsageError(f"{name}: expected a vocoder or a codec, got a {model.kind}; eval judges models that give speech back")
    if sampling(args) and not any(map(samples, models.values())):
        raise UsageError(f"--{next(iter(sampling(args)))}: expected a diffusion model among the models, got none; leave it out")
    told = {name: condition(args, model) if samples(model) or not sampling(args) else condition(_without_sampling(args), model) for name, model in models.items()}
    files = audio_files(Path(args.data))[: args.limit]
    results: dict[str, Any] = {}
    unreadable: dict[str, str] = {}
    with progress("evaluation", len(files) * (len(models) + 1)) as advance, torch.inference_mode():
        reference = panel.run(_originals(files, args.peak, unreadable), lambda row: advance(1))
        if not reference.rows:
            raise AudioError(f"{args.data}: expected at least one usable file, got none; the first: {next(iter(unreadable.values()))}")
        for name, model in models.items():
            results[name] = _evaluate(model, panel, files, args.peak, told[name], lambda: advance(1))
    for reason in unreadable.values():
        note(reason)
    report = {"data": args.data, "files": len(files) - len(unreadable), "unreadable": unreadable, "threads": torch.get_num_threads(), "peak": args.peak,
              "original": {"metrics": reference.as_dict()}, "models": results}
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _show(report)
    return 1 if unreadable else 0


def _without_sampling(args: Any) -> Any:
    """The options for a model that does not sample beside one that does."""
    import argparse

    return argparse.Namespace(**{**vars(args), "steps": None, "sampler": None, "seed": None})


def _originals(files: list[Path], peak: float | None, unreadable: dict[str, str]) -> Any:
    """The originals themselves, in the metrics that need no reference."""
    from wavespike.errors import AudioError
    from wavespike.metrics.panel import Pair

    for path in files:
        try:
            audio, rate_hz = _read(path, peak)
        except AudioError as error:
            unreadable[str(path)] = str(error)
            continue
        yield Pair(str(path), None, audio, rate_hz)


def _read(path: Path, peak: float | None) -> tuple[Any, int]:
    """Mono samples [T], the mean of the channels."""
    import numpy as np

    from wavespike.signal.files import read

    samples, rate_hz = read(path)
    mono = samples.mean(0)
    loudest = float(np.abs(mono).max())
    return (mono * (peak / loudest) if peak is not None and loudest > 0 else mono), rate_hz


def _evaluate(model: Any, panel: Any, files: list[Path], peak: float | None, condition: dict[str, Any], advance: Any) -> dict[str, Any]:
    import torch

    from wavespike.errors import AudioError
    from wavespike.metrics.panel import Pair
    from wavespike.metrics.speed import Speed
    from wavespike.signal.resample import resample

    speeds: list[Speed] = []
    _synthesise(model, torch.zeros(model.sample_rate // 2), condition)  # lazy set-up is not speed

    def pairs() -> Any:
        for path in files:
            try:
                audio, rate_hz = _read(path, peak)
            except AudioError:
                continue  # noted with the originals
            source = torch.from_numpy(resample(audio, rate_hz, model.sample_rate))
            start = time.perf_counter()
            made = _synthesise(model, source, condition)
            speeds.append(Speed(computing_s=time.perf_counter() - start, audio_s=source.numel() / model.sample_rate))
            # judged at the file's own rate, so that every model is measured against the same reference
            yield Pair(str(path), audio, resample(made.numpy(), model.sample_rate, rate_hz), rate_hz)

    # scoring processes would slow the model down: with them, all speech is made first
    items = list(pairs()) if panel.processes > 1 else pairs()
    report = panel.run(items, lambda row: advance())
    total = sum(speeds[1:], start=speeds[0])
    return {"parameters": model.parameter_count(), "real_time_factor": total.real_time_factor, "times_real_time": total.times_real_time,
            "seconds": total.audio_s, "metrics": report.as_dict()}


def _synthesise(model: Any, audio: Any, condition: dict[str, Any]) -> Any:
    """Copy-synthesis [T] -> about [T]; the input is filled with zeros to whole hops, as resynth does."""
    import torch

    if model.kind == "codec":
        channels = model.channels
        return model(audio.expand(1, channels, -1))[0].mean(0)
    hop: int = model.hop_length
    return model(torch.nn.functional.pad(audio, (0, -audio.numel() % hop))[None], **condition)[0, : audio.numel()]


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from wavespike.metrics.panel import METRICS

    console = Console(file=sys.stdout, highlight=False)
    table = Table(title=f"{_plural(report['files'], 'file')} of {escape(report['data'])}, {_plural(report['threads'], 'thread')}", title_justify="left")
    table.add_column("metric", no_wrap=True)
    table.add_column("better", no_wrap=True)
    table.add_column("original", justify="right")
    short = [Path(name).name for name in report["models"]]
    for name, last in zip(report["models"], short, strict=True):
        table.add_column(escape(last if short.count(last) == 1 else name), justify="right", overflow="fold")
    columns = [report["original"]["metrics"], *(m["metrics"] for m in report["models"].values())]
    for key, metric in METRICS.items():
        if not any(key in column["means"] for column in columns):
            continue
        unit = f" ({metric.unit})" if metric.unit else ""
        table.add_row(metric.label + unit, metric.better, *(_cell(column, key, 1 if metric.unit == "cents" else 3) for column in columns))
    models = report["models"].values()
    table.add_row("real-time factor", "lower", "", *(f"{m['real_time_factor']:.4f}" for m in models))
    table.add_row("times real time", "higher", "", *(f"{m['times_real_time']:.1f}" for m in models))
    table.add_row("parameters", "", "", *(f"{m['parameters']:,}" for m in models))
    console.print(table)
    for key, hint in columns[-1]["missing"].items():
        console.print(f"{METRICS[key].label} is not installed: {escape(hint)}", soft_wrap=True)
    for name, model in report["models"].items():
        for key, items in model["metrics"]["failures"].items():
            first, reason = next(iter(items.items()))
            console.print(f"{escape(name)}: {METRICS[key].label} left out {len(items)} of {report['files']}: {escape(first)} ({escape(reason)})"
                          f"{' ...' if len(items) > 1 else ''}", soft_wrap=True)


def _cell(column: dict[str, Any], key: str, digits: int) -> str:
    if key not in column["means"]:
        return ""
    left_out = len(column["failures"].get(key, {}))
    return f"{column['means'][key]:.{digits}f}" + (f" (-{left_out})" if left_out else "")


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
