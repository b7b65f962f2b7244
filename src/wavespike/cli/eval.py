"""`wavespike eval`: models and their peers over speech files, each metric's mean in one table, and a page to read, look at and listen to with --report.

See wavespike.metrics.panel for what each metric is, wavespike.metrics.peers for the peers.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from wavespike.cli.common import DEFAULT_MODEL, add_bandwidth, add_sampling, bandwidth, note, progress, samples, sampling


def add_arguments(parser: Any) -> None:
    parser.add_argument("--model", type=str, nargs="+", action="extend", default=None,
                        help=f"models' names (wavespike models), folders, hub ids, codecs at a bitrate (NAME@KBPS), or peers: world, opus:KBPS, "
                        f"encodec:[FOLDER:]KBPS, pypi-vocos:FOLDER, files:FOLDER (default: {DEFAULT_MODEL})")
    parser.add_argument("--data", type=str, required=True, help="a folder with audio, a list file with one path a line (.txt, .lst), or one audio file")
    parser.add_argument("--limit", type=int, default=None, help="only the first N files")
    parser.add_argument("--metrics", type=str, nargs="+", default=None,
                        help="which metrics (default: all but PESQ-NB, DNSMOS BAK and plug-ins; SI-SDR only for codecs and files)")
    parser.add_argument("--peak", type=float, default=None, help="scale every file to this peak first, 0..1 (default: as it is)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random: models, raters, intervals")
    parser.add_argument("--processes", type=int, default=None, help="processes that compute metrics (default: one a processor, or one for little work)")
    parser.add_argument("--against", type=str, default=None, help="the system that the others are compared with, file by file (default: the first)")
    parser.add_argument("--costs", action="store_true", help="measure peak memory and count energy too (with --report always)")
    parser.add_argument("--time-again", action="store_true", help="measure speed again, although the cache knows it; for figures from a machine that was busy")
    parser.add_argument("--cache", type=str, default=None, help="folder of finished work, found again by content (default: REPORT/cache with --report, else none)")
    parser.add_argument("--report", type=str, default=None, help="folder for index.html, one page with tables, pictures and players, and results.json")
    parser.add_argument("--report-files", type=int, default=10, help="files with players in the report, the worst first")
    parser.add_argument("--report-audio", choices=["mp3", "opus", "flac"], default="mp3", help="how the page holds audio")
    add_bandwidth(parser)
    add_sampling(parser, seed=False)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Any) -> int:
    from wavespike.errors import OutputError, UsageError

    _check(args)
    names = list(dict.fromkeys(args.model or [DEFAULT_MODEL]))
    if args.against is not None and args.against not in names:
        raise UsageError(f"--against: expected one of the systems to judge ({', '.join(names)}), got {args.against!r}; name it with --model too")
    report = None if args.report is None else Path(args.report)
    if report is not None:
        try:
            report.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{report}: expected a folder that can be written, got {error.strerror}; choose another with --report") from error
    from wavespike.metrics.evaluation import Settings, evaluate
    from wavespike.metrics.panel import Panel, load_plug_ins
    from wavespike.metrics.systems import open_system
    from wavespike.signal.files import audio_files

    Panel(args.metrics or ())  # a wrong name is told before anything is loaded
    for plug_in, reason in load_plug_ins().items():
        note(f"plug-in {plug_in} was left out: {reason}")
    told = bandwidth(args)
    systems = {name: open_system(name, told) for name in names}
    _choose_sampling(args, systems)
    files = audio_files(Path(args.data))[: args.limit]
    if args.limit is None and not files:
        raise UsageError(f"{args.data}: expected at least one file, got none")
    cache = args.cache if args.cache is not None else (None if report is None else report / "cache")
    settings = Settings(metrics=args.metrics, seed=args.seed, peak=args.peak, processes=_processes(args.processes, len(files) * len(names)),
                        cache=None if cache is None else Path(cache), costs=args.costs or report is not None, against=args.against, time_again=args.time_again,
                        condition={k: v.tolist() for k, v in told.items()})
    with progress("evaluation", len(files) * (len(systems) + 1)) as advance:
        found = evaluate(systems, files, settings, data=args.data, advance=lambda: advance(1))
    facts = found.as_dict()
    for reason in found.unreadable.values():
        note(reason)
    for name, result in found.results.items():
        _say(name, result)
    if report is not None:
        from wavespike.view.report import write_report

        with progress("report", None):
            page = write_report(found, report, files=args.report_files, audio=args.report_audio, command=["wavespike", "eval", *sys.argv[2:]])
        facts["report"] = str(page)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _show(facts)
    return 1 if found.unreadable else 0


def _choose_sampling(args: Any, systems: dict[str, Any]) -> None:
    """Steps, sampler and seed for the diffusion models among the systems. Raises UsageError where there is none to be told."""
    from wavespike.errors import UsageError

    chosen = {k: v for k, v in sampling(args).items() if k != "seed"}
    sampled = [system for system in systems.values() if samples(getattr(system, "model", None))]
    if chosen and not sampled:
        raise UsageError(f"--{next(iter(chosen))}: expected a diffusion model among the models, got none; leave it out")
    for system in sampled:
        system.model.plan(**chosen)  # a wrong value is told before any work
        system.condition = {**system.condition, **chosen, "seed": args.seed}


def _check(args: Any) -> None:
    """What can be told before anything is loaded."""
    from wavespike.errors import UsageError

    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit: expected at least 1, got {args.limit}")
    if args.peak is not None and not 0 < args.peak <= 1:
        raise UsageError(f"--peak: expected a value in 0..1, got {args.peak}")
    if args.processes is not None and args.processes < 1:
        raise UsageError(f"--processes: expected at least 1, got {args.processes}")
    if args.report_files < 0:
        raise UsageError(f"--report-files: expected at least 0, got {args.report_files}")
    if args.seed < 0:
        raise UsageError(f"--seed: expected at least 0, got {args.seed}")


def _processes(asked: int | None, items: int) -> int:
    """Starting a process takes seconds: only where each has enough to do."""
    return asked if asked is not None else max(1, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, items // 10))


def _say(name: str, result: Any) -> None:
    """What was done to the files of a system, each kind once."""
    for reason in result.problems:
        note(f"{name}: {reason}")
    said = [text for texts in result.notes.values() for text in texts]
    if said:
        note(f"{name}: {said[0]}" + (f" (and {len(said) - 1} more notes of this kind)" if len(said) > 1 else ""))
    if result.energy and result.energy["uncounted"]:
        note(f"{name}: operators without a rule in the energy: {', '.join(result.energy['uncounted'])}")


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from wavespike.metrics.panel import METRICS

    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:  # a file or a pipe has room for all columns
        console.width = max(console.width, 40 + 16 * len(report["models"]))
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
        marks = ["", *(_MARKS[m["differences"].get(key, {}).get("verdict", "")] for m in report["models"].values())]
        table.add_row(metric.label + unit, metric.better, *(_cell(column, key, 1 if metric.unit == "cents" else 3) + mark for column, mark in zip(columns, marks, strict=True)))
    models = report["models"].values()
    for label, better, key, text in _COSTS:
        values = [m["energy"]["millijoules_per_second"] if key == "energy" and m["energy"] else m[key] for m in models]
        if any(value is not None for value in values):
            table.add_row(label, better, "", *("" if value is None else text.format(value) for value in values))
    console.print(table)
    if report["files"] > 1:
        console.print("means; the 95 % bootstrap intervals are in --json and in the report", soft_wrap=True)
    if any(d["verdict"] for m in models for d in m["differences"].values()):
        console.print(f"+ better, - worse than {escape(report['against'])} on the same files (the 95 % bootstrap interval of the mean difference leaves out zero)", soft_wrap=True)
    for key, hint in columns[-1]["missing"].items():
        console.print(f"{METRICS[key].label} was not computed: {escape(hint)}", soft_wrap=True)
    if "report" in report:
        console.print(f"report: {escape(report['report'])}", soft_wrap=True)
    for name, model in report["models"].items():
        for key, items in model["metrics"]["failures"].items():
            first, reason = next(iter(items.items()))
            console.print(f"{escape(name)}: {METRICS[key].label} left out {len(items)} of {report['files']}: {escape(first)} ({escape(reason)})"
                          f"{' ...' if len(items) > 1 else ''}", soft_wrap=True)


def _cell(column: dict[str, Any], key: str, digits: int) -> str:
    if key not in column["means"]:
        return ""
    left_out = len(column["failures"].get(key, {}))
    return f"{column['means'][key]:.{digits}f}" + (f" ({left_out} left out)" if left_out else "")


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


_MARKS = {"better": " +", "worse": " -", "": "  "}
"""Verdict of a difference -> what stands behind the mean."""
_COSTS = (("real-time factor", "lower", "real_time_factor", "{:.4f}"), ("real-time factor, 1 thread", "lower", "real_time_factor_1_thread", "{:.4f}"),
          ("times real time", "higher", "times_real_time", "{:.1f}"), ("peak memory (MiB)", "lower", "peak_memory_mb", "{:.0f}"),
          ("energy (mJ/s)", "lower", "energy", "{:.3f}"), ("bitrate (bit/s)", "lower", "bitrate_bps", "{:.0f}"), ("parameters", "", "parameters", "{:,}"))
"""Label, which way is better, key in the JSON, format."""
