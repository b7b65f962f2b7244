"""`wavespike resynth IN OUT`: speech to features and back, a file, a folder or a list; stereo is processed per channel and kept."""

from __future__ import annotations

import json
import os
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
    note,
    progress,
)


def add_arguments(parser: Any) -> None:
    parser.add_argument("input", type=str, help="an audio file (WAV, FLAC, OGG, MP3), a folder, or with --list a file with one path a line")
    parser.add_argument("output", type=str, help="the output file; a folder for a folder or list")
    add_model(parser)
    parser.add_argument("--list", action="store_true", help="the input is a list file")
    parser.add_argument("--keep-rate", action="store_true", help="resample the output to the input's rate (default: the model's rate)")
    parser.add_argument("--format", choices=["wav", "flac", "ogg", "mp3"], default="wav", help="container for a folder's or list's outputs")
    add_sample_format(parser)
    add_bandwidth(parser)
    add_sampling(parser)
    add_engine(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Any) -> int:
    import time

    from wavespike.errors import OutputError, WavespikeError

    many = args.list or Path(args.input).is_dir()
    jobs = _jobs(args, many)
    total_s = _check(jobs, many)  # a wrong path is told at once, before torch and the model are loaded
    from wavespike.cli.synthesis import Written, resynthesise_file

    model = load_vocoder(args.model, args.engine, args.int8)
    told = condition(args, model)
    done: list[Written] = []
    failed: dict[str, str] = {}
    start = time.perf_counter()
    with progress("resynthesis", total_s) as advance:
        told, advance = by_steps(model, told, advance)
        for source, target in jobs:
            try:
                if many:
                    target.parent.mkdir(parents=True, exist_ok=True)
                done.append(resynthesise_file(model, source, target, keep_rate=args.keep_rate, sample_format=args.sample_format,
                                             condition=told, advance=advance))
            except WavespikeError as error:
                if not many or isinstance(error, OutputError):  # no room for one is no room for the next
                    raise
                failed[str(source)] = str(error)
                note(str(error))
    elapsed = time.perf_counter() - start
    _report(args, done, failed, elapsed)
    return 1 if failed else 0


def _jobs(args: Any, many: bool) -> list[tuple[Path, Path]]:
    from wavespike.errors import OutputError, UsageError
    from wavespike.signal.files import SUFFIXES, audio_files

    source, target = Path(args.input), Path(args.output)
    if not many:
        return [(source, target / f"{source.stem}.{args.format}" if target.is_dir() else target)]
    sources = audio_files(source, listed=args.list)
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target}: expected a folder as output for a {'list' if args.list else 'folder'}, got a file; name a folder")
    if not target.exists():
        if target.suffix.lower() in SUFFIXES:
            raise UsageError(f"{target}: expected a folder as output for {len(sources)} input(s), got a file's name; name a folder, or one input")
        if not target.absolute().parent.is_dir():
            raise OutputError(f"{target}: expected an output folder in one that exists, but {target.absolute().parent} does not; create it first")
        try:
            target.mkdir()
        except OSError as error:
            raise OutputError(f"{target}: expected a folder that can be created, got {error.strerror!r}; choose another place") from error
    names = output_names(sources, None if args.list else source, target, f".{args.format}")
    return list(zip(sources, names, strict=True))


def output_names(sources: list[Path], root: Path | None, folder: Path, ending: str) -> list[Path]:
    """Where each of many inputs goes: its path below `root` (or below what all have in common) under `folder`, with the new ending.

    Two inputs that differ only in their ending keep it before the new one.
    """
    if root is None:
        root = Path(os.path.commonpath([source.absolute().parent for source in sources]))
    below = [Path(os.path.relpath(source.absolute(), root.absolute())) for source in sources]
    plain = [path.with_suffix(ending) for path in below]
    return [folder / (short if plain.count(short) == 1 else path.with_name(path.name + ending)) for path, short in zip(below, plain, strict=True)]


def _check(jobs: list[tuple[Path, Path]], many: bool) -> float | None:
    """Seconds of audio in all inputs; raises for outputs that cannot be, and for a single bad input (one of many is reported in its turn)."""
    from wavespike.errors import AudioError, UsageError
    from wavespike.signal.files import Reader, check_output, check_output_format

    total = 0.0
    for source, target in jobs:
        try:
            with Reader(source) as audio:
                total += (audio.frames or 0) / audio.rate_hz
        except AudioError:
            if not many:
                raise
        check_output_format(target)
        if not many:
            check_output(target)
        if target.exists() and source.exists() and target.samefile(source):
            raise UsageError(f"{target}: expected an output beside the input, got the input itself; give another name or folder")
    return total or None


def _report(args: Any, done: list[Any], failed: dict[str, str], elapsed: float) -> None:
    import dataclasses

    seconds = sum(w.seconds for w in done)
    clipped = sum(w.clipped for w in done)
    if args.json:
        print(json.dumps({"model": args.model, "files": [{**dataclasses.asdict(w), "seconds": round(w.seconds, 4)} for w in done], "failed": failed,
                          "seconds": round(seconds, 4), "times_real_time": round(seconds / elapsed, 2)}, indent=2))
        return
    if done:
        where = done[0].output if len(done) == 1 else f"{len(done)} files in {args.output}"
        print(f"{where}: {duration_text(seconds)} by {args.model}, {seconds / elapsed:.1f} x real time")
    if clipped:
        print(f"{clipped} samples beyond full scale were clipped (--sample-format float keeps them)")
    if failed:
        print(f"{len(failed)} of {len(failed) + len(done)} files failed")
