"""The command line: `wavespike VERB ...`. A verb is a file of this room with SUMMARY, add_arguments(parser) and run(args) -> exit code.

Only the verb that is called is imported, so `wavespike --help` answers at once. A WavespikeError becomes one line on stderr and its exit code
(2 usage, 1 failure); `--debug` shows the traceback. So does anything unexpected: a user never sees a traceback unasked.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser

import wavespike
from wavespike.errors import UsageError, WavespikeError, nearest

VERBS: dict[str, str] = {
    "models": "list the models inside the package",
    "show": "one model: configuration, parameters, licence and card",
    "resynth": "speech to features and back: a file, a folder or a list",
    "vocode": "a mel spectrogram (.npy, .npz) to speech",
    "encode": "speech to codes: an audio file to a .wsc file",
    "decode": "codes to speech: a .wsc file to an audio file",
    "stream": "a codec live: a file at real-time pace, or microphone to speaker, with latency",
    "train": "train a model from a recipe",
    "classify": "what was said: labels with scores, from files or live",
    "prepare": "audio to spike trains: a data set in the layout of SHD",
    "resume": "go on with a training run that was stopped",
    "eval": "models and peers over speech: quality, pitch, speed, energy, in one table and on a page to listen to",
    "compare": "two recordings of the same speech: every metric and a picture",
    "energy": "what a model costs on an audio file, counted operation by operation",
    "spikes": "pictures of a spiking model's activity: scatter, raster, rates",
    "doctor": "versions, extras and a self-test",
    "demo": "the bundled speech through the bundled vocoder: waveform, picture, quality, speed",
}
"""Verb -> one-line summary; the code is in wavespike.cli.<verb>."""


def usage() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items()]
    return "\n".join(["usage: wavespike VERB [options]   (wavespike VERB --help)", "", *lines, "", "  --version  print the version", "  --debug    show tracebacks"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] == "--version":
        print(wavespike.__version__)
        return 0
    if hasattr(sys.stdout, "reconfigure"):  # a file name or a table that the terminal cannot show must not end the work
        sys.stdout.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(words)
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, BrokenPipeError):  # the reader of our output has left, as in `wavespike models | head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        message, code = describe(error)
        print(f"wavespike: {' '.join(message.split())}", file=sys.stderr)
        return code
    except KeyboardInterrupt:
        print("wavespike: interrupted", file=sys.stderr)
        return 130


def _run(words: list[str]) -> int:
    verb = words[0]
    if verb not in VERBS:
        raise UsageError(f"expected a verb of {', '.join(VERBS)}, got {verb!r}{nearest(verb, VERBS)}")
    module = importlib.import_module(f"wavespike.cli.{verb}")
    parser = ArgumentParser(prog=f"wavespike {verb}", description=VERBS[verb], exit_on_error=False)
    module.add_arguments(parser)
    try:
        args = parser.parse_args(positionals_first(parser, words[1:]))
    except argparse.ArgumentError as error:
        raise UsageError(f"{verb}: {error}; see wavespike {verb} --help") from error
    code: int = module.run(args)
    sys.stdout.flush()
    return code


def positionals_first(parser: ArgumentParser, words: list[str]) -> list[str]:
    """The same words with all positional ones before the options: argparse would refuse those of a list that stand on both sides of an option."""
    options = {text: action for action in parser._actions for text in action.option_strings}
    before: list[str] = []
    after: list[str] = []
    at = 0
    while at < len(words):
        action = options.get(words[at])
        if words[at] == "--" or (action is not None and isinstance(action.nargs, str)):  # it takes what follows
            return [*before, *after, *words[at:]]
        if action is None and not words[at].startswith("-"):
            before.append(words[at])
            at += 1
            continue
        values = 0 if action is None else 1 if action.nargs is None else int(action.nargs)
        after += words[at : at + 1 + values]
        at += 1 + values
    return [*before, *after]


def describe(error: Exception) -> tuple[str, int]:
    """(one line, exit code) of any error."""
    if isinstance(error, WavespikeError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "expected enough memory for this input, got too little; cut the input or take a smaller model", 1
    if isinstance(error, OSError):
        return f"{error.filename or 'system'}: {error.strerror or error}", 1
    return f"unexpected {type(error).__name__}: {error}; please report it with the output of the same command and --debug", 1


def _terminate(*_: Any) -> None:
    raise SystemExit(143)  # unwinds, so that temporary files are removed
