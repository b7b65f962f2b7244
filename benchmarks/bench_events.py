"""The event-driven engine: a spiking vocoder by its spikes against itself simulated densely and against its dense twin; time against firing rate;
a recogniser by events; what differs, and what the first call costs.

Contenders alternate in one process; a ratio is the median over the rounds of (time of the reference in that round / time of the contender).

    python benchmarks/bench_events.py [--model spiking-vocos-24k] [--rounds 11] [--seconds 10] [--threads 1 2] [--no-write] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import common
import wavespike
from bench_vocoders import features_of
from wavespike.assets import SAMPLE
from wavespike.errors import WavespikeError
from wavespike.metrics.energy import count
from wavespike.models.spiking_vocos import SpikingVocos
from wavespike.models.vocos import Vocos
from wavespike.nn.heads import reads_pitch
from wavespike.nn.recording import record_spikes
from wavespike.nn.spiking import Neuron
from wavespike.runtime import compiled, events
from wavespike.signal.files import read
from wavespike.spikes.neurons import decay_of, neuron_scan

Work = Callable[[], Any]
DENSE = "simulated densely"
LEAST_THRESHOLD = 1e-3
"""A threshold lies above the resting potential."""
RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)


def alternate(work: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in each round; a call that is not timed comes before, to bring weights and buffers back into the cache."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            run()
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def ratios(times: dict[str, list[float]], reference: str) -> dict[str, dict[str, float]]:
    """Name -> median, lower and upper quartile of the ratio to the reference inside a round, and the median time."""
    rows = {}
    for name, own in times.items():
        values = sorted(a / b for a, b in zip(times[reference], own, strict=True))
        quarter = len(values) // 4
        rows[name] = {"ratio": statistics.median(values), "low": values[quarter], "high": values[-1 - quarter], "milliseconds": 1000 * statistics.median(own)}
    return rows


def snr_db(reference: Tensor, other: Tensor) -> float:
    """Signal over difference."""
    return float(10 * torch.log10(reference.square().sum() / (reference - other).square().sum().clamp_min(1e-30)))


def dense_twin(model: SpikingVocos) -> Vocos:
    """The dense model of the same size, features and head, with random weights: its time does not depend on them."""
    torch.manual_seed(0)
    return Vocos(model.config.dense_twin()).eval()


def vocoder_work(model: SpikingVocos, twin: Vocos, teacher: Vocos, features: Tensor, threads: int) -> tuple[dict[str, Work], dict[str, Work], dict[str, str]]:
    """Whole decoders, backbones alone, and why others are missing."""
    fast, fast8 = events.accelerate(model), events.accelerate(model, "int8")
    whole: dict[str, Any] = {f"spiking, {DENSE}": model, "spiking, by events": fast, "spiking, by events, int8 rows": fast8, "dense twin, PyTorch": twin,
                             "dense twin, PyTorch, the engine's head": compiled.accelerate(twin), "teacher, PyTorch": teacher,
                             "teacher, PyTorch, the engine's head": compiled.accelerate(teacher)}
    skipped = {}
    for name, int8 in (("dense twin, ONNX Runtime", False), ("dense twin, ONNX Runtime, int8", True)):
        try:
            from wavespike.runtime.onnx import accelerate

            whole[name] = accelerate(twin, threads, int8=int8)
        except WavespikeError as error:
            skipped[name] = str(error)
    backbones: dict[str, Any] = {f"spiking, {DENSE}": model, "spiking, by events": fast, "spiking, by events, int8 rows": fast8, "dense twin, PyTorch": twin}
    if reads_pitch(model.head):  # then its rows stay whole
        del backbones["spiking, by events, int8 rows"]
    return ({name: lambda m=m: m.decode(features) for name, m in whole.items()}, {name: lambda m=m: m.backbone(features) for name, m in backbones.items()}, skipped)


def differences(model: SpikingVocos) -> dict[str, Any]:
    """Events against dense on the bundled speech: audio and hidden frames that a spike at its threshold has changed."""
    features = features_of(5.0)
    want, hidden = model.decode(features), model.backbone(features)
    out: dict[str, Any] = {"frames": hidden.shape[1]}
    for precision in ("float32", "int8"):
        fast = events.accelerate(model, precision)  # type: ignore[arg-type]
        got, moved = fast.decode(features), (fast.backbone(features) - hidden).abs().amax(-1) > 1e-3
        out[precision] = {"audio_error_of_peak": float((got - want).abs().max() / want.abs().max()), "snr_db": snr_db(want, got), "frames_changed": int(moved.sum())}
    with record_spikes(model) as record:
        model.backbone(features)
    out["rates"] = record.rates
    return out


def tuned(model: SpikingVocos, features: Tensor, rate: float) -> SpikingVocos:
    """A copy whose neurons' thresholds give every layer that firing rate on these features: its output is nonsense, its work is that of the rate.

    Where too few inputs are above the resting potential for a rate, the bias before the neurons is raised first.
    """
    new = copy.deepcopy(model)
    u: Tensor = new.backbone._start(new.backbone.embed(features), None)
    for block in new.backbone.blocks:
        for neuron, bias in ((block.neuron1, block.norm.bias), (block.neuron2, block.pwconv1.bias)):
            seen: list[Tensor] = []
            handle = neuron.register_forward_pre_hook(lambda m, inputs, seen=seen: seen.append(inputs[0].detach().clone()))
            block(u)
            while fired(neuron, seen[-1], LEAST_THRESHOLD) < rate:
                bias.add_(0.2 * seen[-1].std())  # type: ignore[union-attr,operator]
                block(u)
            handle.remove()
            neuron.config = threshold_for(neuron, seen[-1], rate)
        u = block(u)
    return new


def fired(neuron: Neuron, x: Tensor, threshold: float) -> float:
    """Rate at which inputs x [S, ...] fire at a threshold."""
    config = dataclasses.replace(neuron.config, threshold=threshold)
    return float(neuron_scan(x, None, decay_of(config, neuron.w), config)[0].mean())


def threshold_for(neuron: Neuron, x: Tensor, rate: float) -> Any:
    """The configuration with the threshold at which inputs x [S, ...] fire at the rate."""
    low, high = LEAST_THRESHOLD, float(x.max()) + 1.0
    for _ in range(24):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if fired(neuron, x, middle) > rate else (low, middle)
    return dataclasses.replace(neuron.config, threshold=high)


def against_rate(model: SpikingVocos, twin: Vocos, features: Tensor, rounds: int) -> list[dict[str, float]]:
    """The backbone's speed over the dense twin's at each rate."""
    rows = []
    for rate in RATES:
        thinned = tuned(model, features, rate)
        with record_spikes(thinned) as record:
            thinned.backbone(features)
        fast, fast8 = events.accelerate(thinned.backbone), events.accelerate(thinned.backbone, "int8")
        fast(features), fast8(features)
        times = alternate({"twin": lambda: twin.backbone(features), "dense": lambda t=thinned: t.backbone(features), "events": lambda f=fast: f(features),
                           "int8": lambda f=fast8: f(features)}, rounds)
        tuned_rates = [rate for name, rate in record.rates.items() if name.split(".")[-1] in ("neuron1", "neuron2")]
        rows.append({"rate": statistics.fmean(tuned_rates), **{name: row["ratio"] for name, row in ratios(times, "twin").items()}})
        print("rate {rate:.3f}: over the twin {dense:.2f} densely, {events:.2f} by events, {int8:.2f} with int8 rows".format(**rows[-1]), flush=True)
    return rows


def break_even(rows: list[dict[str, float]], name: str) -> float | None:
    """The rate at which the engine is as fast as the twin, between two that were measured; None when there is none between them."""
    for a, b in itertools.pairwise(rows):
        if (a[name] - 1) * (b[name] - 1) <= 0:
            return float(a["rate"] + (b["rate"] - a["rate"]) * (a[name] - 1) / (a[name] - b[name]))
    return None


def picture(rows: list[dict[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    from wavespike.view.spectrogram import save_figure

    figure = Figure(figsize=(7.5, 4.5), dpi=120, layout="constrained")
    axis = figure.subplots()
    rates = [100 * r["rate"] for r in rows]
    for name, label, colour in (("dense", "spiking, simulated densely", "#888888"), ("events", "spiking, by events", "#31688e"), ("int8", "by events, int8 rows", "#35b779")):
        axis.plot(rates, [1 / r[name] for r in rows], "o-", label=label, color=colour)
    axis.axhline(1.0, color="black", linewidth=0.9, label="dense twin, PyTorch")
    for name, colour in (("events", "#31688e"), ("int8", "#35b779")):
        if (even := break_even(rows, name)) is not None:
            axis.axvline(100 * even, color=colour, linestyle=":", linewidth=1)
            axis.text(100 * even, 0.02, f" {100 * even:.0f} %", color=colour, fontsize=8, transform=axis.get_xaxis_transform())
    axis.set_xscale("log")
    axis.set_xticks([0.5, 1, 2, 5, 10, 20, 30], ["0.5", "1", "2", "5", "10", "20", "30"])
    axis.minorticks_off()
    axis.set_ylim(0)
    axis.set_xlabel("firing rate of all layers (%)")
    axis.set_ylabel("time of the backbone over the dense twin's")
    axis.legend()
    save_figure(figure, path)


def recogniser(rounds: int) -> dict[str, Any]:
    """`radlif-commands-16k` live on one thread: the bundled speech in chunks."""
    model: Any = wavespike.load("radlif-commands-16k")
    fast: Any = events.accelerate(model)
    samples, _ = read(SAMPLE, model.sample_rate)
    audio = torch.from_numpy(samples[:1].copy())
    seconds = audio.shape[1] / model.sample_rate

    def stream(m: Any, size: int) -> Tensor:
        with m.stream() as session:
            for chunk in audio.split(size, 1):
                session.push(chunk)
            out: Tensor = session.flush()
            return out

    rows = []
    for milliseconds in (20, 100, 500):
        size = model.sample_rate * milliseconds // 1000
        times = alternate({"dense": lambda n=size: stream(model, n), "events": lambda n=size: stream(fast, n)}, rounds)
        row = ratios(times, "dense")
        rows.append({"chunk_ms": milliseconds, "ratio": row["events"]["ratio"], "low": row["events"]["low"], "high": row["events"]["high"],
                     **{f"{n}_ms": row[n]["milliseconds"] / seconds for n in ("dense", "events")}})
        print("recogniser, chunks of {chunk_ms} ms: {dense_ms:.2f} ms a second of audio densely, {events_ms:.2f} by events, {ratio:.1f} x".format(**rows[-1]), flush=True)
    second = audio[:, : model.sample_rate]
    total = count(model, second).total
    steps = model.steps(model.features(second))[0].shape[1]
    dense_products = steps * sum(p.numel() for n, p in model.net.named_parameters() if n.endswith((".W.weight", ".V.weight")))
    x, _ = model.steps(model.features(second))
    flips = sum(int((a != b).sum()) for a, b in zip(model.net.spikes(x), fast.net.spikes(x), strict=True))
    return {"rows": rows, "accumulates_per_second": total.acs, "dense_multiply_accumulates_per_second": dense_products, "flipped_spikes_in_one_second": flips}


def first_call_s() -> dict[str, float]:
    """Seconds until the first 10 frames are decoded, in a process of its own: compiling, and with the compiled code of an earlier process."""
    code = ("import sys, time, torch, wavespike\nfrom wavespike.runtime import events\nimport bench_events\n"
            "model = bench_events.small(); x = torch.zeros(1, model.feature_channels, 10)\nwith torch.inference_mode():\n"
            "    model.decode(x); start = time.perf_counter(); events.accelerate(model).decode(x); print(time.perf_counter() - start)")
    with tempfile.TemporaryDirectory(prefix="wavespike-bench-") as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        found = [float(subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, check=True).stdout.split()[-1])
                 for _ in range(2)]
    return {"compiling": found[0], "cached": found[1]}


def small() -> SpikingVocos:
    """The bundled architecture with random weights: what compiles does not depend on them."""
    bundled: Any = wavespike.load("spiking-vocos-24k")
    torch.manual_seed(0)
    return SpikingVocos(bundled.config).eval()


def table(results: dict[int, dict[str, dict[str, float]]], seconds: float, reference: str, other: str) -> str:
    """Speed over two references, and times real time."""
    head = ["contender"]
    for n in results:
        of = f"{n} thread{'s' * (n > 1)}"
        head += [f"over itself {DENSE}, {of}", f"over the twin in PyTorch, {of}", f"x real time, {of}"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for name in results[next(iter(results))]:
        cells = [name]
        for rows in results.values():
            row = rows[name]
            cells += [f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})", f"{row['over_twin']:.2f}", f"{1000 * seconds / row['milliseconds']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="spiking-vocos-24k", help="a spiking vocoder: a preset's name or a folder")
    parser.add_argument("--teacher", default="vocos-24k")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--parts", nargs="+", choices=["vocoder", "rates", "recogniser", "first"], default=["vocoder", "rates", "recogniser", "first"])
    parser.add_argument("--no-write", action="store_true", help="leave docs/ as it is")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if not events.available():
        raise SystemExit("bench_events: expected Numba, which is not installed; pip install 'wavespike[events]'")
    try:
        model: Any = wavespike.load(args.model)
    except WavespikeError as error:
        raise SystemExit(f"bench_events: {error}") from error
    twin = dense_twin(model)
    teacher: Any = wavespike.load(args.teacher)
    features = features_of(args.seconds)
    found: dict[str, Any] = {"machine": common.machine(), "model": args.model, "parameters": model.parameter_count()}
    sections = []
    if "vocoder" in args.parts:
        found["vocoder"], found["backbone"], skipped = {}, {}, {}
        for n in args.threads:
            torch.set_num_threads(n)
            whole, backbones, skipped = vocoder_work(model, twin, teacher, features, n)
            for kind, work in (("vocoder", whole), ("backbone", backbones)):
                for run in work.values():
                    run()
                times = alternate(work, args.rounds)
                rows, over = ratios(times, f"spiking, {DENSE}"), ratios(times, "dense twin, PyTorch")
                found[kind][n] = {name: {**row, "over_twin": over[name]["ratio"]} for name, row in rows.items()}
                for name, row in found[kind][n].items():
                    print(f"{n} thread{'s' * (n > 1)}, {kind}: {name:<40} {row['ratio']:5.2f} x itself densely, {row['over_twin']:5.2f} x the twin, "
                          f"{row['milliseconds']:7.1f} ms", flush=True)
        torch.set_num_threads(1)
        found["differences"] = d = differences(model)
        print(json.dumps({k: v for k, v in d.items() if k != "rates"}), flush=True)
        mean = statistics.fmean(d["rates"].values())
        missing = "".join(f"\n- Not run: {name} ({reason})." for name, reason in skipped.items())
        sections.append(f"""
