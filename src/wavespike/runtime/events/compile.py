"""Just-in-time compilation by Numba, with the compiled code kept on disk and no Python lock held while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from wavespike.errors import MissingDependencyError

try:
    import numba
except ImportError as error:
    raise MissingDependencyError("the engine 'events'", "numba", "events") from error

F = TypeVar("F", bound=Callable[..., Any])

FAST = {"contract", "reassoc", "nsz", "arcp"}
"""Liberties of float32: fused products, sums in any order. Infinities keep their meaning (a silenced neuron has an infinite threshold)."""


def compiled(function: F) -> F:
    """`function` as machine code of this processor, made at the first call with new types and kept in Numba's cache folder."""
    options: dict[str, Any] = {"fastmath": FAST, "nogil": True, "error_model": "numpy"}
    try:
        return cast(F, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # no folder can be written: compile anew in every process
        return cast(F, numba.njit(**options)(function))


def inlined(function: F) -> F:
    """A function that is compiled into those that call it."""
    return cast(F, numba.njit(inline="always", fastmath=FAST, nogil=True, error_model="numpy")(function))
