"""What spikes buy: quality, counted energy and time of spiking vocoders against their firing rate, with the controls that ask what the spikes contribute.

    python benchmarks/spiking_curve.py --data LIST --point "T=2, 7 %=spiking-vocos-24k" --point "T=2, 1 %=runs/f01/best" --control "absent=runs/absent/best"
        [--silence spiking-vocos-24k] [--teacher vocos-24k] [--peer griffin-lim-24k] [--json FILE] [--no-write]

A point is a spiking model, a control another model drawn as a line. `--silence` adds that model with the spikes of its second neurons zeroed. Rates and
energy are counted on the bundled speech sample, quality is the mean over the files of the list; speed is that of 10 s from features to waveform on one thread, by
events where there are spiking layers, else with the engine `compiled` where it can. `--pitch-data` adds what a network hears before any source covers it: the share of
voiced frames whose pitch is within 50 cents of the label (raw pitch accuracy), with bootstrap intervals of the differences from every control.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import common
import wavespike
from bench_vocoders import features_of
from wavespike.assets import SAMPLE
from wavespike.errors import WavespikeError
from wavespike.metrics.evaluation import Settings, evaluate
from wavespike.metrics.systems import ModelSystem, System, open_system
from wavespike.models.base import Model
from wavespike.models.spiking_vocos import SpikingVocos
from wavespike.nn.heads import SourceFilterHead
from wavespike.nn.pitch import PitchClasses
from wavespike.runtime import compiled, events
from wavespike.signal.files import audio_files, read
from wavespike.signal.resample import resample

SHOWN = ("pesq_wb", "stoi", "dnsmos_ovrl", "dnsmos_p808", "vuv_f1", "pitch_rmse_cents", "periodicity_rmse")
LABELS = {"pesq_wb": "PESQ-WB", "stoi": "STOI", "dnsmos_ovrl": "DNSMOS OVRL", "dnsmos_p808": "DNSMOS P.808", "vuv_f1": "V/UV F1",
          "pitch_rmse_cents": "pitch RMSE (cents)", "periodicity_rmse": "periodicity RMSE"}


def silenced(model: SpikingVocos) -> SpikingVocos:
    """The same weights with the spikes of the second neurons zeroed."""
    backbone = dataclasses.replace(model.config.backbone, mlp="silenced")
    other = SpikingVocos(dataclasses.replace(model.config, backbone=backbone))
    other.load_state_dict(model.state_dict())
    return other.eval()


def costs(model: Model[Any]) -> dict[str, float | None]:
    """Firing rate (size-weighted mean), published energy ratio and complete energy in millijoules a second, on the bundled sample."""
    samples, _ = read(SAMPLE, model.sample_rate)
    report = wavespike.energy(model, torch.from_numpy(samples[:1].copy())[:, : 2 * model.sample_rate])
    spiking = isinstance(model, SpikingVocos) and model.config.backbone.mlp != "absent"
    return {"rate": report.published.rate if report.published is not None and spiking else None,
            "published_ratio": None if report.published is None else report.published.ratio,
            "energy_mj": report.energy_pj * 1e-9 / report.seconds}


@torch.inference_mode()
def speed(model: Model[Any], rounds: int = 7) -> float | None:
    """Times real time, the best round, one thread; None for a model without a fast engine of its own."""
    torch.set_num_threads(1)
    try:
        fast: Any = events.accelerate(model) if events.suits(model) else compiled.accelerate(model)
    except WavespikeError:
        return None
    features = features_of(10.0)
    best = float("inf")
    for _ in range(rounds + 1):
        start = time.perf_counter()
        fast.decode(features)
        best = min(best, time.perf_counter() - start)
    return 10.0 / best


@torch.inference_mode()
def heard(models: dict[str, Any], files: list[Path]) -> dict[str, np.ndarray]:
    """Right and all voiced frames of each file [F, 2], by model; all of one rate and hop."""
    from wavespike.training.audio_data import pitch_labels

    counts: dict[str, list[tuple[int, int]]] = {name: [] for name in models}
    first = next(iter(models.values()))
    for path in files:
        samples, rate_hz = read(path)
        audio = resample(samples.mean(0), rate_hz, first.sample_rate)
        labels = torch.from_numpy(pitch_labels(audio, first.sample_rate, first.hop_length))
        features = first.features(torch.from_numpy(audio)[None])
        for name, model in models.items():
            logits, _ = model.head.hear(model.backbone(features), features)
            frames = min(len(labels), logits.shape[1])
            label, found = labels[:frames], PitchClasses.hertz(logits[0, :frames])
            right = (1200 * torch.log2(found / label.clamp_min(1.0))).abs() < 50
            counts[name].append((int((right & (label > 0)).sum()), int((label > 0).sum())))
    return {name: np.array(c) for name, c in counts.items()}


def share(counts: np.ndarray) -> float:
    """Percent of the voiced frames [F, 2] that are right."""
    return 100 * float(counts[:, 0].sum() / counts[:, 1].sum())


def pitch_table(counts: dict[str, np.ndarray], controls: list[str], draws: int = 2000) -> str:
    """Raw pitch accuracy of each system and its difference from each control, with bootstrap 95 % intervals over the files."""
    random = np.random.default_rng(0)
    files = len(next(iter(counts.values())))
    samples = [random.integers(0, files, files) for _ in range(draws)]

    def cell(values: list[float], middle: float, sign: str) -> str:
        low, high = np.percentile(values, [2.5, 97.5])
        text = f"{middle:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"
        return f"**{text}**" if sign and (low > 0 or high < 0) else text

    lines = ["| system | voiced frames within 50 cents (%) | " + " | ".join(f"less '{c}'" for c in controls) + " |", "|---|---:|" + "---:|" * len(controls)]
    for name, own in counts.items():
        cells = [cell([share(own[i]) for i in samples], share(own), "")]
        for control in controls:
            other = counts[control]
            cells.append("" if name == control else cell([share(own[i]) - share(other[i]) for i in samples], share(own) - share(other), "+"))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(rows: dict[str, dict[str, Any]]) -> str:
    head = ["system", "firing rate", "energy, published", "energy (mJ/s)", "x real time", *(LABELS[m] for m in SHOWN)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    formats = {"rate": lambda x: f"{100 * x:.1f} %", "published_ratio": "{:.3f}".format, "energy_mj": "{:.3f}".format, "speed": "{:.0f}".format}
    for name, row in rows.items():
        cost = ["-" if row.get(k) is None else write(row[k]) for k, write in formats.items()]
        quality = ["-" if m not in row["metrics"] else f"{row['metrics'][m]:.{1 if m == 'pitch_rmse_cents' else 3}f}" for m in SHOWN]
        lines.append(f"| {name} | " + " | ".join([*cost, *quality]) + " |")
    return "\n".join(lines)


def picture(rows: dict[str, dict[str, Any]], points: list[str], path: Path) -> None:
    from matplotlib.figure import Figure

    from wavespike.view.spectrogram import save_figure

    figure = Figure(figsize=(14, 6.4), dpi=120, layout="constrained")
    colors = ("#31688e", "#35b779", "#b5367a", "#e8a317", "#666666", "#21918c")
    others = [name for name in rows if name not in points]
    panels = {m: (LABELS[m] + (" (lower is better)" if m.endswith("rmse") or m.endswith("cents") else ""), {n: r["metrics"].get(m) for n, r in rows.items()}) for m in SHOWN}
    del panels["stoi"]  # eight have room; it stands in the table
    panels["heard"] = ("voiced frames whose pitch is heard (%)", {n: r.get("heard") for n, r in rows.items()})
    panels["energy_mj"] = ("energy, complete (mJ/s; lower is better)", {n: r.get("energy_mj") for n, r in rows.items()})
    for axis, (title, values) in zip(figure.subplots(2, 4).flat, panels.values(), strict=True):
        known = [(rows[n]["rate"], values[n], n) for n in points if values[n] is not None]
        for rate, value, name in known:
            axis.plot(100 * rate, value, "o", color="#440154", markersize=7)
            axis.annotate(name, (100 * rate, value), textcoords="offset points", xytext=(4, 6), fontsize=7)
        for k, name in enumerate(others):
            if values[name] is not None:
                axis.axhline(values[name], color=colors[k % len(colors)], linestyle=("-", "--", ":", "-.")[k % 4], linewidth=1.2, label=name)
        axis.set_xscale("log")
        axis.margins(x=0.25, y=0.12)
        axis.set_xticks([100 * rows[n]["rate"] for n in points], [f"{100 * rows[n]['rate']:.1f}" for n in points])
        axis.minorticks_off()
        axis.set_xlabel("firing rate (%)")
        axis.set_title(title, fontsize=9)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, max(1, len(labels))), fontsize=8)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="list file or folder of speech that judges")
    parser.add_argument("--point", action="append", default=[], metavar="LABEL=MODEL")
    parser.add_argument("--control", action="append", default=[], metavar="LABEL=MODEL")
    parser.add_argument("--pitch-data", type=Path, help="list file or folder of speech on which pitch is judged")
    parser.add_argument("--speeds", type=Path, help="measured speeds of an earlier --json, instead of measuring")
    parser.add_argument("--silence", help="a spiking model to judge once more without its spikes")
    parser.add_argument("--teacher", default="vocos-24k")
    parser.add_argument("--peer", default="griffin-lim-24k")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-write", action="store_true")
    args = parser.parse_args()
    points, controls = (dict(word.rpartition("=")[::2] for word in words) for words in (args.point, args.control))
    systems: dict[str, System] = {f"teacher ({args.teacher})": open_system(args.teacher), args.peer: open_system(args.peer)}
    systems |= {label: open_system(model) for label, model in (points | controls).items()}
    if args.silence:
        model = wavespike.load(args.silence)
        assert isinstance(model, SpikingVocos)
        systems["its spikes silenced"] = ModelSystem("silenced", silenced(model))
    found = evaluate(systems, audio_files(Path(args.data))[: args.limit], Settings(metrics=SHOWN, cache=args.cache), data=args.data)
    rows: dict[str, dict[str, Any]] = {}
    listening: dict[str, Any] = {}
    measured = json.loads(args.speeds.read_text())["rows"] if args.speeds else None
    for name, result in found.results.items():
        system = result.system
        assert isinstance(system, ModelSystem)
        if isinstance(getattr(system.model, "head", None), SourceFilterHead):
            listening[name] = system.model
        known = speed(system.model) if measured is None else measured.get(name, {}).get("speed")
        rows[name] = {**costs(system.model), "speed": known, "parameters": system.parameters, "metrics": result.report.means()}
    text = table(rows)
    print(text)
    if args.pitch_data:
        files = audio_files(args.pitch_data)
        counts = heard(listening, files)
        for name, own in counts.items():
            rows[name]["heard"] = share(own)
        print(f"\n{len(files)} files\n\n" + pitch_table(counts, list(controls)))
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "files": len(found.seconds), "data": args.data}, indent=2))
    if args.no_write:
        return
    images = common.PAGE.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    picture(rows, list(points), images / "spiking-curve.png")


if __name__ == "__main__":
    main()