### The vocoder: features of {args.seconds:.0f} s of speech to waveform

{table(found["vocoder"], args.seconds, DENSE, "twin")}

The backbone alone, where the spikes are:

{table(found["backbone"], args.seconds, DENSE, "twin")}

- `{args.model}`: mean rate of its layers on this speech {100 * mean:.1f} %. The dense twin is the ConvNeXt of the same size with the same features and head (random weights: time
  does not depend on them); the teacher is `{args.teacher}`, which hears the pitch with a network of its own. Sources, Fourier transforms and projections are dense in all. The engine also
  compiles the head; "the engine's head" is the dense model with that head, so that both gains can be told apart.
- Medians of the ratio inside a round, {args.rounds} rounds, all alternating in one process; in brackets the middle half.
- On 5 s of speech events differ from dense by {d['float32']['audio_error_of_peak']:.1e} of the peak ({d['float32']['snr_db']:.0f} dB; a spike that stood at its threshold and went the other way changed
  {d['float32']['frames_changed']} of {d['frames']} frames); int8 rows: {d['int8']['snr_db']:.0f} dB.{missing}
""")
    if "rates" in args.parts:
        torch.set_num_threads(1)
        found["rates"] = rows = against_rate(model, twin, features_of(min(5.0, args.seconds)), max(5, args.rounds // 2))
        images = common.PAGE.parent / "images"
        if not args.no_write:
            images.mkdir(parents=True, exist_ok=True)
            picture(rows, images / "bench_events_rate.png")
        evens = {name: break_even(rows, name) for name in ("events", "int8")}
        texts = ", ".join(f"{'float32' if n == 'events' else 'int8'} rows {'beyond the measured rates' if e is None else f'{100 * e:.0f} %'}" for n, e in evens.items())
        lines = "\n".join(f"| {100 * r['rate']:.1f} % | {r['dense']:.2f} | {r['events']:.2f} | {r['int8']:.2f} |" for r in rows)
        sections.append(f"""
