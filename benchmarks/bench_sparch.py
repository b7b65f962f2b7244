"""Training speed of SpArch networks: fused scans against a plain loop over time (as published), forward and backward, in one run.

    python benchmarks/bench_sparch.py [--neurons LIF adLIF RadLIF] [--batch 128] [--steps 100] [--hidden 1024] [--repeats 2] [--threads 2]
    python benchmarks/bench_sparch.py --neurons RadLIF --json rows.json --page     # one neuron at a time; the page shows all rows of the file

Prints milliseconds of both (medians, taken in turn, and the median of the ratios), the firing rate, what autograd keeps for the backward pass, and the peak
memory of a process that makes one pass, less that of the same process before it. --json FILE keeps rows of earlier runs of other neurons.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common import stamp, write_section
from wavespike.metrics.footprint import resident_mb
from wavespike.models.sparch import SNN
from wavespike.nn.recurrent import RecurrentLayer
from wavespike.spikes.adaptive import initial_state, step


class LoopNetwork(nn.Module):
    """The same weights, but each layer is a Python loop of single steps whose graph autograd keeps, and V is cleared of its diagonal in the graph."""

    def __init__(self, net: SNN):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rates = []
        for layer in self.net.layers:
            x = self.layer(layer, x)
            rates.append(x.mean((0, 1)))
        return x, torch.cat(rates)

    @staticmethod
    def layer(layer: RecurrentLayer, x: Tensor) -> Tensor:
        drive = layer.W(x)
        drive = layer.norm(drive.reshape(1, -1, drive.shape[-1])).view_as(drive)
        neuron, spikes = layer.neuron(), []
        state = initial_state(neuron, len(x))
        for t in range(x.shape[1]):  # [B, S, H], batch first as published
            s, state = step(drive[:, t], state, neuron)
            spikes.append(s)
        return torch.stack(spikes, 1)


def once(run: nn.Module, x: Tensor) -> tuple[float, float, int]:
    """Seconds of one forward and backward, the mean rate, and bytes that autograd saved."""
    saved: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    for p in run.parameters():
        p.grad = None
    start = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y, rates = run(x)
        loss = y.square().mean() + rates.mean()
    loss.backward()
    return time.perf_counter() - start, float(rates.detach().mean()), sum(saved.values())


def networks(a: argparse.Namespace, neuron: str) -> tuple[SNN, LoopNetwork, Tensor]:
    torch.manual_seed(0)
    x = (torch.rand(a.batch, a.steps, a.inputs) < 0.02).float()  # as sparse as SHD
    net = SNN(x.shape, [a.hidden] * a.layers, neuron, use_readout_layer=False)
    return net, LoopNetwork(net), x


def peak_of(a: argparse.Namespace) -> float:
    """Megabytes that one forward and backward pass of this process takes at its highest."""
    net, loop, x = networks(a, a.neurons[0])
    run = net if a.peak_of == "fused" else loop
    once(run, x[:2])
    before = resident_mb(peak=True)
    once(run, x)
    return resident_mb(peak=True) - before


def speed(a: argparse.Namespace, neuron: str) -> dict[str, Any]:
    """Times, rate and what autograd keeps."""
    net, reference, x = networks(a, neuron)
    fused, loop = [], []
    once(net, x[:2]), once(reference, x[:2])
    for _ in range(a.repeats):
        fused.append(once(net, x))
        loop.append(once(reference, x))
    return {"fused_ms": 1e3 * statistics.median(t for t, _, _ in fused), "loop_ms": 1e3 * statistics.median(t for t, _, _ in loop),
            "ratio": statistics.median(slow[0] / quick[0] for quick, slow in zip(fused, loop, strict=True)),
            "rate": fused[0][1], "fused_saved_mb": fused[0][2] / 1e6, "loop_saved_mb": loop[0][2] / 1e6, "repeats": a.repeats, "threads": a.threads}


def peaks(a: argparse.Namespace, neuron: str) -> dict[str, Any]:
    """Peak memory, each in a process of its own."""
    row: dict[str, Any] = {}
    for what in ("fused", "loop"):
        words = [f"--{name}={getattr(a, name)}" for name in SIZES]
        done = subprocess.run([sys.executable, __file__, "--neurons", neuron, "--peak-of", what, *words], capture_output=True, text=True, check=True)
        row[f"{what}_peak_mb"] = float(done.stdout)
    return row


ORDER = ("LIF", "adLIF", "RLIF", "RadLIF")
SIZES = {"batch": 128, "steps": 100, "inputs": 700, "hidden": 1024, "layers": 3, "repeats": 2, "threads": 2}


def section(rows: list[dict[str, Any]], command: str) -> str:
    lines = ["## Training SpArch's largest network", "",
             "Forward and backward pass of 3 x 1,024 neurons, 700 inputs, 100 steps, batch 128, against a plain loop over time with the same weights.", "",
             "| neuron | times faster than the loop | fused (s) | loop (s) | firing rate | kept for the backward, fused / loop (MB) | peak memory, fused / loop (MB) |",
             "|---|---:|---:|---:|---:|---:|---:|"]
    for r in rows:
        peak = f"{r['fused_peak_mb']:.0f} / {r['loop_peak_mb']:.0f}" if "fused_peak_mb" in r else "-"
        lines.append(f"| {r['neuron']} | {r['ratio']:.2f} | {r['fused_ms'] / 1e3:.2f} | {r['loop_ms'] / 1e3:.2f} | {100 * r['rate']:.1f} % | "
                     f"{r['fused_saved_mb']:.0f} / {r['loop_saved_mb']:.0f} | {peak} |")
    lines += ["", "- Medians of passes taken in turn, and the median of their ratios. Peak memory: of a process that makes one pass, less its memory before.",
              f"- {stamp(command)}"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", nargs="+", default=list(ORDER), choices=ORDER)
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json")
    parser.add_argument("--page", action="store_true", help="write the section of docs/benchmarks.md")
    parser.add_argument("--measure", nargs="*", default=["speed", "peaks"], choices=["speed", "peaks"], help="peaks needs no quiet machine")
    parser.add_argument("--peak-of", choices=["fused", "loop"], help=argparse.SUPPRESS)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    if a.peak_of:
        print(peak_of(a))
        return
    path = Path(a.json) if a.json else None
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path is not None and path.is_file() else []
    for neuron in a.neurons if a.measure else ():
        row = next((r for r in rows if r["neuron"] == neuron), {"neuron": neuron})
        for what in a.measure:
            row |= (speed if what == "speed" else peaks)(a, neuron)
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) and abs(v) < 100 else f"{k} {v:.0f}" if isinstance(v, float) else str(v)
                        for k, v in row.items()), flush=True)
        rows = sorted([r for r in rows if r["neuron"] != neuron] + [row], key=lambda r: ORDER.index(r["neuron"]))
        if path is not None:
            path.write_text(json.dumps({"sizes": {name: getattr(a, name) for name in SIZES}, "torch": torch.__version__, "rows": rows}, indent=1), encoding="utf-8")
    if a.page:
        write_section("bench_sparch", section(rows, f"python benchmarks/bench_sparch.py --repeats {rows[0].get('repeats', a.repeats)}"))


if __name__ == "__main__":
    main()
