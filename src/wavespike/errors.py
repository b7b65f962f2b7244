"""One error hierarchy. Every message says what was expected, what came, and what to do, in one line.

`exit_code` is what the command line returns: 2 for a usage error (the call was wrong), 1 for a failure (the data was).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WavespikeError(Exception):
    """Base of all errors that wavespike raises on purpose."""

    exit_code = 1


class UsageError(WavespikeError):
    """The call itself is wrong: an unknown option, name, verb, or a combination that has no meaning."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration has an unknown key, a missing key or a value outside its range."""


class AudioError(WavespikeError):
    """An audio file or tensor cannot be used (missing, truncated, empty, not finite, wrong rate or channels)."""


class FeatureError(WavespikeError):
    """Features do not fit the model (wrong number of bands, wrong rank, not finite, another convention)."""


class CheckpointError(WavespikeError):
    """A checkpoint is missing, damaged, unsafe, or belongs to another model."""


class BitstreamError(WavespikeError):
    """A coded file is none, is damaged beyond its header, or was made with other weights."""


class OutputError(WavespikeError):
    """An output cannot be written (folder missing, read-only, disk full)."""


class TrainingError(WavespikeError):
    """Training cannot go on (no usable data, not-a-number in a layer, a broken run folder)."""


class MissingDependencyError(WavespikeError):
    """An optional package is needed. The message names the pip line that installs it."""

    exit_code = 2

    def __init__(self, what: str, package: str, extra: str):
        super().__init__(f"{what} needs the package {package!r}, which is not installed; run: pip install 'wavespike[{extra}]'")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint `; did you mean 'x'?` for the known name nearest to `name`, or an empty string."""
    hit = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {hit[0]!r}?" if hit else ""
