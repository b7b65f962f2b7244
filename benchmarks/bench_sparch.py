"""Training speed of SpArch networks: fused scans against a plain loop over time (as published), forward and backward, in one run.

    python benchmarks/bench_sparch.py [--neurons LIF adLIF RadLIF] [--batch 128] [--steps 100] [--hidden 1024] [--repeats 2] [--threads 2]

Prints milliseconds of both (best of `repeats`, taken in turn), their ratio, the firing rate, the peak memory that autograd keeps, and writes JSON with --json.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from torch import Tensor, nn

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", nargs="+", default=["LIF", "adLIF", "RLIF", "RadLIF"])
    for name, value in (("batch", 128), ("steps", 100), ("inputs", 700), ("hidden", 1024), ("layers", 3), ("repeats", 2), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    x = (torch.rand(a.batch, a.steps, a.inputs) < 0.02).float()  # as sparse as SHD
    rows = []
    for neuron in a.neurons:
        net = SNN(x.shape, [a.hidden] * a.layers, neuron, use_readout_layer=False)
        reference = LoopNetwork(net)
        fused, loop = [], []
        once(net, x[:2]), once(reference, x[:2])
        for _ in range(a.repeats):
            fused.append(once(net, x))
            loop.append(once(reference, x))
        best, slow = min(fused), min(loop)
        row = {"neuron": neuron, "fused_ms": 1e3 * best[0], "loop_ms": 1e3 * slow[0], "ratio": slow[0] / best[0], "rate": best[1],
               "fused_saved_mb": best[2] / 1e6, "loop_saved_mb": slow[2] / 1e6}
        rows.append(row)
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) and abs(v) < 100 else f"{k} {v:.0f}" if isinstance(v, float) else str(v)
                        for k, v in row.items()), flush=True)
    if a.json:
        with open(a.json, "w", encoding="utf-8") as file:
            json.dump({"arguments": vars(a), "torch": torch.__version__, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
