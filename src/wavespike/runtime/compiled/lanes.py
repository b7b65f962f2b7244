"""Sixteen frames at once, one a lane of a vector: the projections of a source-filter head for windows of 1024 samples and hops of 256.

A stretch of waveform is held transposed, [256, columns]: row r, column c is sample 256 c + r. Sample 256 q + r of the frames f .. f + 15 is then 16 numbers that
stand side by side in row r from column f + q on, so that cutting into frames and overlap-add need no rearrangement, and no operation is ever done on one lane.

Equation: a real transform of 1024 is a complex one of 512 = 8 x 8 x 8, z[n] = x[2n] + i x[2n+1], Z = FFT(z) (decimation in frequency, in place, frequency
f = a + 8 b + 64 c at place 64 a + 8 b + c), and for k = 0..256 with w = exp(-2 pi i / 1024), A = Z[k], B = conj Z[512-k]:

    2 X[k] = (A + B) - i w^k (A - B),    2 conj X[512-k] = (A + B) + i w^k (A - B)

Both bins get their magnitude, the equation is solved for A and B, and the inverse goes the same way back. Frequencies are never sorted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numba
import numba.extending
import numpy as np
from llvmlite import ir

from wavespike.runtime.compiled.compile import compiled

Array = np.ndarray[Any, Any]
LANES, N_FFT, HOP, BINS, HALF = 16, 1024, 256, 513, 512
ROOT_HALF, LOG2_E = math.sqrt(0.5), 1 / math.log(2)
EPS = 1e-9

F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
V32, VI32 = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)
FAST = ("contract", "reassoc", "nsz", "arcp")


class Lane:
    """A vector of 16 numbers inside generated code."""

    def __init__(self, builder: Any, value: Any):
        self.builder, self.value = builder, value

    def _other(self, x: Any) -> Any:
        return x.value if isinstance(x, Lane) else ir.Constant(V32, [float(np.float32(x))] * LANES)

    def __add__(self, x: Any) -> Lane:
        return Lane(self.builder, self.builder.fadd(self.value, self._other(x), flags=FAST))

    def __sub__(self, x: Any) -> Lane:
        return Lane(self.builder, self.builder.fsub(self.value, self._other(x), flags=FAST))

    def __mul__(self, x: Any) -> Lane:
        return Lane(self.builder, self.builder.fmul(self.value, self._other(x), flags=FAST))

    def __neg__(self) -> Lane:
        return self * -1.0

    def least(self, x: Any) -> Lane:
        other = self._other(x)
        return Lane(self.builder, self.builder.select(self.builder.fcmp_ordered("<", self.value, other), self.value, other))

    def most(self, x: Any) -> Lane:
        other = self._other(x)
        return Lane(self.builder, self.builder.select(self.builder.fcmp_ordered(">", self.value, other), self.value, other))

    def inverse(self) -> Lane:
        return Lane(self.builder, self.builder.fdiv(self._other(1.0), self.value, flags=FAST))

    def inverse_root(self) -> Lane:
        """1 / sqrt, for numbers from 1e-30 on: a guess from the exponent, then three steps of Newton's method (4e-7)."""
        b = self.builder
        guess = b.sub(ir.Constant(VI32, [0x5F375A86] * LANES), b.lshr(b.bitcast(self.value, VI32), ir.Constant(VI32, [1] * LANES)))
        y, half = Lane(b, b.bitcast(guess, V32)), self * 0.5
        for _ in range(3):
            y = y * (half * y * y * -1.0 + 1.5)
        return y

    def exp(self) -> Lane:
        """e^x as `head_kernels.exp`."""
        b = self.builder
        y = self.most(-87.0).least(88.0) * LOG2_E
        whole = b.sub(b.fptosi((y + 127.5).value, VI32), ir.Constant(VI32, [127] * LANES))
        r = y - Lane(b, b.sitofp(whole, V32))
        p = r * (math.log(2) ** 7 / math.factorial(7)) + math.log(2) ** 6 / math.factorial(6)
        for n in range(5, -1, -1):
            p = p * r + math.log(2) ** n / math.factorial(n)
        power = b.shl(b.add(whole, ir.Constant(VI32, [127] * LANES)), ir.Constant(VI32, [23] * LANES))
        return p * Lane(b, b.bitcast(power, V32))

    def moved(self, n: int) -> tuple[Lane, Lane]:
        """The lanes n places on, zeros before them; and the n that fell off, at the front."""
        zero = ir.Constant(V32, [0.0] * LANES)
        indices = [ir.Constant(VI32, [(first + i) for i in range(LANES)]) for first in (LANES - n, 2 * LANES - n)]
        b = self.builder
        kept = b.shuffle_vector(zero, self.value, indices[0])
        fallen = b.shuffle_vector(self.value, zero, ir.Constant(VI32, [LANES - n + i for i in range(LANES)]))
        return Lane(b, kept), Lane(b, fallen)


