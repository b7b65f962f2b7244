"""`wavespike stream`: a codec live. A file at real-time pace or as fast as it goes, or a microphone to a speaker; a table of delays at the end."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from wavespike.cli.common import DEFAULT_CODEC, load_codec, note, progress


def add_arguments(parser: Any) -> None:
    parser.add_argument("input", type=str, nargs="?", default=None, help="an audio file; leave it out to use sound cards")
    parser.add_argument("output", type=str, nargs="?", default=None, help="the audio file to write")
    parser.add_argument("--model", type=str, default=DEFAULT_CODEC, help=f"a codec's name (wavespike models), or a folder with a checkpoint (default: {DEFAULT_CODEC})")
    parser.add_argument("--decoder", type=str, default=None, help="decode with the vocoder of this checkpoint")
    parser.add_argument("--fast", action="store_true", help="a file without real-time pace: nothing is dropped, no end-to-end latency")
    parser.add_argument("--input-device", type=str, default=None, help="microphone: index or part of a name (--list-devices)")
    parser.add_argument("--output-device", type=str, default=None, help="speaker: index or part of a name")
    parser.add_argument("--list-devices", action="store_true", help="list the sound cards")
    parser.add_argument("--seconds", type=float, default=None, help="stop a sound card session after so long (default: Ctrl-C)")
    parser.add_argument("--frame-samples", type=int, default=None, help="samples a frame at the model's rate (default: one hop)")
    parser.add_argument("--queue-frames", type=int, default=8, help="frames that may wait before they are dropped")
    parser.add_argument("--threads", type=int, default=None, help="threads of PyTorch")
    parser.add_argument("--device", type=str, default="cpu", help="cpu or cuda")
    parser.add_argument("--dump-input", type=str, default=None, help="write what the microphone heard (WAV)")
    parser.add_argument("--dump-output", type=str, default=None, help="write what the speaker played (WAV)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Any) -> int:
    from wavespike.errors import UsageError
    from wavespike.runtime.live import DeviceGone, list_devices

    if args.list_devices:
        devices = list_devices()
        print(json.dumps(devices, indent=2) if args.json else "\n".join(f"{d['index']:>3}  {d['inputs']} in  {d['outputs']} out  {d['rate_hz']:.0f} Hz  {d['name']}" for d in devices))
        return 0
    if (args.input is None) != (args.output is None):
        raise UsageError("expected an input and an output file, got one; leave both out for sound cards")
    try:
        report = _stream(args)
    except DeviceGone as error:
        _print(args, error.report)
        raise
    _print(args, report)
    return 0


def _stream(args: Any) -> Any:
    import torch

    from wavespike.errors import UsageError
    from wavespike.runtime.live import stream_devices, stream_file
    from wavespike.signal.files import Reader

    if args.threads is not None:
        if args.threads < 1:
            raise UsageError(f"--threads: expected at least 1, got {args.threads}")
        torch.set_num_threads(args.threads)
    if args.device != "cpu" and not torch.cuda.is_available():
        raise UsageError(f"--device {args.device}: expected a CUDA device that PyTorch sees, got none; use --device cpu")
    codec = load_codec(args.model, args.decoder).to(args.device)
    frame = codec.hop if args.frame_samples is None else args.frame_samples
    if args.input is None:
        note("streaming; Ctrl-C stops")
        return stream_devices(codec, _device(args.input_device), _device(args.output_device), frame_samples=frame, seconds=args.seconds,
                              queue_frames=args.queue_frames, dump_input=args.dump_input, dump_output=args.dump_output)
    with Reader(args.input) as audio:
        total = None if audio.frames is None else audio.frames / audio.rate_hz
    with progress("streaming", total) as advance:
        return stream_file(codec, args.input, args.output, frame_samples=frame, fast=args.fast, queue_frames=args.queue_frames, advance=advance)


def _device(name: str | None) -> str | int | None:
    return int(name) if name is not None and name.isdigit() else name


def _print(args: Any, report: Any) -> None:
    if args.json:
        print(json.dumps({**dataclasses.asdict(report), "drop_rate": report.drop_rate}, indent=2))
        return
    print(f"{report.frames} frames of {report.frame_samples} samples ({1000 * report.frame_samples / report.sample_rate:.2f} ms), "
          f"{report.times_real_time:.1f} x real time")
    print(f"{'algorithmic delay':<20}{report.algorithmic_delay_ms:>9.2f} ms")
    print(f"{'':<20}{'p50':>9}{'p95':>9}{'p99':>9}  ms")
    for name, row in (("encode", report.encode_ms), ("decode", report.decode_ms), ("queues", report.queue_ms), ("end to end", report.end_to_end_ms)):
        if row is not None:
            print(f"{name:<20}{row.p50:>9.2f}{row.p95:>9.2f}{row.p99:>9.2f}")
    print(f"{'dropped frames':<20}{report.dropped_frames:>9} ({100 * report.drop_rate:.1f} %)")
    if report.silent_samples:
        print(f"{'late output':<20}{report.silent_samples:>9} samples were silence")
