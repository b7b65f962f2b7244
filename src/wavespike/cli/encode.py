"""`wavespike encode IN OUT.wsc`: an audio file of any length to codes, in constant memory; `-` is standard input (PCM WAV) or output."""

from __future__ import annotations

import json
import sys
from typing import Any

from wavespike.cli.common import DEFAULT_CODEC, duration_text, load_codec, note, progress


def add_arguments(parser: Any) -> None:
    parser.add_argument("input", type=str, help="an audio file (WAV, FLAC, OGG, MP3), or - for PCM WAV from standard input")
    parser.add_argument("output", type=str, help="the .wsc file to write, or - for standard output")
    parser.add_argument("--model", type=str, default=DEFAULT_CODEC, help=f"a codec's name (wavespike models), or a folder with a checkpoint (default: {DEFAULT_CODEC})")
    parser.add_argument("--decoder", type=str, default=None, help="decode with the vocoder of this checkpoint (the codes stay the same)")
    parser.add_argument("--bitrate", type=float, default=None, help="at most so many bits a second and stream (default: all codebooks)")
    parser.add_argument("--entropy", action="store_true", help="entropy-code the blocks (pip install 'wavespike[entropy]')")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Any) -> int:
    from pathlib import Path

    from wavespike.errors import UsageError
    from wavespike.runtime.codec_files import encode_file
    from wavespike.signal.files import Reader

    if args.json and args.output == "-":
        raise UsageError("expected a file as output with --json, got standard output; both would print there")
    codec = load_codec(args.model, args.decoder)
    levels = None if args.bitrate is None else codec.codebooks_for(args.bitrate)
    total = None
    if args.input != "-":
        with Reader(args.input) as audio:
            total = None if audio.frames is None else audio.frames / audio.rate_hz
    with progress("encoding", total) as advance:
        done = encode_file(codec, args.input, args.output, model_name=Path(args.model).name, num_codebooks=levels, entropy=args.entropy, advance=advance)
    if args.json:
        print(json.dumps({"output": args.output, "model": args.model, "seconds": done.seconds, "samples": done.samples, "sample_rate_hz": done.sample_rate,
                          "streams": done.streams, "codebooks": done.codebooks, "bytes": done.bytes, "nominal_bitrate": done.nominal_bitrate,
                          "real_bitrate": done.real_bitrate, "resampled_from_hz": done.resampled_from}, indent=2))
        return 0
    if done.resampled_from:
        note(f"resampled from {done.resampled_from} Hz to the model's {done.sample_rate} Hz")
    text = f"{args.output}: {duration_text(done.seconds)} in {done.bytes} bytes, {done.real_bitrate / 1000:.2f} kbit/s ({done.nominal_bitrate / 1000:.2f} nominal)"
    print(text, file=sys.stderr if args.output == "-" else sys.stdout)
    return 0
