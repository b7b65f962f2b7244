"""Speed and memory of vocoders, features to waveform, against the published Vocos architecture at full size.

All contenders run in one process, one after another in every round, on the same features; a ratio is the median over the rounds of (time of the
reference in that round / time of the contender), so what else the machine does hits both. Before it is timed each decodes once, so that no one pays for
the caches that another has emptied. Everything that a contender does from the features to the
waveform counts: pitch, sources, projections, the inverse transform. Peak memory is that of a process of its own.

    python benchmarks/bench_vocoders.py [--rounds 15] [--seconds 10] [--threads 1 2] [--no-write] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import shutil
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
from wavespike.assets import SAMPLE
from wavespike.errors import MissingDependencyError
from wavespike.metrics.footprint import resident_mb
from wavespike.metrics.peers import stand_ins
from wavespike.models.vocos import Vocos, VocosConfig
from wavespike.signal.files import read
from wavespike.signal.mel import MelConfig, log_mel

Decode = Callable[[Tensor], Tensor]
REFERENCE = "published architecture, eager"
PUBLISHED_PARAMETERS = 13_531_650
EXPORTS = Path(os.environ.get("WAVESPIKE_BENCH_EXPORTS") or tempfile.mkdtemp(prefix="wavespike-bench-"))
"""Folder of the exported graphs, shared with the processes that measure memory."""


class Skip(Exception):
    """A contender cannot run here; the message says why."""


@dataclasses.dataclass
class Contender:
    """`make(threads)` builds the decoder; `checked_against` names a contender whose output it must equal to 1e-4 of the peak."""

    name: str
    make: Callable[[int], Decode]
    checked_against: str | None = None


def published() -> Vocos:
    """The published mel-24k architecture with seeded random weights."""
    torch.manual_seed(0)
    model = Vocos(VocosConfig()).eval()
    assert model.parameter_count() == PUBLISHED_PARAMETERS
    return model


def preset(name: str, engine: str = "dense") -> Any:
    """A vocoder of the package, or Skip."""
    if name not in wavespike.presets():
        raise Skip("not among this checkout's presets")
    try:
        return wavespike.load(name, engine=engine)
    except MissingDependencyError as error:
        raise Skip(str(error)) from error


def eager(model: Any) -> Decode:
    return lambda features: model.decode(features)


def compiled(model: Any) -> Decode:
    if not (shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")):
        raise Skip("no C++ compiler for torch.compile")
    forward = torch.compile(lambda features: model.head(model.backbone(features), features), dynamic=False)
    return lambda features: forward(features)


def onnx(model: Any, threads: int, graph: str) -> Decode:
    """The network through ONNX Runtime, the head's transforms as the package does them. The graph is exported once, outside what is measured."""
    try:
        from wavespike.runtime.onnx import OnnxVocos, export

        path = EXPORTS / f"{graph}.onnx"
        session = OnnxVocos(model, path if path.exists() else export(model, path), threads)
    except MissingDependencyError as error:
        raise Skip(str(error)) from error
    return eager(session)


def package() -> Decode:
    """The PyPI package `vocos` with the weights of `published()`. Its decoder needs neither torchaudio nor encodec, only their names."""
    try:
        with stand_ins():
            heads, models = importlib.import_module("vocos.heads"), importlib.import_module("vocos.models")
    except Exception as error:
        raise Skip(f"the package does not import ({type(error).__name__}: {error}); pip install --no-deps vocos") from error
    c = VocosConfig()
    backbone = models.VocosBackbone(input_channels=c.backbone.input_channels, dim=c.backbone.dim, intermediate_dim=c.backbone.intermediate_dim,
                                    num_layers=c.backbone.num_layers)
    head = heads.ISTFTHead(dim=c.head.dim, n_fft=c.head.n_fft, hop_length=c.head.hop_length, padding=c.head.padding)
    theirs = torch.nn.ModuleDict({"backbone": backbone, "head": head}).eval()
    state = {k: v for k, v in published().state_dict().items() if k in theirs.state_dict()}
    missing = theirs.load_state_dict(state, strict=False).missing_keys
    if set(missing) - {"head.istft.window"}:
        raise Skip(f"its state dict differs: {missing}")
    return lambda features: head(backbone(features))


