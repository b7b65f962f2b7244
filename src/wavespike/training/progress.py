"""Progress on a terminal, and nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any


def track(rows: Iterable[Any], total: int, what: str) -> Iterator[Any]:
    """Pass `rows` on, with a bar on a terminal."""
    if not sys.stderr.isatty():
        yield from rows
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(rows, description=what, total=total, console=Console(stderr=True), transient=True)
