"""`wavespike prepare spikes SOURCE OUT.h5`: labelled audio through the cochlea into spike trains, in the layout of SHD."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wavespike.cli.common import note, progress

BATCH = 16


def add_arguments(parser: Any) -> None:
    parser.add_argument("what", choices=["spikes"], help="what to make")
    parser.add_argument("source", type=str, help="a folder with one folder a class, or a list (path<TAB>label<TAB>speaker)")
    parser.add_argument("output", type=str, help="the HDF5 file to write")
    parser.add_argument("--channels", type=int, default=700, help="places on the basilar membrane")
    parser.add_argument("--labels", type=str, default=None, help="comma-separated labels in the order of their numbers (default: sorted)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the spikes")
    parser.add_argument("--raster", type=str, default=None, help="also draw the spikes of the first clip")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Any) -> int:
    import numpy as np

    from wavespike.errors import WavespikeError
    from wavespike.signal.cochlea import CochleaConfig, cochlea
    from wavespike.signal.files import check_output, read
    from wavespike.training.speech_datasets import folders_of_classes, label_index, read_list, write_spikes

    target = check_output(args.output)
    config = CochleaConfig(channels=args.channels)
    examples = read_list(args.source) if Path(args.source).is_file() else folders_of_classes(args.source)
    labels = sorted({e.label for e in examples}) if args.labels is None else [w.strip() for w in args.labels.split(",")]
    numbers = label_index(examples, labels, args.source, complete=False)
    speakers = sorted({e.speaker for e in examples})
    clips: dict[int, Any] = {}
    failed: dict[str, str] = {}
    for i, example in enumerate(examples):
        try:
            clips[i] = read(example.path, config.sample_rate)[0].mean(0)
        except WavespikeError as error:
            failed[str(example.path)] = str(error)
            note(str(error))
    if not clips:
        raise WavespikeError(f"{args.source}: expected at least one clip that can be read, got none; check the files")
    trains: dict[int, Any] = {}
    order = sorted(clips, key=lambda i: len(clips[i]))  # clips of one length together: little padding
    with progress("cochlea", len(order)) as advance:
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            longest = max(len(clips[i]) for i in part)
            audio = np.stack([np.pad(clips[i], (0, longest - len(clips[i]))) for i in part])
            for i, (times, units) in zip(part, cochlea(audio, config, [args.seed * 1_000_003 + i for i in part]), strict=True):
                inside = times < len(clips[i]) / config.sample_rate
                trains[i] = (times[inside], units[inside])
            advance(len(part))
    kept = sorted(trains)
    write_spikes(target, [trains[i] for i in kept], [numbers[i] for i in kept], labels, [speakers.index(examples[i].speaker) for i in kept])
    count = sum(len(t) for t, _ in trains.values())
    seconds = sum(len(clips[i]) for i in kept) / config.sample_rate
    if args.raster is not None:
        from wavespike.view.recognition import raster_picture

        first = kept[0]
        wave = clips[first] / max(1e-9, float(abs(clips[first]).max()))
        times, units = trains[first]
        raster_picture(times, units, args.raster, channels=args.channels, title=f"{examples[first].label!r}: {len(trains[first][0])} spikes", waveform=wave,
                       rate_hz=config.sample_rate)
    row = {"output": str(target), "examples": len(kept), "classes": len(labels), "channels": args.channels, "seconds": round(seconds, 3), "spikes": count,
           "spikes_per_channel_and_second": round(count / args.channels / seconds, 3), "failed": failed}
    if args.json:
        print(json.dumps(row, indent=2))
    else:
        print(f"{target}: {len(kept)} spike trains of {len(labels)} classes, {args.channels} channels, {row['spikes_per_channel_and_second']} spikes a channel and second")
    return 1 if failed else 0