def contenders() -> list[Contender]:
    return [
        Contender(REFERENCE, lambda n: eager(published())),
        Contender("published architecture, torch.compile", lambda n: compiled(published()), REFERENCE),
        Contender("published architecture, ONNX Runtime", lambda n: onnx(published(), n, "published"), REFERENCE),
        Contender("PyPI package vocos, eager", lambda n: package(), REFERENCE),
        Contender("vocos-24k, eager", lambda n: eager(preset("vocos-24k"))),
        Contender("vocos-24k, torch.compile", lambda n: compiled(preset("vocos-24k")), "vocos-24k, eager"),
        Contender("vocos-24k, ONNX Runtime", lambda n: onnx(preset("vocos-24k"), n, "vocos-24k"), "vocos-24k, eager"),
        Contender("vocos-24k, engine 'compiled'", lambda n: eager(preset("vocos-24k", "compiled")), "vocos-24k, eager"),
        Contender("griffin-lim-24k (32 iterations)", lambda n: eager(preset("griffin-lim-24k"))),
    ]


def features_of(seconds: float) -> Tensor:
    """Features of the bundled speech, repeated to `seconds`."""
    samples, rate_hz = read(SAMPLE, 24000)
    audio = torch.from_numpy(samples[:1].copy()).repeat(1, 1 + int(seconds * rate_hz / samples.shape[1]))[:, : int(seconds * rate_hz)]
    return log_mel(audio, MelConfig())


