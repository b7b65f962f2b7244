"""`wavespike energy NAME WAV`: what a vocoder, a codec or a recogniser costs on an audio file, counted, in the published and in the complete accounting."""

from __future__ import annotations

import json
from typing import Any

from wavespike.cli.common import ENGINES


def add_arguments(parser: Any) -> None:
    parser.add_argument("name", type=str, help="a model's name (wavespike models), a folder with a checkpoint, or a hub id")
    parser.add_argument("wav", type=str, help="an audio file; channels are averaged, the rate is converted")
    parser.add_argument("--baseline", type=str, default=None, help="a model to compare with (default for a spiking vocoder or codec: its dense twin)")
    parser.add_argument("--technology", type=str, default="45nm", help="prices of operations: 45nm, 45nm-fp16, 45nm-int8, 7nm, 7nm-int8")
    parser.add_argument("--memory", action="store_true", help="price memory traffic too, each operand read and each result written once")
    parser.add_argument("--out", type=str, default=None, help="a picture (.png, .svg, .pdf): energy by layer, model beside baseline")
    parser.add_argument("--measure", action="store_true", help="also measure: joules above idle by the processor's (RAPL) or the GPU's (NVML) counter, where there is one")
    parser.add_argument("--engine", choices=ENGINES, default="dense", help="with --measure: what runs the model (counting is of the dense form)")
    parser.add_argument("--device", type=str, default="cpu", help="with --measure: cpu or cuda")
    parser.add_argument("--repeats", type=int, default=5, help="with --measure: how often")
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
    if model.kind not in ("vocoder", "codec", "classifier"):
        raise UsageError(f"{args.name}: expected a vocoder, a codec or a classifier, got a {model.kind}; count other models with wavespike.energy(model, input)")
    if baseline is not None and baseline.kind != model.kind:
        raise UsageError(f"--baseline {args.baseline}: expected a {model.kind} as {args.name} is one, got a {baseline.kind}; `wavespike models` lists what each is")
    if model.sample_rate == 0:
        raise UsageError(f"{args.name}: expected a model that takes audio, got one that takes spike trains; judge it with wavespike classify --data FILE.h5")
    audio = load_mono(args.wav, model.sample_rate)
    report = energy(model, audio, baseline=baseline, technology_name=args.technology, memory=args.memory)
    measured = _measure(args, model, baseline, audio) if args.measure else None
    name = args.baseline or report.baseline_name
    if args.out is not None:
        from wavespike.view.energy import energy_bars

        energy_bars(report, args.out, names=(args.name, str(name)))
    if args.json:
        print(json.dumps({"model": args.name, **report.to_dict(), "baseline": name, **({} if measured is None else {"measured": measured})}, indent=2))
    else:
        _table(args.name, name, report, TECHNOLOGIES[args.technology].source, an_inference=model.kind == "classifier")
        if measured is not None:
            _show_measured(measured)
    for operator, elements in report.to_dict()["uncounted"].items():
        note(f"operator {operator} has no rule: {elements} elements not counted")
    return 0


def _measure(args: Any, model: Any, baseline: Any, audio: Any) -> dict[str, Any]:
    """What the counter says of the model (and of a given baseline), or why there is none."""
    import torch

    from wavespike.errors import UsageError
    from wavespike.metrics.measured_energy import counter_or_reason, measure
    from wavespike.models.base import Vocoder
    from wavespike.runtime.engines import with_engine

    if args.repeats < 1:
        raise UsageError(f"--repeats: expected at least 1, got {args.repeats}")
    if args.device != "cpu" and not torch.cuda.is_available():
        raise UsageError(f"--device {args.device}: expected a CUDA device that PyTorch sees, got none; use --device cpu")
    counter, text = counter_or_reason(args.device)
    if counter is None:
        return {"reason": text}
    found: dict[str, Any] = {"counter": text, "engine": args.engine}
    for name, one in ((args.name, with_engine(model, args.engine)), (args.baseline, baseline)):
        if one is None:
            continue
        one, x = one.to(args.device), audio.to(args.device)
        with torch.inference_mode():
            features = one.features(x) if isinstance(one, Vocoder) else None

            def run(one: Any = one, x: Any = x, features: Any = features) -> None:
                one(x[:, None] if one.kind == "codec" else x) if features is None else one.decode(features)
                if args.device != "cpu":
                    torch.cuda.synchronize()

            found[name] = measure(run, audio.shape[-1] / one.sample_rate, counter, repeats=args.repeats).to_dict()
    return found


def _show_measured(measured: dict[str, Any]) -> None:
    if "reason" in measured:
        print(f"measured: not possible here: {measured['reason']}")
        return
    for name, m in measured.items():
        if isinstance(m, dict):
            print(f"measured: {name} {m['mean']:.4f} +- {m['deviation']:.4f} J a second of audio above {m['idle_watts']:.1f} W idle ({m['counter']}), "
                  f"{m['times_real_time']:.1f} x real time")


def _table(name: str, baseline: str | None, report: Any, source: str, an_inference: bool) -> None:
    facts = report.to_dict()
    complete, parts = facts["complete"], facts["complete"]["parts_pj"]
    other = complete["baseline_parts_pj"]
    unit, scale = ("microjoules an inference", 1e-6) if an_inference else ("millijoules a second of audio", 1e-9 / report.seconds)
    print(f"{unit:<31} {name:>20}" + (f" {baseline:>20}" if other else ""))
    for part, pj in [*parts.items(), ("sum", report.energy_pj)]:
        beside = "" if other is None else f" {(report.baseline_pj if part == 'sum' else other[part]) * scale:>{max(20, len(baseline or ''))}.4f}"
        print(f"  {part:<29} {pj * scale:>{max(20, len(name))}.4f}{beside}")
    print()
    if facts["published"] is not None:
        p = facts["published"]
        print(f"published accounting: ratio {p['ratio']:.4f} at a size-weighted rate of {p['rate']:.4f}; with embedding and head {p['ratio_with_embed_and_head']:.4f}")
    if complete["ratio"] is not None:
        print(f"complete accounting:  ratio {complete['ratio']:.4f}" + (" (memory traffic included)" if complete["memory"] else ""))
    for layer, rate in facts["rates"].items():
        print(f"  rate {rate:.4f}  {layer}")
    print(f"prices: {source}")
