"""Just-in-time compilation by Numba, with the compiled code kept on disk and no Python lock held while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from wavespike.errors import MissingDependencyError

try:
    import numba
    import numba.extending
    from llvmlite import ir
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


Builder = Callable[[Any, Any], Any]


def _float_function(build: Builder) -> Callable[[Any], Any]:
    """float32 -> float32 from LLVM instructions: Numba's own integers are 64 bits wide, which halves the speed of a vector."""

    def typed(context, x):  # type: ignore[no-untyped-def]  # Numba reads the names and wants no types
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return build(builder, arguments[0])

        return numba.float32(numba.float32), generate

    return cast(Callable[[Any], Any], numba.extending.intrinsic(typed))


I32, F32 = ir.IntType(32), ir.FloatType()


def _nearest(builder: Any, x: Any) -> Any:
    up = builder.fadd(x, ir.Constant(F32, 127.5))
    return builder.sitofp(builder.sub(builder.fptosi(up, I32), ir.Constant(I32, 127)), F32)


def _power_of_two(builder: Any, x: Any) -> Any:
    return builder.bitcast(builder.shl(builder.add(builder.fptosi(x, I32), ir.Constant(I32, 127)), ir.Constant(I32, 23)), F32)


def _root_guess(builder: Any, x: Any) -> Any:
    return builder.bitcast(builder.sub(ir.Constant(I32, 0x5F375A86), builder.lshr(builder.bitcast(x, I32), ir.Constant(I32, 1))), F32)


nearest_whole = _float_function(_nearest)
"""The nearest whole number, for -127 < x < 2^23; for compiled code only."""
power_of_two = _float_function(_power_of_two)
"""2^x for whole x from -126 to 127; for compiled code only."""
root_guess = _float_function(_root_guess)
"""1 / sqrt(x) within 4 %, from the bits of x; for compiled code only."""
