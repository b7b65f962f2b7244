"""`wavespike spikes NAME WAV --out FILE`: what a spiking model's neurons do on an audio file, as a picture or an interactive page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def add_arguments(parser: Any) -> None:
    parser.add_argument("name", type=str, help="a spiking model's name (wavespike models), a folder with a checkpoint, or a hub id")
    parser.add_argument("wav", type=str, help="an audio file; channels are averaged, the rate is converted")
    parser.add_argument("--out", type=str, default=None, help=".png, .svg or .pdf for a picture, .html for an interactive page; without it rates are printed only")
    parser.add_argument("--threshold", type=float, default=0.5, help="spikes per time step from which a frame and channel is drawn")
    parser.add_argument("--sample", type=float, default=0.1, help="share of the points that is drawn")
    parser.add_argument("--layers", type=str, nargs="*", default=None, help="layers by name, by a part of it, or by depth (0, 1, ...); default all")
    parser.add_argument("--seconds", type=float, default=4.0, help="so much of the beginning; 0 takes the whole file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Any) -> int:
    import torch

    from wavespike.cli.common import load_mono
    from wavespike.errors import UsageError
    from wavespike.hub.load import load
    from wavespike.nn.recording import record_spikes
    from wavespike.signal.files import check_output
    from wavespike.view.spikes import save_spikes, spike_planes

    if args.out is not None:
        if Path(args.out).suffix.lower() not in (".png", ".svg", ".pdf", ".html", ".htm"):
            raise UsageError(f"{args.out}: expected a name that ends in .png, .svg, .pdf or .html, got {Path(args.out).suffix!r}; choose one")
        check_output(args.out)
    if args.seconds < 0:
        raise UsageError(f"expected --seconds of 0 (all) or more, got {args.seconds}")
    model = load(args.name)
    audio = load_mono(args.wav, model.sample_rate)
    if args.seconds:
        audio = audio[:, : max(1, round(args.seconds * model.sample_rate))]
    with torch.inference_mode(), record_spikes(model, keep=args.out is not None) as record:
        model(audio)
    if args.out is not None:
        planes = spike_planes(record, layers=args.layers, threshold=args.threshold, sample=args.sample)
        hop = getattr(model, "hop_length", None)
        save_spikes(planes, args.out, title=f"{args.name} on {Path(args.wav).name}, {audio.shape[1] / model.sample_rate:.1f} s",
                    hop_seconds=None if hop is None else hop / model.sample_rate)
    if args.json:
        layers = {n: {"rate": r.rate, "spikes": int(r.spikes), "sites": r.sites, "silent_channels": r.silent_channels} for n, r in record.layers.items()}
        print(json.dumps({"model": args.name, "mean_rate": record.mean_rate, "layers": layers, "out": args.out}, indent=2))
        return 0
    for name, layer in record.layers.items():
        print(f"{layer.rate:.4f}  {name}" + (f"  ({layer.silent_channels} silent channels)" if layer.silent_channels else ""))
    print(f"{record.mean_rate:.4f}  all, by size" + (f"; {args.out}" if args.out else ""))
    return 0
