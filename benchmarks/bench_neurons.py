"""Forward and backward of PLIF neurons: the fused scan against a plain loop of the step function, [S=4, B=16, L=64, C=512].

python benchmarks/bench_neurons.py --threads 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from wavespike.spikes.neurons import NeuronConfig, neuron_scan, scan_by_steps


def seconds(scan: Callable[..., Any], x: torch.Tensor, pull: torch.Tensor, w: torch.Tensor, start: torch.Tensor | None) -> float:
    inputs = x.clone().requires_grad_()
    begin = time.perf_counter()
    spikes, _ = scan(inputs, start, torch.sigmoid(w), NeuronConfig())
    spikes.backward(pull)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=31)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    x, w = torch.randn(4, 16, 64, 512) * 1.5, torch.zeros((), requires_grad=True)
    pull, rest = torch.randn_like(x), torch.zeros_like(x[0])
    loop, fused = [], []
    for i in range(args.repeats + 3):  # alternating, so that a busy machine hits both
        a, b = seconds(scan_by_steps, x, pull, w, rest), seconds(neuron_scan, x, pull, w, None)
        if i >= 3:
            loop.append(a)
            fused.append(b)
    row = {"threads": args.threads, "loop_ms": 1e3 * statistics.median(loop), "fused_ms": 1e3 * statistics.median(fused),
           "ratio_of_medians": statistics.median(loop) / statistics.median(fused), "ratio_of_minima": min(loop) / min(fused)}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
