"""Kernels of the source-filter codec, one hop of one stream at a time: what PyTorch and ONNX Runtime do in two hundred small operations is a few loops here,
as fast as the weights come out of the cache.

Weights stand as [inputs, outputs]. States are changed in place.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from wavespike.runtime.compiled.compile import compiled, inlined
from wavespike.runtime.compiled.head_kernels import exp

Array = np.ndarray[Any, Any]
f4 = np.float32

# Abramowitz and Stegun 7.1.28: erf x = 1 - 1 / (1 + a1 x + ... + a6 x^6)^16 for x >= 0, within 3e-7
A1, A2, A3, A4, A5, A6 = (f4(a) for a in (0.0705230784, 0.0422820123, 0.0092705272, 0.0001520143, 0.0002765672, 0.0000430638))
ONE, HALF, ROOT_HALF, SLOPE = f4(1), f4(0.5), f4(math.sqrt(0.5)), f4(1e-4)
TWO_PI = 2 * math.pi


class Backbone(NamedTuple):
    """A causal ConvNeXt backbone of n blocks: `inputs` [k - 1, C] and `past` [n, 6, dim] are its state, `y` [dim] and `wide` [hidden] room to work in."""

    embed: Array
    embed_bias: Array
    norms: Array
    norm_biases: Array
    epsilon: float
    kernels: Array
    kernel_biases: Array
    first: Array
    first_biases: Array
    second: Array
    second_biases: Array
    inputs: Array
    past: Array
    y: Array
    wide: Array


@compiled
def product(x: Array, weight: Array, out: Array) -> None:
    """out [N] += x [K] @ weight [K, N]."""
    rows, columns, k = weight.shape[0], weight.shape[1], 0
    while k + 4 <= rows:
        a, b, c, d = x[k], x[k + 1], x[k + 2], x[k + 3]
        for j in range(columns):
            out[j] += a * weight[k, j] + b * weight[k + 1, j] + c * weight[k + 2, j] + d * weight[k + 3, j]
        k += 4
    while k < rows:
        a = x[k]
        for j in range(columns):
            out[j] += a * weight[k, j]
        k += 1


@compiled
def normalised(x: Array, weight: Array, bias: Array, epsilon: float, out: Array) -> None:
    """Layer norm of x [dim]."""
    mean, power, count = f4(0), f4(0), f4(x.shape[0])
    for j in range(x.shape[0]):
        mean += x[j]
    mean /= count
    for j in range(x.shape[0]):
        d = x[j] - mean
        power += d * d
    scale = f4(1 / math.sqrt(power / count + epsilon))
    for j in range(x.shape[0]):
        out[j] = (x[j] - mean) * scale * weight[j] + bias[j]


@compiled
def gelu(x: Array) -> None:
    """x Phi(x), in place."""
    for j in range(x.shape[0]):
        a = abs(x[j]) * ROOT_HALF
        p = (((((A6 * a + A5) * a + A4) * a + A3) * a + A2) * a + A1) * a + ONE
        p = p * p
        p = p * p
        p = p * p
        p = p * p
        tail = HALF / p  # 1 - Phi(|x|)
        x[j] = x[j] * (ONE - tail if x[j] > f4(0) else tail)


@compiled
def backbone(x: Array, b: Backbone, out: Array) -> None:
    """One frame [C] -> hidden [dim]."""
    before, channels, layers = b.inputs.shape[0], x.shape[0], b.first.shape[0]
    y = b.y
    y[:] = b.embed_bias
    for k in range(before):
        product(b.inputs[k], b.embed[k * channels : (k + 1) * channels], y)
    product(x, b.embed[before * channels :], y)
    for k in range(before):
        b.inputs[k] = b.inputs[k + 1] if k + 1 < before else x
    normalised(y, b.norms[0], b.norm_biases[0], b.epsilon, out)
    for n in range(layers):
        past, kernel = b.past[n], b.kernels[n]
        for j in range(out.shape[0]):
            total = b.kernel_biases[n, j] + out[j] * kernel[6, j]
            for k in range(6):
                total += past[k, j] * kernel[k, j]
            y[j] = total
        for k in range(5):
            past[k] = past[k + 1]
        past[5] = out
        normalised(y, b.norms[n + 1], b.norm_biases[n + 1], b.epsilon, y)
        b.wide[:] = b.first_biases[n]
        product(y, b.first[n], b.wide)
        gelu(b.wide)
        for j in range(out.shape[0]):
            out[j] += b.second_biases[n, j]
        product(b.wide, b.second[n], out)
    normalised(out, b.norms[layers + 1], b.norm_biases[layers + 1], b.epsilon, out)


@compiled
def features(short: Array, low: Array, bank: Array, first_bin: int, quiet: float, out: Array) -> None:
    """Spectra [F] and [G] (complex) -> log-mel bands and the `out` - bands lowest magnitudes from `first_bin`, as logarithms."""
    bands = bank.shape[1]
    out[:] = f4(0)
    for k in range(bank.shape[0]):
        power = short[k].real * short[k].real + short[k].imag * short[k].imag
        for j in range(bands):
            out[j] += power * bank[k, j]
    for k in range(out.shape[0] - bands):
        z = low[first_bin + k]
        out[bands + k] = z.real * z.real + z.imag * z.imag
    for j in range(out.shape[0]):
        out[j] = f4(0.1) * f4(math.log(out[j] + f4(quiet)))


@compiled
def correlations(frame: Array, low_pass: Array, factor: int, lengths: Array, weights: Array, shortest: int, longest: int, x: Array, out: Array) -> None:
    """`PeriodCorrelation` of one frame; `weights` [len(lengths), longest length], `x` room for the decimated frame."""
    taps, size, place = low_pass.shape[0], x.shape[0], 0
    for i in range(size):
        total = f4(0)
        for t in range(taps):
            total += frame[i * factor + t] * low_pass[t]
        x[i] = total
    for which in range(lengths.shape[0]):
        n = lengths[which]
        own = f4(0)
        for i in range(n):
            own += weights[which, i] * x[size - n + i] * x[size - n + i]
        for lag in range(longest, shortest - 1, -1):
            both, other = f4(0), f4(0)
            for i in range(n):
                now, then = weights[which, i] * x[size - n + i], x[size - n + i - lag]
                both += now * then
                other += weights[which, i] * then * then
            out[place] = both / f4(math.sqrt(own * other + 1e-9))
            place += 1


@compiled
def pitch_class(logits: Array, reach: int, f_min_hz: float, f_max_hz: float, cents: float, size: int) -> int:
    """Logits of the pitch classes and of voicing, side by side -> the class that is sent (`PitchClasses.hertz`, `PitchScale.index`)."""
    bins = logits.shape[0] - 1
    if not logits[bins] > 0:
        return 0
    best = 0
    for k in range(1, bins):
        if logits[k] > logits[best]:
            best = k
    total, place = 0.0, 0.0
    for step in range(-reach, reach + 1):
        k = min(max(best + step, 0), bins - 1)
        weight = math.exp(logits[k] - logits[best])
        total += weight
        place += weight * k
    index = round(place / total * cents / 1200 * math.log(2) * (size - 2) / math.log(f_max_hz / f_min_hz))
    return int(min(max(index, 0), size - 2)) + 1


@compiled
def search(residual: Array, books: Array, rows: Array, squares: Array, score: Array, codes: Array) -> None:
    """The nearest codeword level by level; `residual` [D] is used up."""
    for level in range(codes.shape[0]):
        score[:] = squares[level]
        product(residual, rows[level], score)
        best = 0
        for k in range(1, score.shape[0]):
            if score[k] > score[best]:
                best = k
        codes[level] = best
        for d in range(residual.shape[0]):
            residual[d] -= books[level, best, d]


@compiled
def pulses(f0_hz: float, voiced: bool, state: Array, hop: int, rate_hz: float, out: Array) -> None:
    """One hop of `pulse_segments`; `state` is pitch, voicing and phase at the last node, float64."""
    before_f, before_v = state[0], state[1] > 0
    first = before_f if before_v else (f0_hz if voiced else 150.0)
    last = f0_hz if voiced else (before_f if before_v else 150.0)
    start, here, rise = f4(state[2]), f4(first), f4(last - first)
    phase = state[2] + math.pi * hop / rate_hz * (first + last) if voiced or before_v else 0.0
    state[0], state[1], state[2] = f0_hz, 1.0 if voiced else 0.0, phase - TWO_PI * math.floor(phase / TWO_PI)
    if not (voiced or before_v):
        out[:] = f4(0)
        return
    for n in range(hop):
        angle = start + f4(TWO_PI / rate_hz) * (here * f4(n) + rise * (f4(n) * f4(n) / f4(2 * hop)))
        count = math.floor(f4(rate_hz / 2) / (here + rise * (f4(n) / f4(hop))))
        half = f4(math.sin(angle / f4(2)))
        total = f4(count)
        if abs(half) >= SLOPE:
            total = HALF * (f4(math.sin((f4(count) + HALF) * angle)) / half - ONE)
        share = f4(n) / f4(hop)
        gain = (ONE - share if before_v else f4(0)) + (share if voiced else f4(0))
        out[n] = total * f4(math.sqrt(f4(2) / f4(count))) * gain


@inlined
def _mixed(n: Any) -> Any:
    word = np.uint64(0xFFFFFFFF)
    h = (n & word) * np.uint64(0x9E3779B1) & word
    h = (h ^ (h >> np.uint64(16))) * np.uint64(0x85EBCA6B) & word
    h = (h ^ (h >> np.uint64(13))) * np.uint64(0xC2B2AE35) & word
    return h ^ (h >> np.uint64(16))


@compiled
def noise(start: int, out: Array) -> None:
    """`counter_noise` from sample `start`."""
    for i in range(out.shape[0]):
        out[i] = f4(np.int64(_mixed(np.uint64(start + i))) - np.int64(2147483648)) * f4(math.sqrt(3.0) / 2147483648)


@compiled
def filters(gains: Array, matrix: Array, size: Array, phase: Array) -> None:
    """Log gains [R, bins] -> sizes and phases [R, F] of the minimum-phase filters; `matrix` [bins, 2 F]."""
    count, bins = size.shape[1], gains.shape[1]
    for r in range(gains.shape[0]):
        size[r], phase[r] = f4(0), f4(0)
        for k in range(bins):
            gains[r, k] = min(max(gains[r, k], f4(-20)), f4(6))
        product(gains[r], matrix[:, :count], size[r])
        product(gains[r], matrix[:, count:], phase[r])
        for j in range(count):
            size[r, j] = exp(size[r, j])
