"""Forward and backward of IF, LIF and PLIF neurons: the fused scan against a plain loop of the step function, [S=4, B=16, L=64, C=512].

    python benchmarks/bench_neurons.py --threads 2 [--page]

One JSON line a neuron: milliseconds (medians of runs taken in turn), their ratio, and the largest differences of spikes, potential and gradients.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from common import stamp, write_section
from wavespike.spikes.neurons import NeuronConfig, decay_of, neuron_scan, scan_by_steps

Scan = Callable[..., tuple[Tensor, Tensor]]


def once(scan: Scan, config: NeuronConfig, x: Tensor, pull: Tensor, w: Tensor, start: Tensor | None) -> tuple[float, list[Tensor]]:
    """Seconds, and [spikes, potential, gradient of x, gradient of w where there is one]."""
    inputs = x.clone().requires_grad_()
    w = w.clone().requires_grad_()
    begin = time.perf_counter()
    spikes, after = scan(inputs, start, decay_of(config, w), config)
    spikes.backward(pull)
    seconds = time.perf_counter() - begin
    grads = [g for g in (inputs.grad, w.grad) if g is not None]
    return seconds, [spikes.detach(), after.detach(), *grads]


def compare(kind: Any, repeats: int) -> dict[str, Any]:
    """One row."""
    config = NeuronConfig(kind=kind)
    torch.manual_seed(0)
    x, w = torch.randn(4, 16, 64, 512) * 1.5, torch.zeros(())
    pull, rest = torch.randn_like(x), torch.zeros_like(x[0])
    by_step, fused = once(scan_by_steps, config, x, pull, w, rest)[1], once(neuron_scan, config, x, pull, w, None)[1]
    difference = [float((a - b).abs().max() / a.abs().max()) for a, b in zip(by_step, fused, strict=True)]
    times: dict[str, list[float]] = {"loop": [], "fused": []}
    for i in range(repeats + 2):  # in turn, so that a busy machine hits both
        loop, quick = once(scan_by_steps, config, x, pull, w, rest)[0], once(neuron_scan, config, x, pull, w, None)[0]
        if i >= 2:
            times["loop"].append(loop)
            times["fused"].append(quick)
    middle = {name: statistics.median(row) for name, row in times.items()}
    return {"neuron": kind, "threads": torch.get_num_threads(), "loop_ms": round(1e3 * middle["loop"], 2), "fused_ms": round(1e3 * middle["fused"], 2),
            "ratio_of_medians": round(middle["loop"] / middle["fused"], 2), "ratio_of_minima": round(min(times["loop"]) / min(times["fused"]), 2),
            "difference": dict(zip(("spikes", "potential", "gradient_x", "gradient_w"), difference, strict=False))}


def section(rows: list[dict[str, Any]], command: str) -> str:
    lines = ["## Spiking neurons: fused scan against a loop of steps", "", "Forward and backward pass of [S=4, B=16, L=64, C=512], same spikes, gradients equal to rounding.", "",
             "| neuron | times faster (medians) | times faster (best runs) | fused (ms) | loop (ms) | largest relative difference of the gradient |", "|---|---:|---:|---:|---:|---:|"]
    lines += [f"| {r['neuron']} | {r['ratio_of_medians']:.2f} | {r['ratio_of_minima']:.2f} | {r['fused_ms']:.2f} | {r['loop_ms']:.2f} | {r['difference']['gradient_x']:.0e} |"
              for r in rows]
    lines += ["", "- Much of the time is fresh memory from the operating system, which varies from run to run; the loop takes more of it.", f"- {stamp(command)}"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", nargs="+", default=["if", "lif", "plif"], choices=["if", "lif", "plif"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--page", action="store_true", help="write the section of docs/benchmarks.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for kind in args.neurons:
        rows.append(compare(kind, args.repeats))
        print(json.dumps(rows[-1]), flush=True)
    if args.page:
        write_section("bench_neurons", section(rows, f"python benchmarks/bench_neurons.py --threads {args.threads} --repeats {args.repeats}"))


if __name__ == "__main__":
    main()
