"""`wavespike demo`: the bundled speech through the bundled vocoder; a waveform, a picture, quality and speed."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

from wavespike.cli.common import DEFAULT_MODEL


def add_arguments(parser: Any) -> None:
    parser.add_argument("--out", type=str, default="demo_out", help="folder for the waveforms and the picture")
    parser.add_argument("--model", type=str, default=DEFAULT_MODEL, help="a vocoder's name (wavespike models), a folder with a checkpoint, or a hub id")
    parser.add_argument("--input", type=str, default=None, help="an audio file instead of the bundled sample (its first channel)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Any) -> int:
    import torch

    from wavespike.assets import SAMPLE
    from wavespike.errors import MissingDependencyError, OutputError, UsageError
    from wavespike.hub.load import load
    from wavespike.metrics.panel import Pair, Panel
    from wavespike.metrics.speed import measure
    from wavespike.models.base import Vocoder
    from wavespike.signal.files import read, write
    from wavespike.view.spectrogram import spectrogram_pair

    model = load(args.model)
    if not isinstance(model, Vocoder):
        raise UsageError(f"{args.model}: expected a vocoder, got a {model.kind}; `wavespike models` lists them")
    source = Path(args.input) if args.input else SAMPLE
    samples, rate_hz = read(source, model.sample_rate)
    out = Path(args.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: expected a folder that can be written, got {error.strerror}; choose another with --out") from error
    original = torch.from_numpy(samples[0].copy())
    duration_s = original.numel() / rate_hz
    with torch.inference_mode():
        result = model(original[None])[0]
        speed = measure(lambda: model(original[None]), duration_s, warm_up=2, repeats=5)

    written = {name: write(out / f"{name}.wav", audio.numpy(), rate_hz) for name, audio in (("original", original), ("result", result))}
    notes: list[str] = []
    try:
        written["picture"] = spectrogram_pair(original, result, rate_hz, out / "demo.png", titles=("original", f"resynthesised by {args.model}"))
    except MissingDependencyError as error:
        notes.append(str(error))

    panel = Panel(("pesq_wb", "stoi", "dnsmos_ovrl", "dnsmos_p808", "mel_l1"))
    row = panel.score(Pair(source.name, original, result, rate_hz))
    ceiling = panel.score(Pair(source.name, original, original, rate_hz))
    report = {
        "model": args.model, "parameters": model.parameter_count(), "input": str(source), "seconds": round(duration_s, 3),
        "quality": row.scores, "original_itself": ceiling.scores, "not_scored": {**row.failures, **panel.missing},
        "times_real_time": speed.times_real_time, "threads": torch.get_num_threads(), "machine": platform.machine(),
        "files": {k: str(v) for k, v in written.items()}, "notes": notes,
    }
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
    size = f"{report['parameters'] / 1e6:.2f} M parameters" if report["parameters"] else "nothing learned"
    console.print(f"{report['model']} ({size}): {report['seconds']:.1f} s of speech to features and back, {report['times_real_time']:.0f} x real time "
                  f"on {report['threads']} thread(s)", soft_wrap=True)
    table = Table()
    table.add_column("metric")
    table.add_column("result", justify="right")
    table.add_column("original itself", justify="right")
    table.add_column("better")
    for name, value in report["quality"].items():
        table.add_row(METRICS[name].label, f"{value:.3f}", f"{report['original_itself'].get(name, float('nan')):.3f}", METRICS[name].better)
    console.print(table)
    for name, reason in report["not_scored"].items():
        console.print(f"{METRICS[name].label} is not shown: {escape(reason)}")
    for name, path in report["files"].items():
        console.print(f"{name}: {escape(path)}", soft_wrap=True)
    for note in report["notes"]:
        console.print(escape(note), soft_wrap=True)
