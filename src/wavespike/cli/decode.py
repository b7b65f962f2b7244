"""`wavespike decode IN.wsc OUT`: codes to audio, in constant memory; damaged blocks are concealed and reported; `-` is a pipe."""

from __future__ import annotations

import json
import sys
from typing import Any

from wavespike.cli.common import DEFAULT_CODEC, add_sample_format, duration_text, load_codec, note, progress


def add_arguments(parser: Any) -> None:
    parser.add_argument("input", type=str, help="a .wsc file, or - for standard input")
    parser.add_argument("output", type=str, help="the audio file to write (WAV, FLAC, OGG, MP3), or - for 16-bit WAV on standard output")
    parser.add_argument("--model", type=str, default=None, help=f"the codec it was made with (default: the name in the file; {DEFAULT_CODEC} for standard input)")
    parser.add_argument("--decoder", type=str, default=None, help="decode with the vocoder of this checkpoint")
    parser.add_argument("--conceal", choices=["model", "repeat", "silence"], default=None, help="what lost blocks become (default: model where the codec can, else repeat)")
    parser.add_argument("--strict", action="store_true", help="exit 1 when anything was lost or damaged")
    add_sample_format(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Any) -> int:
    from pathlib import Path

    from wavespike.errors import UsageError
    from wavespike.runtime.codec_files import decode_file, read_model_name

    if args.json and args.output == "-":
        raise UsageError("expected a file as output with --json, got standard output; both would print there")
    name = args.model or (DEFAULT_CODEC if args.input == "-" else read_model_name(args.input))
    codec = load_codec(name, args.decoder)
    with progress("decoding", None) as advance:
        done = decode_file(codec, args.input, args.output, model_name=Path(name).name, conceal=args.conceal, sample_format=args.sample_format, advance=advance)
    damage = {"lost_blocks": done.lost_blocks, "skipped_bytes": done.skipped_bytes, "truncated": done.truncated, "missing_samples": done.missing_samples}
    if args.json:
        print(json.dumps({"output": args.output, "model": done.model, "seconds": done.seconds, "samples": done.samples, "sample_rate_hz": done.sample_rate,
                          "clipped": done.clipped, **damage}, indent=2))
    else:
        print(f"{args.output}: {duration_text(done.seconds)} by {done.model}", file=sys.stderr if args.output == "-" else sys.stdout)
    if done.damaged:
        note(f"warning: {args.input} is damaged: {', '.join(f'{key} {value}' for key, value in damage.items() if value)}")
    if done.clipped:
        note(f"{done.clipped} samples beyond full scale were clipped (--sample-format float keeps them)")
    return 1 if args.strict and done.damaged else 0