@torch.inference_mode()
def run(threads: int, rounds: int, features: Tensor, only: str | None) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of each contender in each round, and why others were skipped."""
    torch.set_num_threads(threads)
    decoders: dict[str, Decode] = {}
    skipped: dict[str, str] = {}
    outputs: dict[str, Tensor] = {}
    for contender in contenders():
        if only and contender.name != REFERENCE and only not in contender.name:
            continue
        try:
            decode = contender.make(threads)
            outputs[contender.name] = decode(features).clone()
        except Skip as reason:
            skipped[contender.name] = str(reason)
            continue
        other = outputs.get(contender.checked_against or "")
        if other is not None:
            error = float((outputs[contender.name] - other).abs().max() / other.abs().max())
            if not error < 1e-4:
                raise SystemExit(f"{contender.name}: expected the output of {contender.checked_against} to 1e-4 of its peak, got {error:.2g}")
        decode(features)
        decoders[contender.name] = decode
    times: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(rounds):
        for name, decode in decoders.items():
            decode(features)  # not timed: brings its weights and buffers back into the cache after the others
            start = time.perf_counter()
            decode(features)
            times[name].append(time.perf_counter() - start)
    return times, skipped


def memory_mb(name: str, seconds: float) -> float:
    """Peak resident memory of a process that decodes with one contender, less that of one that only imports and makes the features, in MB."""
    done = [subprocess.run([sys.executable, __file__, "--memory-of", what, "--seconds", str(seconds)], capture_output=True, text=True, check=True,
                           env={**os.environ, "WAVESPIKE_BENCH_EXPORTS": str(EXPORTS)})
            for what in ("", name)]
    base, peak = (float(d.stdout.split()[-1]) for d in done)
    return peak - base


@torch.inference_mode()
def print_memory(name: str, seconds: float) -> None:
    torch.set_num_threads(1)
    features = features_of(seconds)
    for contender in contenders():
        if contender.name == name:
            decode = contender.make(1)
            decode(features)
            decode(features)
    print(resident_mb(peak=True))


def summary(times: dict[str, list[float]], seconds: float) -> list[dict[str, Any]]:
    reference = times[REFERENCE]
    rows = []
    for name, own in times.items():
        ratios = sorted(a / b for a, b in zip(reference, own, strict=True))
        quarter = len(ratios) // 4
        rows.append({"name": name, "ratio": statistics.median(ratios), "low": ratios[quarter], "high": ratios[-1 - quarter],
                     "times_real_time": seconds / statistics.median(own), "milliseconds": 1000 * statistics.median(own)})
    return rows


def table(results: dict[int, list[dict[str, Any]]], memory: dict[str, float]) -> str:
    threads = list(results)
    head = ["contender", *(f"speed, {n} thread{'s' * (n > 1)}" for n in threads), *(f"x real time, {n} thread{'s' * (n > 1)}" for n in threads), "peak memory (MB)"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for i, row in enumerate(results[threads[0]]):
        rows = [results[n][i] for n in threads]
        ratios = [f"{r['ratio']:.2f} ({r['low']:.2f} to {r['high']:.2f})" for r in rows]
        lines.append("| " + " | ".join([row["name"], *ratios, *(f"{r['times_real_time']:.0f}" for r in rows), f"{memory[row['name']]:.0f}"]) + " |")
    return "\n".join(lines)


def picture(results: dict[int, list[dict[str, Any]]], path: Path) -> None:
    from matplotlib.figure import Figure

    from wavespike.view.spectrogram import save_figure

    threads = list(results)
    names = [row["name"] for row in results[threads[0]]]
    figure = Figure(figsize=(9, 0.55 * len(names) + 1.2), dpi=120, layout="constrained")
    axis = figure.subplots()
    height = 0.8 / len(threads)
    for k, n in enumerate(threads):
        values = [row["ratio"] for row in results[n]]
        at = [i + k * height for i in range(len(names))]
        spread = [[r["ratio"] - r["low"] for r in results[n]], [r["high"] - r["ratio"] for r in results[n]]]
        axis.barh(at, values, height, xerr=spread, label=f"{n} thread{'s' * (n > 1)}", color=("#31688e", "#35b779", "#fde725")[k % 3], ecolor="#444444", capsize=2)
        for y, value, high in zip(at, values, spread[1], strict=True):
            axis.text(value + high, y, f" {value:.1f}", va="center", fontsize=8)
    axis.axvline(1.0, color="black", linewidth=0.8)
    axis.set_yticks([i + 0.4 - height / 2 for i in range(len(names))], names)
    axis.invert_yaxis()
    axis.set_xlabel(f"speed over the {REFERENCE} (median, middle half)")
    axis.margins(x=0.1)
    axis.legend()
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", help="the reference and contenders whose name contains this")
    parser.add_argument("--no-write", action="store_true", help="leave docs/ as it is")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if args.memory_of is not None:
        print_memory(args.memory_of, args.seconds)
        return
    features = features_of(args.seconds)
    results: dict[int, list[dict[str, Any]]] = {}
    skipped: dict[str, str] = {}
    for n in args.threads:
        times, skipped = run(n, args.rounds, features, args.only)
        results[n] = summary(times, args.seconds)
        for row in results[n]:
            print(f"{n} thread{'s' * (n > 1)}: {row['name']:<42} {row['ratio']:6.2f} x  ({row['low']:.2f} to {row['high']:.2f})  "
                  f"{row['times_real_time']:6.1f} x real time", flush=True)
    for name, reason in skipped.items():
        print(f"skipped: {name}: {reason}")
    memory = {row["name"]: memory_mb(row["name"], args.seconds) for row in results[args.threads[0]]}
    for name, value in memory.items():
        print(f"peak memory: {name:<42} {value:6.0f} MB")
    shutil.rmtree(EXPORTS, ignore_errors=True)
    if args.json:
        args.json.write_text(json.dumps({"results": results, "memory_mb": memory, "skipped": skipped, "machine": common.machine()}, indent=2))
    if args.no_write:
        return
    images = common.PAGE.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    picture(results, images / "bench_vocoders.png")
    notes = "".join(f"\n- Not run: {name} ({reason})." for name, reason in skipped.items())
    common.write_section("bench_vocoders", f"""
## Vocoders: features to waveform

![Speed of vocoders relative to the published architecture](images/bench_vocoders.png)

{table(results, memory)}

- Speed is relative to the published Vocos architecture at full size ({PUBLISHED_PARAMETERS:,} parameters, random weights), eager: the median over {args.rounds}
  rounds of the ratio inside one round (in brackets the middle half). All contenders alternate in one process on the features of {args.seconds:.0f} s of
  speech; everything from features to waveform counts. Compare ratios; times change with the machine and what else it does.
- Contenders that share weights were checked to give the same output to 1e-4 of the peak.
- Peak memory: of a process of its own on one thread, less that of one that only imports and computes the features.{notes}
- {common.stamp("make bench")}
""")


if __name__ == "__main__":
    main()
