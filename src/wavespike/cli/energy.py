"""`wavespike energy NAME WAV`: what a vocoder or a recogniser costs on an audio file, counted, in the published and in the complete accounting."""

from __future__ import annotations

import json
from typing import Any


def add_arguments(parser: Any) -> None:
    parser.add_argument("name", type=str, help="a model's name (wavespike models), a folder with a checkpoint, or a hub id")
    parser.add_argument("wav", type=str, help="an audio file; channels are averaged, the rate is converted")
    parser.add_argument("--baseline", type=str, default=None, help="a model to compare with (default for a spiking vocoder: its dense twin)")
    parser.add_argument("--technology", type=str, default="45nm", help="prices of operations: 45nm, 45nm-fp16, 45nm-int8, 7nm, 7nm-int8")
    parser.add_argument("--memory", action="store_true", help="price memory traffic too, each operand read and each result written once")
    parser.add_argument("--out", type=str, default=None, help="a picture (.png, .svg, .pdf): energy by layer, model beside baseline")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Any) -> int:
    from wavespike.errors import UsageError
    from wavespike.metrics.energy import TECHNOLOGIES, energy, technology

    technology(args.technology)  # a wrong name is told before anything is loaded
    if args.out is not None:
        from wavespike.signal.files import check_output

        check_output(args.out)
    from wavespike.cli.common import load_mono, note
    from wavespike.hub.load import load

    model = load(args.name)
    baseline = None if args.baseline is None else load(args.baseline)
    if model.kind not in ("vocoder", "classifier"):
        raise UsageError(f"{args.name}: expected a vocoder or a classifier, got a {model.kind}; count other models with wavespike.energy(model, input)")
    if baseline is not None and baseline.kind != model.kind:
        raise UsageError(f"--baseline {args.baseline}: expected a {model.kind} as {args.name} is one, got a {baseline.kind}; `wavespike models` lists what each is")
    if model.sample_rate == 0:
        raise UsageError(f"{args.name}: expected a model that takes audio, got one that takes spike trains; judge it with wavespike classify --data FILE.h5")
    report = energy(model, load_mono(args.wav, model.sample_rate), baseline=baseline, technology_name=args.technology, memory=args.memory)
    name = args.baseline or report.baseline_name
    if args.out is not None:
        from wavespike.view.energy import energy_bars

        energy_bars(report, args.out, names=(args.name, str(name)))
    if args.json:
        print(json.dumps({"model": args.name, **report.to_dict(), "baseline": name}, indent=2))
    else:
        _table(args.name, name, report, TECHNOLOGIES[args.technology].source, an_inference=model.kind == "classifier")
    for operator, elements in report.to_dict()["uncounted"].items():
        note(f"operator {operator} has no rule: {elements} elements not counted")
    return 0


def _table(name: str, baseline: str | None, report: Any, source: str, an_inference: bool) -> None:
    facts = report.to_dict()
    complete, parts = facts["complete"], facts["complete"]["parts_pj"]
    other = complete["baseline_parts_pj"]
    unit, scale = ("microjoules an inference", 1e-6) if an_inference else ("millijoules a second of audio", 1e-9 / report.seconds)
    print(f"{unit:<32}{name:>20}" + (f"{baseline:>20}" if other else ""))
    for part, pj in [*parts.items(), ("sum", report.energy_pj)]:
        beside = "" if other is None else f"{(report.baseline_pj if part == 'sum' else other[part]) * scale:>20.4f}"
        print(f"  {part:<30}{pj * scale:>20.4f}{beside}")
    print()
    if facts["published"] is not None:
        p = facts["published"]
        print(f"published accounting: ratio {p['ratio']:.4f} at a size-weighted rate of {p['rate']:.4f}; with embedding and head {p['ratio_with_embed_and_head']:.4f}")
    if complete["ratio"] is not None:
        print(f"complete accounting:  ratio {complete['ratio']:.4f}" + (" (memory traffic included)" if complete["memory"] else ""))
    for layer, rate in facts["rates"].items():
        print(f"  rate {rate:.4f}  {layer}")
    print(f"prices: {source}")
