"""The command line: `wavespike VERB ...`. A verb is a file of this room with SUMMARY, add_arguments(parser) and run(args) -> exit code.

Only the verb that is called is imported, so `wavespike --help` answers at once. A WavespikeError becomes one line on stderr and its exit code
(2 usage, 1 failure); `--debug` shows the traceback.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence

from jsonargparse import ArgumentParser

import wavespike
from wavespike.errors import UsageError, WavespikeError, nearest

VERBS: dict[str, str] = {
    "models": "list the models inside the package",
    "train": "train a model from a recipe",
    "resume": "go on with a training run that was stopped",
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
    try:
        verb = words[0]
        if verb not in VERBS:
            raise UsageError(f"expected a verb of {', '.join(VERBS)}, got {verb!r}{nearest(verb, VERBS)}")
        module = importlib.import_module(f"wavespike.cli.{verb}")
        parser = ArgumentParser(prog=f"wavespike {verb}", description=VERBS[verb], exit_on_error=True)
        module.add_arguments(parser)
        code: int = module.run(parser.parse_args(words[1:]))
        return code
    except WavespikeError as error:
        if debug:
            traceback.print_exc()
        print(f"wavespike: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("wavespike: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
