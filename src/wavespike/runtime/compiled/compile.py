"""Just-in-time compilation by Numba, with the compiled code kept on disk and no Python lock held while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from wavespike.errors import MissingDependencyError

try:
    import numba
    import numba.core.cgutils
    import numba.extending
    from llvmlite import ir
except ImportError as error:
    raise MissingDependencyError("the engines 'compiled' and 'events'", "numba", "events") from error

cgutils: Any = numba.core.cgutils
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


LANES = 16
"""Numbers a vector; LLVM cuts it to what the processor has."""
WIDTHS = (80, 64, 16, 1)
"""Columns whose sums stay in registers while the rows go by; 80 only where it divides the row (five vectors of AVX-512, ten of AVX2)."""


def _row_sums(context, weight, rows, count, total, first, mask):  # type: ignore[no-untyped-def]
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _build_row_sums(context, builder, signature, arguments)

    return numba.void(weight, rows, numba.int64, total, numba.int64, numba.int64), generate


def _build_row_sums(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    types = signature.args
    weight, rows, total = (context.make_array(types[i])(context, builder, arguments[i]) for i in (0, 1, 3))
    count, first, mask = arguments[2], arguments[4], arguments[5]
    i64 = ir.IntType(64)
    source, target = weight.data.type.pointee, total.data.type.pointee
    steps, columns = (builder.extract_value(total.shape, i) for i in (0, 1))
    is_float = isinstance(target, ir.FloatType)

    def number(n: int) -> Any:
        return ir.Constant(i64, n)

    def vector(kind: Any, n: int) -> Any:
        return ir.VectorType(kind, n) if n > 1 else kind

    def loaded(data: Any, at: Any, kind: Any, n: int) -> Any:
        pointer = builder.gep(data, [at])
        size = (kind.width if hasattr(kind, "width") else 32) // 8
        if n == 1:
            return builder.load(pointer)
        return builder.load(builder.bitcast(pointer, vector(kind, n).as_pointer()), align=size)

    def stored(value: Any, data: Any, at: Any, kind: Any, n: int) -> None:
        pointer = builder.gep(data, [at])
        size = (kind.width if hasattr(kind, "width") else 32) // 8
        builder.store(value, pointer if n == 1 else builder.bitcast(pointer, vector(kind, n).as_pointer()), align=size)

    def added(a: Any, b: Any) -> Any:
        return builder.fadd(a, b) if is_float else builder.add(a, b)

    def block(width: int, at: Any) -> None:
        """The sums of columns at .. at + width."""
        lanes = min(LANES, width)
        sums = [cgutils.alloca_once(builder, vector(target, lanes)) for _ in range(width // lanes)]
        for s in sums:
            builder.store(ir.Constant(vector(target, lanes), None), s)
        with cgutils.for_range(builder, count) as loop:
            row = builder.sext(builder.load(builder.gep(rows.data, [loop.index])), i64)
            start = builder.add(builder.mul(row, columns), at)
            for k, s in enumerate(sums):
                value = loaded(weight.data, builder.add(start, number(k * lanes)), source, lanes)
                if source != target:
                    value = builder.sext(value, vector(target, lanes))
                builder.store(added(builder.load(s), value), s)
        with cgutils.for_range(builder, steps) as loop:
            step = builder.sub(loop.index, first)
            inside = builder.and_(builder.icmp_signed(">=", step, number(0)), builder.icmp_signed("<", step, number(30)))
            bit = builder.and_(builder.lshr(mask, builder.select(inside, step, number(0))), number(1))
            with builder.if_then(builder.and_(inside, builder.trunc(bit, ir.IntType(1)))):
                start = builder.add(builder.mul(loop.index, columns), at)
                for k, s in enumerate(sums):
                    place = builder.add(start, number(k * lanes))
                    stored(added(loaded(total.data, place, target, lanes), builder.load(s)), total.data, place, target, lanes)

    at = cgutils.alloca_once_value(builder, number(0))
    whole = builder.icmp_signed("==", builder.srem(columns, number(WIDTHS[0])), number(0))
    for width in WIDTHS:
        room = builder.sub(columns, builder.load(at))
        blocks = builder.sdiv(room, number(width))
        if width == WIDTHS[0]:
            blocks = builder.select(whole, blocks, number(0))
        with cgutils.for_range(builder, blocks):
            here = builder.load(at)
            block(width, here)
            builder.store(builder.add(here, number(width)), at)
    return context.get_dummy_value()


add_row_sums: Callable[..., None] = cast(Callable[..., Any], numba.extending.intrinsic(_row_sums))
"""(weight [inputs, n], rows, count, total [S, n], first, mask): the sum of weight[rows[:count]] is added to total[first + s] for every bit s of mask.

