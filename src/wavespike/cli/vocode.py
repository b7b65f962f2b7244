"""`wavespike vocode MEL OUT`: a mel spectrogram, [bands, frames] in a .npy or .npz file, to speech."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wavespike.cli.common import (
    add_bandwidth,
    add_engine,
    add_model,
    add_sample_format,
    add_sampling,
    by_steps,
    condition,
    duration_text,
    load_vocoder,
    progress,
)


def add_arguments(parser: Any) -> None:
    parser.add_argument("mel", type=str, help="features [bands, frames] in the model's own convention: a .npy file, or a .npz file with one array or one named 'mel'")
    parser.add_argument("output", type=str, help="the output file (.wav, .flac, .ogg, .mp3)")
    add_model(parser)
    add_sample_format(parser)
    add_bandwidth(parser)
    add_sampling(parser)
    add_engine(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Any) -> int:
    import dataclasses
    import time

    from wavespike.signal.files import check_output, check_output_format

    source, target = Path(args.mel), Path(args.output)
    check_output_format(target)  # a wrong path is told at once, before torch and the model are loaded
    check_output(target)
    from wavespike.cli.synthesis import open_features, vocode_file

    model = load_vocoder(args.model, args.engine, args.int8)
    told = condition(args, model)
    total = open_features(source, model.feature_channels, getattr(model, "other_bands", None)).shape[1] * model.hop_length / model.sample_rate
    start = time.perf_counter()
    with progress("vocoding", total) as advance:
        told, advance = by_steps(model, told, advance)
        written = vocode_file(model, source, target, sample_format=args.sample_format, condition=told, advance=advance)
    speed = written.seconds / (time.perf_counter() - start)
    if args.json:
        print(json.dumps({"model": args.model, **dataclasses.asdict(written), "seconds": round(written.seconds, 4), "times_real_time": round(speed, 2)}, indent=2))
    else:
        print(f"{target}: {duration_text(written.seconds)} by {args.model}, {speed:.1f} x real time")
        if written.clipped:
            print(f"{written.clipped} samples beyond full scale were clipped (--sample-format float keeps them)")
    return 0