Complex = tuple[Lane, Lane]


class Code:
    """What a generator needs: the arrays' memory and the numbers it was given."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any):
        self.builder = builder
        self.given = [context.make_array(t)(context, builder, a).data if isinstance(t, numba.types.Array) else a
                      for t, a in zip(signature.args, arguments, strict=True)]

    def at(self, *terms: Any) -> Any:
        """Sum of products: numbers of Python or of the code, pairs are multiplied."""
        b, total = self.builder, ir.Constant(I64, 0)
        for term in terms:
            value = b.mul(self.whole(term[0]), self.whole(term[1])) if isinstance(term, tuple) else self.whole(term)
            total = b.add(total, value)
        return total

    def whole(self, x: Any) -> Any:
        return ir.Constant(I64, x) if isinstance(x, int) else x

    def load(self, array: Any, at: Any) -> Lane:
        b = self.builder
        return Lane(b, b.load(b.bitcast(b.gep(array, [at]), V32.as_pointer()), align=4))

    def store(self, x: Lane, array: Any, at: Any) -> None:
        b = self.builder
        b.store(x.value, b.bitcast(b.gep(array, [at]), V32.as_pointer()), align=4)

    def one(self, array: Any, at: Any) -> Lane:
        """One number in every lane."""
        b = self.builder
        first = b.insert_element(ir.Constant(V32, ir.Undefined), b.load(b.gep(array, [at])), ir.Constant(I32, 0))
        return Lane(b, b.shuffle_vector(first, ir.Constant(V32, ir.Undefined), ir.Constant(VI32, [0] * LANES)))

    def load_z(self, buffer: Any, place: Any) -> Complex:
        return self.load(buffer, self.at((place, 2 * LANES))), self.load(buffer, self.at((place, 2 * LANES), LANES))

    def store_z(self, z: Complex, buffer: Any, place: Any) -> None:
        self.store(z[0], buffer, self.at((place, 2 * LANES)))
        self.store(z[1], buffer, self.at((place, 2 * LANES), LANES))


def add(a: Complex, b: Complex) -> Complex:
    return a[0] + b[0], a[1] + b[1]


def sub(a: Complex, b: Complex) -> Complex:
    return a[0] - b[0], a[1] - b[1]


def times(a: Complex, b: Complex) -> Complex:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def times_conj(a: Complex, b: Complex) -> Complex:
    """a conj(b)."""
    return a[0] * b[0] + a[1] * b[1], a[1] * b[0] - a[0] * b[1]


def turned(a: Complex, inverse: bool) -> Complex:
    """-i a, of the inverse i a."""
    return (-a[1], a[0]) if inverse else (a[1], -a[0])


def fourier4(x: Sequence[Complex], inverse: bool) -> list[Complex]:
    p, q, u, v = add(x[0], x[2]), sub(x[0], x[2]), add(x[1], x[3]), turned(sub(x[1], x[3]), inverse)
    return [add(p, u), add(q, v), sub(p, u), sub(q, v)]


def fourier8(x: Sequence[Complex], inverse: bool) -> list[Complex]:
    a, b = [add(x[k], x[k + 4]) for k in range(4)], [sub(x[k], x[k + 4]) for k in range(4)]
    t1, t3 = turned(b[1], inverse), turned(b[3], inverse)
    one, three = add(b[1], t1), sub(t3, b[3])
    b = [b[0], (one[0] * ROOT_HALF, one[1] * ROOT_HALF), turned(b[2], inverse), (three[0] * ROOT_HALF, three[1] * ROOT_HALF)]
    even, odd = fourier4(a, inverse), fourier4(b, inverse)
    return [z for pair in zip(even, odd, strict=True) for z in pair]


N = numba.int64


def _code(body: Callable[..., None], *types: Any) -> Any:
    """What Numba wants of an intrinsic: its types, and how it is written."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = Code(context, builder, signature, arguments)
        body(code, *code.given)
        return context.get_dummy_value()

    return numba.void(*types), generate