In LLVM's own words, because Numba would keep sums in memory and check for overlaps at every row. For compiled code only.
"""


FRAMES = 4
"""Frames that share a load of the weights in `add_four_frames`."""


def _four_frames(context, x, start, stride, weight, out, frame):  # type: ignore[no-untyped-def]
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, weights, sums_out = (context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 3, 4))
        begin, step, first = arguments[1], arguments[2], arguments[5]
        i64 = ir.IntType(64)
        inputs, columns = (builder.extract_value(weights.shape, i) for i in (0, 1))

        def kind(n: int) -> Any:
            return ir.VectorType(F32, n) if n > 1 else F32

        def place(data: Any, at: Any, n: int) -> Any:
            pointer = builder.gep(data, [at])
            return pointer if n == 1 else builder.bitcast(pointer, kind(n).as_pointer())

        def block(width: int, at: Any) -> None:
            lanes = min(LANES, width)
            parts = range(width // lanes)
            sums = [[cgutils.alloca_once(builder, kind(lanes)) for _ in parts] for _ in range(FRAMES)]
            targets = [[builder.add(builder.add(builder.mul(builder.add(first, ir.Constant(i64, f)), columns), at), ir.Constant(i64, k * lanes)) for k in parts]
                       for f in range(FRAMES)]
            for f in range(FRAMES):
                for k in parts:
                    builder.store(builder.load(place(sums_out.data, targets[f][k], lanes), align=4), sums[f][k])
            with cgutils.for_range(builder, inputs) as loop:
                row = builder.add(builder.mul(loop.index, columns), at)
                values = [builder.load(place(weights.data, builder.add(row, ir.Constant(i64, k * lanes)), lanes), align=4) for k in parts]
                for f in range(FRAMES):
                    here = builder.add(builder.add(begin, builder.mul(step, ir.Constant(i64, f))), loop.index)
                    number = builder.load(builder.gep(source.data, [here]))
                    if lanes > 1:
                        lone = builder.insert_element(ir.Constant(kind(lanes), ir.Undefined), number, ir.Constant(I32, 0))
                        number = builder.shuffle_vector(lone, lone, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))
                    for k in parts:
                        product = builder.fmul(number, values[k], flags=("contract",))
                        builder.store(builder.fadd(builder.load(sums[f][k]), product, flags=("contract",)), sums[f][k])
            for f in range(FRAMES):
                for k in parts:
                    builder.store(builder.load(sums[f][k]), place(sums_out.data, targets[f][k], lanes), align=4)

        at = cgutils.alloca_once_value(builder, ir.Constant(i64, 0))
        for width in (64, 16, 1):
            with cgutils.for_range(builder, builder.sdiv(builder.sub(columns, builder.load(at)), ir.Constant(i64, width))):
                here = builder.load(at)
                block(width, here)
                builder.store(builder.add(here, ir.Constant(i64, width)), at)
        return context.get_dummy_value()

    return numba.void(x, numba.int64, numba.int64, weight, out, numba.int64), generate


add_four_frames: Callable[..., None] = cast(Callable[..., Any], numba.extending.intrinsic(_four_frames))
"""(x, start, stride, weight [inputs, n], out [L, n], f): out[f + k] += sum_i x[start + k stride + i] weight[i] for k = 0..3, each sum in order. For compiled
code only.
"""


def _nonzero_bits(context, numbers, start):  # type: ignore[no-untyped-def]
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        vector = ir.VectorType(I32, 64)
        pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), vector.as_pointer())
        return builder.bitcast(builder.icmp_signed("!=", builder.load(pointer, align=4), ir.Constant(vector, None)), ir.IntType(64))

    return numba.uint64(numbers, numba.int64), generate


def _lowest_bit(context, bits):  # type: ignore[no-untyped-def]
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return numba.int64(numba.uint64), generate


nonzero_bits: Callable[[Any, int], Any] = cast(Callable[..., Any], numba.extending.intrinsic(_nonzero_bits))
"""One bit for each of the 64 numbers (int32) from `start` on, set where it is not zero; for compiled code only."""
lowest_bit: Callable[[Any], Any] = cast(Callable[..., Any], numba.extending.intrinsic(_lowest_bit))
"""Position of the lowest set bit of a number that is not zero; for compiled code only."""