### Time against firing rate

![Time of the backbone against the firing rate](images/bench_events_rate.png)

| rate of all layers | simulated densely | by events | by events, int8 rows |
|---:|---:|---:|---:|
{lines}

Speed of the backbone over its dense twin's in PyTorch, one thread, at thresholds that give every layer the rate. Break-even with the twin: {texts}.
""")
    if "recogniser" in args.parts:
        torch.set_num_threads(1)
        found["recogniser"] = r = recogniser(args.rounds)
        lines = "\n".join(f"| {x['chunk_ms']} ms | {x['dense_ms']:.2f} | {x['events_ms']:.2f} | {x['ratio']:.1f} ({x['low']:.1f} to {x['high']:.1f}) |" for x in r["rows"])
        sections.append(f"""
### The recogniser, live, one thread

| chunks | ms a second of audio, dense | by events | speed |
|---:|---:|---:|---:|
{lines}

`radlif-commands-16k` from samples to scores. Its products: {r['accumulates_per_second'] / 1e6:.2f} million accumulates a second of audio, counted, against
{r['dense_multiply_accumulates_per_second'] / 1e6:.2f} million multiply-accumulates of dense execution. {r['flipped_spikes_in_one_second']} spikes differ in one second of speech.
""")
    if "first" in args.parts:
        found["first_call_s"] = f = first_call_s()
        sections.append(f"\n### The first call\n\nCompiling takes {f['compiling']:.0f} s once a machine; a later process takes {f['cached']:.1f} s for its first call (engine and head, float32).\n")
        print(f"first call: {f['compiling']:.1f} s compiling, {f['cached']:.2f} s from the cache")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))
    if not args.no_write:
        common.write_section("bench_events", "## Spikes that save time\n" + "".join(sections) + f"\n{common.stamp('make bench')}\n")


if __name__ == "__main__":
    main()
