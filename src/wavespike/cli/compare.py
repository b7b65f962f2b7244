"""`wavespike compare A.wav B.wav`: every metric of two recordings of the same speech, and their spectrograms side by side."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from wavespike.cli.common import note


def add_arguments(parser: Any) -> None:
    parser.add_argument("reference", type=str, help="an audio file: the original")
    parser.add_argument("estimate", type=str, help="an audio file: what was made of it; resampled and aligned where it must be, and said so")
    parser.add_argument("--out", type=str, default=None, help="a picture (.png, .svg, .pdf): both spectrograms on one scale (default: compare.png, where matplotlib is installed)")
    parser.add_argument("--metrics", type=str, nargs="+", default=None, help="which metrics (default: those of eval)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Any) -> int:
    from wavespike.metrics.panel import DEFAULT, Panel
    from wavespike.signal.files import check_output

    panel = Panel(args.metrics or DEFAULT)  # a wrong name is told before anything is read
    picture = Path(args.out or "compare.png")
    if args.out is not None:
        check_output(picture)
    import torch

    from wavespike.errors import MissingDependencyError
    from wavespike.metrics.alignment import align
    from wavespike.metrics.evaluation import read_mono
    from wavespike.metrics.panel import Pair
    from wavespike.view.spectrogram import spectrogram_pair

    reference, rate_hz = read_mono(Path(args.reference))
    estimate, estimate_hz = read_mono(Path(args.estimate))
    aligned, notes = align(reference, estimate, rate_hz, estimate_hz)
    row = panel.score(Pair(args.estimate, reference, aligned, rate_hz))
    alone = panel.score(Pair(args.reference, None, reference, rate_hz))
    try:
        drawn: Path | None = spectrogram_pair(torch.from_numpy(reference), torch.from_numpy(aligned), rate_hz, picture,
                                              titles=(Path(args.reference).name, Path(args.estimate).name))
    except MissingDependencyError as error:
        if args.out is not None:
            raise
        drawn = None
        note(str(error))
    report = {"reference": args.reference, "estimate": args.estimate, "rate_hz": rate_hz, "seconds": reference.size / rate_hz, "notes": notes, "scores": row.scores,
              "original": alone.scores, "failures": row.failures, "missing": panel.missing, "picture": None if drawn is None else str(drawn)}
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _show(report)
    return 0


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from wavespike.metrics.panel import METRICS

    console = Console(file=sys.stdout, highlight=False)
    console.print(f"{escape(report['estimate'])} against {escape(report['reference'])} ({report['seconds']:.2f} s at {report['rate_hz']} Hz)", soft_wrap=True)
    for text in report["notes"]:
        console.print(f"{escape(report['estimate'])} was {text}" if text.startswith(("moved", "resampled")) else f"{escape(report['estimate'])}: {text}", soft_wrap=True)
    table = Table()
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("original", justify="right")
    table.add_column("better")
    for key, value in report["scores"].items():
        metric = METRICS[key]
        before = f"{report['original'][key]:.3f}" if key in report["original"] else ""
        table.add_row(metric.label + (f" ({metric.unit})" if metric.unit else ""), f"{value:.3f}", before, metric.better)
    console.print(table)
    for key, reason in report["failures"].items():
        console.print(f"{METRICS[key].label} has no value: {escape(reason)}", soft_wrap=True)
    for key, hint in report["missing"].items():
        console.print(f"{METRICS[key].label} was not computed: {escape(hint)}", soft_wrap=True)
    if report["picture"]:
        console.print(f"picture: {escape(report['picture'])}", soft_wrap=True)