def _intrinsic(function: Callable[..., Any]) -> Callable[..., None]:
    return cast(Callable[..., None], numba.extending.intrinsic(function))


def _cut(c: Code, wave: Any, stride: Any, column: Any, window: Any, twiddles: Any, buffer: Any, j: Any) -> None:
    x = []
    for k in range(8):
        row = c.at((j, 2), 128 * (k % 2))
        n = c.at((j, 2), 128 * k)
        x.append(tuple(c.load(wave, c.at((c.at(row, i), stride), column, k // 2)) * c.one(window, c.at(n, i)) for i in range(2)))
    _spread_out(c, fourier8(cast(list[Complex], x), False), twiddles, buffer, j)


def _spread_out(c: Code, z: Sequence[Complex], twiddles: Any, buffer: Any, j: Any) -> None:
    for k in range(8):
        turn = (c.one(twiddles, c.at((j, 16), 2 * k)), c.one(twiddles, c.at((j, 16), 2 * k + 1)))
        c.store_z(times(z[k], turn) if k else z[k], buffer, c.at(j, 64 * k))


def _middle(c: Code, buffer: Any, base: Any, twiddles: Any, j: Any) -> None:
    z = fourier8([c.load_z(buffer, c.at(base, j, 8 * k)) for k in range(8)], False)
    for k in range(8):
        turn = (c.one(twiddles, c.at((j, 128), 2 * k)), c.one(twiddles, c.at((j, 128), 2 * k + 1)))  # w64^(j k) = w512^(8 j k)
        c.store_z(times(z[k], turn) if k else z[k], buffer, c.at(base, j, 8 * k))


def _last(c: Code, buffer: Any, base: Any) -> None:
    for k, z in enumerate(fourier8([c.load_z(buffer, c.at(base, k)) for k in range(8)], False)):
        c.store_z(z, buffer, c.at(base, k))


def _last_back(c: Code, buffer: Any, base: Any) -> None:
    for k, z in enumerate(fourier8([c.load_z(buffer, c.at(base, k)) for k in range(8)], True)):
        c.store_z(z, buffer, c.at(base, k))


def _middle_back(c: Code, buffer: Any, base: Any, twiddles: Any, j: Any) -> None:
    x = []
    for k in range(8):
        z = c.load_z(buffer, c.at(base, j, 8 * k))
        x.append(times_conj(z, (c.one(twiddles, c.at((j, 128), 2 * k)), c.one(twiddles, c.at((j, 128), 2 * k + 1)))) if k else z)
    for k, z in enumerate(fourier8(x, True)):
        c.store_z(z, buffer, c.at(base, j, 8 * k))


def _join(c: Code, buffer: Any, twiddles: Any, window: Any, j: Any, carry: Any, wave: Any, stride: Any, column: Any) -> None:
    x = []
    for k in range(8):
        z = c.load_z(buffer, c.at(j, 64 * k))
        x.append(times_conj(z, (c.one(twiddles, c.at((j, 16), 2 * k)), c.one(twiddles, c.at((j, 16), 2 * k + 1)))) if k else z)
    turned = fourier8(x, True)
    for part in range(2):  # even and odd samples
        for odd in range(2):
            row = c.at((j, 2), part + 128 * odd)
            total, over = c.load(carry, c.at((row, LANES))), None
            for q in range(4):
                y = turned[2 * q + odd][part] * c.one(window, c.at(row, 256 * q))
                if q == 0:
                    total = total + y
                    continue
                kept, fallen = y.moved(q)
                total, over = total + kept, fallen if over is None else over + fallen
            assert over is not None
            c.store(over, carry, c.at((row, LANES)))
            c.store(total, wave, c.at((row, stride), column))


def _halves(c: Code, buffer: Any, p: Any, q: Any, turn: Complex) -> tuple[Complex, Complex]:
    """2 X[k] and 2 conj X[512-k]."""
    a, b = c.load_z(buffer, p), c.load_z(buffer, q)
    total, difference = (a[0] + b[0], a[1] - b[1]), (a[0] - b[0], a[1] + b[1])
    t = turned(times(difference, turn), False)
    return add(total, t), sub(total, t)


def _whole(c: Code, x: Complex, y: Complex, buffer: Any, p: Any, q: Any, turn: Complex) -> None:
    """Back from `_halves`, times 2."""
    total, difference = add(x, y), turned(times_conj(sub(x, y), turn), True)
    one, other = add(total, difference), sub(total, difference)
    c.store_z((other[0], -other[1]), buffer, q)
    c.store_z(one, buffer, p)


def _with_magnitude(x: Complex, magnitude: Lane, eps: float) -> Complex:
    gain = magnitude * (x[0] * x[0] + x[1] * x[1] + eps).inverse_root()
    return x[0] * gain, x[1] * gain


def _turn(c: Code, turns: Any, k: Any) -> Complex:
    return c.one(turns, c.at((k, 2))), c.one(turns, c.at((k, 2), 1))


def _project_pair(c: Code, buffer: Any, p: Any, q: Any, turns: Any, k: Any, magnitude: Any, at: Any) -> None:
    turn = _turn(c, turns, k)
    x, y = _halves(c, buffer, p, q, turn)
    x = _with_magnitude(x, c.load(magnitude, c.at(at, (k, LANES))), 4 * EPS)
    y = _with_magnitude(y, c.load(magnitude, c.at(at, (c.at(HALF, (k, -1)), LANES))), 4 * EPS)
    _whole(c, x, y, buffer, p, q, turn)


def _project_ends(c: Code, buffer: Any, magnitude: Any, at: Any) -> None:
    """Bins 0 and 512, which are real."""
    z = c.load_z(buffer, 0)
    x, y = z[0] + z[1], z[0] - z[1]
    x = x * c.load(magnitude, c.at(at)) * (x * x + EPS).inverse_root()
    y = y * c.load(magnitude, c.at(at, HALF * LANES)) * (y * y + EPS).inverse_root()
    c.store_z((x + y, x - y), buffer, 0)


def _equation(c: Code, k: Any, at: Any, z: Any, stride: Any, column: Any, bias: Any, low: Any, heard: Any, magnitude: Any) -> Lane:
    """The head's share of the harmonic source at bin k; stores the magnitude, which waits at [k, column] of the mel's."""
    mix = c.load(z, c.at((c.at(k, BINS), stride), column)) + c.one(bias, c.at(k, BINS))
    change = c.load(z, c.at((k, stride), column)) + c.one(bias, k)
    implied = c.load(z, c.at((c.at(k, 2 * BINS), stride), column)).most(1e-4)
    size = (change.exp() * implied).least(100.0) * c.load(heard, c.at(LANES))
    c.store(size, magnitude, c.at(at, (k, LANES)))
    return ((-(mix + c.load(heard, c.at(0)) * c.one(low, k)) + 4.0).exp() + 1.0).inverse()


def _guess_pair(c: Code, train: Any, hiss: Any, p: Any, q: Any, turns: Any, k: Any, z: Any, stride: Any, column: Any, bias: Any, low: Any, heard: Any,
                magnitude: Any, at: Any) -> None:
    turn, other = _turn(c, turns, k), c.at(HALF, (k, -1))
    mixed = []
    for bin_number, a, b in zip((k, other), _halves(c, train, p, q, turn), _halves(c, hiss, p, q, turn), strict=True):
        v = _equation(c, bin_number, at, z, stride, column, bias, low, heard, magnitude)
        u = add(b, tuple(v * i for i in sub(a, b)))  # type: ignore[arg-type]
        mixed.append(_with_magnitude(u, c.load(magnitude, c.at(at, (bin_number, LANES))), 4 * EPS))
    _whole(c, mixed[0], mixed[1], train, p, q, turn)


def _guess_ends(c: Code, train: Any, hiss: Any, z: Any, stride: Any, column: Any, bias: Any, low: Any, heard: Any, magnitude: Any, at: Any) -> None:
    a, b = c.load_z(train, 0), c.load_z(hiss, 0)
    mixed = []
    for bin_number, x, y in ((0, a[0] + a[1], b[0] + b[1]), (HALF, a[0] - a[1], b[0] - b[1])):
        v = _equation(c, c.at(bin_number), at, z, stride, column, bias, low, heard, magnitude)
        u = y + v * (x - y)
        mixed.append(u * c.load(magnitude, c.at(at, bin_number * LANES)) * (u * u + EPS).inverse_root())
    c.store_z((mixed[0] + mixed[1], mixed[0] - mixed[1]), train, 0)


cut_and_turn = _intrinsic(lambda context, wave, stride, column, window, twiddles, buffer, j: _code(_cut, wave, N, N, window, twiddles, buffer, N))
middle = _intrinsic(lambda context, buffer, base, twiddles, j: _code(_middle, buffer, N, twiddles, N))
last = _intrinsic(lambda context, buffer, base: _code(_last, buffer, N))
last_back = _intrinsic(lambda context, buffer, base: _code(_last_back, buffer, N))
middle_back = _intrinsic(lambda context, buffer, base, twiddles, j: _code(_middle_back, buffer, N, twiddles, N))
turn_and_join = _intrinsic(lambda context, buffer, twiddles, window, j, carry, wave, stride, column: _code(
    _join, buffer, twiddles, window, N, carry, wave, N, N))
project_pair = _intrinsic(lambda context, buffer, p, q, turns, k, magnitude, at: _code(_project_pair, buffer, N, N, turns, N, magnitude, N))
project_ends = _intrinsic(lambda context, buffer, magnitude, at: _code(_project_ends, buffer, magnitude, N))
guess_pair = _intrinsic(lambda context, train, hiss, p, q, turns, k, z, stride, column, bias, low, heard, magnitude, at: _code(
    _guess_pair, train, hiss, N, N, turns, N, z, N, N, bias, low, heard, magnitude, N))
guess_ends = _intrinsic(lambda context, train, hiss, z, stride, column, bias, low, heard, magnitude, at: _code(
    _guess_ends, train, hiss, z, N, N, bias, low, heard, magnitude, N))


def _tables() -> tuple[Array, Array, Array, Array]:
    n = np.arange(64)[:, None] * np.arange(8)
    twiddles = np.exp(-2j * np.pi * n / HALF)
    turns = np.exp(-2j * np.pi * np.arange(257) / N_FFT)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    place = np.array([64 * (k % 8) + 8 * (k // 8 % 8) + k // 64 for k in range(HALF)])
    # bins 1..256 with the places of k and 512 - k, in the order of the eighths (f mod 8) they live in: {0}, {1, 7}, {2, 6}, {3, 5}, {4}
    pairs = [(min(k % 8, -k % 8), int(place[k]), int(place[-k % HALF]), k) for k in range(1, 257)]
    pairs.sort()

    def flat(z: Array) -> Array:
        return np.ascontiguousarray(np.stack([z.real, z.imag], -1).astype(np.float32).reshape(-1))

    return flat(twiddles), flat(turns), window.astype(np.float32), np.array(pairs, np.int64)


TWIDDLES, TURNS, WINDOW, PAIRS = _tables()
JOIN_WINDOW = (WINDOW / N_FFT).astype(np.float32)
"""The window of the overlap-add with the factors that the transforms leave out."""


@compiled
def _down(buffer: Array, twiddles: Array, eighth: int) -> None:
    """An eighth of the spectrum and the one that mirrors it; 0 and 4 mirror themselves."""
    for which in range(1 if eighth % 4 == 0 else 2):
        base = 64 * (8 - eighth if which else eighth)
        for j in range(8):
            middle(buffer, base, twiddles, j)
        for j in range(8):
            last(buffer, base + 8 * j)


@compiled
def _up(buffer: Array, twiddles: Array, eighth: int) -> None:
    """The way back from `_down`."""
    for which in range(1 if eighth % 4 == 0 else 2):
        base = 64 * (8 - eighth if which else eighth)
        for j in range(8):
            last_back(buffer, base + 8 * j)
        for j in range(8):
            middle_back(buffer, base, twiddles, j)


@compiled
def project(heard: Array, said: Array, stride: int, blocks: int, magnitude: Array, window: Array, join_window: Array, twiddles: Array, turns: Array,
            pairs: Array) -> None:
    """One projection of 16 * `blocks` frames: stretches [256 * stride], magnitude [blocks * 513 * 16]. Columns of `said` from 16 * blocks + 3 on stay."""
    buffer, carry = np.empty(2 * LANES * HALF, np.float32), np.zeros((HOP + 1) * LANES, np.float32)
    for block in range(blocks):
        for j in range(64):
            cut_and_turn(heard, stride, LANES * block, window, twiddles, buffer, j)
        at, n = block * BINS * LANES, 0
        for eighth in range(5):
            _down(buffer, twiddles, eighth)
            if eighth == 0:
                project_ends(buffer, magnitude, at)
            while n < pairs.shape[0] and pairs[n, 0] == eighth:
                project_pair(buffer, pairs[n, 1], pairs[n, 2], turns, pairs[n, 3], magnitude, at)
                n += 1
            _up(buffer, twiddles, eighth)
        for j in range(64):
            turn_and_join(buffer, twiddles, join_window, j, carry, said, stride, LANES * block)
    _flush(carry, said, stride, LANES * blocks)


@compiled
def guess(train: Array, hiss: Array, said: Array, stride: int, blocks: int, z: Array, z_stride: int, bias: Array, low: Array, voiced: Array, magnitude: Array,
          window: Array, join_window: Array, twiddles: Array, turns: Array, pairs: Array) -> None:
    """The head's equation for 16 * `blocks` frames and their overlap-add; magnitude [blocks * 513 * 16] is made.

    z [3 * 513, z_stride]: change, mix, and the magnitude that the mel implies; voiced [16 * blocks] is below 0 where there is no frame.
    """
    buffer, other_buffer = np.empty(2 * LANES * HALF, np.float32), np.empty(2 * LANES * HALF, np.float32)
    carry, heard = np.zeros((HOP + 1) * LANES, np.float32), np.empty(2 * LANES, np.float32)
    for block in range(blocks):
        for i in range(LANES):
            v = voiced[LANES * block + i]
            heard[i] = np.float32(8) * v
            heard[LANES + i] = np.float32(0) if v < np.float32(0) else np.float32(1)
        for j in range(64):
            cut_and_turn(train, stride, LANES * block, window, twiddles, buffer, j)
        for j in range(64):
            cut_and_turn(hiss, stride, LANES * block, window, twiddles, other_buffer, j)
        at, n, column = block * BINS * LANES, 0, LANES * block
        for eighth in range(5):
            _down(buffer, twiddles, eighth)
            _down(other_buffer, twiddles, eighth)
            if eighth == 0:
                guess_ends(buffer, other_buffer, z, z_stride, column, bias, low, heard, magnitude, at)
            while n < pairs.shape[0] and pairs[n, 0] == eighth:
                guess_pair(buffer, other_buffer, pairs[n, 1], pairs[n, 2], turns, pairs[n, 3], z, z_stride, column, bias, low, heard, magnitude, at)
                n += 1
            _up(buffer, twiddles, eighth)
        for j in range(64):
            turn_and_join(buffer, twiddles, join_window, j, carry, said, stride, LANES * block)
    _flush(carry, said, stride, LANES * blocks)


@compiled
def _flush(carry: Array, said: Array, stride: int, column: int) -> None:
    for row in range(HOP):
        for i in range(3):
            said[row * stride + column + i] = carry[row * LANES + i]


@compiled
def into_columns(wave: Array, first: int, columns: int, out: Array, stride: int) -> None:
    """Hops first .. first + columns of wave as columns of out; the rest of out becomes 0."""
    for start in range(0, stride, LANES):
        for row in range(HOP):
            for c in range(start, min(start + LANES, stride)):
                out[row * stride + c] = wave[(first + c) * HOP + row] if c < columns else np.float32(0)


@compiled
def out_of_columns(said: Array, stride: int, column: int, begin: int, out: Array) -> None:
    """out = the samples of the stretch from its sample `begin` on; `column` is the first column that is asked for."""
    for start in range(column, (begin + out.shape[0] + HOP - 1) // HOP, LANES):
        for row in range(HOP):
            for c in range(start, start + LANES):
                at = c * HOP + row - begin
                if 0 <= at < out.shape[0]:
                    out[at] = said[row * stride + c]


@compiled
def normalise(said: Array, stride: int, columns: int, level: Array, at_start: bool, at_end: bool) -> None:
    """Columns of the stretch times `level` [7, 256]: that of the first three hops of the signal, of those in the middle, of the last three."""
    for row in range(HOP):
        x = said[row * stride : row * stride + columns]
        first, last = (x[0] * level[0, row], x[1] * level[1, row], x[2] * level[2, row]), (
            x[columns - 3] * level[4, row], x[columns - 2] * level[5, row], x[columns - 1] * level[6, row])
        middle_level = level[3, row]
        for c in range(columns):
            x[c] *= middle_level
        for i in range(3):
            if at_start:
                x[i] = first[i]
            if at_end:
                x[columns - 3 + i] = last[i]


@compiled
def reflect(said: Array, stride: int, before: int, end: int, after: int) -> None:
    """The first `before` samples of the stretch, and `after` samples from sample `end` on, become the reflection of what they are next to."""
    for i in range(before):
        other = 2 * before - i
        said[i % HOP * stride + i // HOP] = said[other % HOP * stride + other // HOP]
    for i in range(after):
        to, other = end + i, end - 2 - i
        said[to % HOP * stride + to // HOP] = said[other % HOP * stride + other // HOP]
