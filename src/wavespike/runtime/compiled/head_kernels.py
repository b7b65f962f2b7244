"""Kernels of the source-filter head: what stands between its products and its Fourier transforms, each in one pass over the frames.

Spectra are [L, 2 F] float32: real and imaginary parts side by side (in rows of known step, or LLVM would not vectorise).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from wavespike.runtime.compiled.compile import compiled, inlined, nearest_whole, power_of_two, root_guess

Array = np.ndarray[Any, Any]
f4 = np.float32

LOG2_E, ONE = f4(1 / math.log(2)), f4(1)
# 2^r for |r| <= 1/2: the Taylor series in r log 2 up to r^7, relative error below 1e-8
E1, E2, E3, E4, E5, E6, E7 = (f4(math.log(2) ** n / math.factorial(n)) for n in range(1, 8))


@inlined
def exp(x: Any) -> Any:
    """e^x within 4e-7 of its value for |x| < 16 (rounding of x / log 2); clamped to -87..88."""
    x = x if x > f4(-87) else f4(-87)
    x = x if x < f4(88) else f4(88)
    y = x * LOG2_E
    k = nearest_whole(y)
    r = y - k
    p = ((((((E7 * r + E6) * r + E5) * r + E4) * r + E3) * r + E2) * r + E1) * r + ONE
    return p * power_of_two(k)


@inlined
def inverse_root(x: Any) -> Any:
    """1 / sqrt(x) for x >= 1e-30: a guess from the exponent, then Newton's method (relative error 2e-3, 5e-6, 4e-7 by rounding). Faster than root and division."""
    half = f4(0.5) * x
    y = root_guess(x)
    y = y * (f4(1.5) - half * y * y)
    y = y * (f4(1.5) - half * y * y)
    return y * (f4(1.5) - half * y * y)


@compiled
def inverse_root_of(x: Array, out: Array) -> None:
    """`inverse_root` of every number of x, both flat."""
    for i in range(x.shape[0]):
        out[i] = inverse_root(x[i])


@compiled
def exp_of(x: Array, out: Array) -> None:
    """`exp` of every number of x, both flat."""
    for i in range(x.shape[0]):
        out[i] = exp(x[i])


@compiled
def window_frames(wave: Array, hop: int, first: int, window: Array, out: Array) -> None:
    """Frames first, first + 1, ... of wave, windowed, into out [l, n_fft]."""
    n = window.shape[0]
    for f in range(out.shape[0]):
        at, to = wave[(first + f) * hop : (first + f) * hop + n], out[f]
        for j in range(n):
            to[j] = at[j] * window[j]


@compiled
def add_windowed(frames: Array, hop: int, first: int, window: Array, wave: Array) -> None:
    """wave += the frames [l, n_fft] times the window, at frame `first` and on."""
    n = window.shape[0]
    for f in range(frames.shape[0]):
        x, to = frames[f], wave[(first + f) * hop : (first + f) * hop + n]
        for j in range(n):
            to[j] += x[j] * window[j]


@compiled
def first_guess(z: Array, voiced: Array, low: Array, train: Array, hiss: Array, magnitude: Array) -> None:
    """The head's equation for l frames: z [l, 2 F] (change, mix), voiced [l], low [F], spectra [l, 2 F]; `magnitude` [l, F] holds that of the mel.

    magnitude becomes min(exp(change) magnitude, 100); train becomes magnitude * unit(v train + (1 - v) hiss).
    """
    bins = magnitude.shape[1]
    for f in range(magnitude.shape[0]):
        change, mix, m, t, h = z[f, :bins], z[f, bins:], magnitude[f], train[f], hiss[f]
        heard = f4(8) * voiced[f]
        for k in range(bins):
            v = ONE / (ONE + exp(f4(4) - mix[k] - heard * low[k]))
            size = exp(change[k]) * m[k]
            size = size if size < f4(100) else f4(100)
            re, im = v * t[2 * k] + (ONE - v) * h[2 * k], v * t[2 * k + 1] + (ONE - v) * h[2 * k + 1]
            gain = size * inverse_root(re * re + im * im + f4(1e-9))
            m[k] = size
            t[2 * k], t[2 * k + 1] = re * gain, im * gain


@compiled
def project(spectrum: Array, magnitude: Array) -> None:
    """spectrum [l, 2 F] becomes magnitude [l, F] * unit(spectrum)."""
    for f in range(magnitude.shape[0]):
        t, m = spectrum[f], magnitude[f]
        for k in range(m.shape[0]):
            re, im = t[2 * k], t[2 * k + 1]
            gain = m[k] * inverse_root(re * re + im * im + f4(1e-9))
            t[2 * k], t[2 * k + 1] = re * gain, im * gain


@compiled
def project_with_momentum(spectrum: Array, before: Array, weight: Any, magnitude: Array) -> None:
    """`project` of spectrum - weight * before; `before` [l, 2 F] becomes the spectrum."""
    for f in range(magnitude.shape[0]):
        t, b, m = spectrum[f], before[f], magnitude[f]
        for k in range(m.shape[0]):
            re, im = t[2 * k] - weight * b[2 * k], t[2 * k + 1] - weight * b[2 * k + 1]
            b[2 * k], b[2 * k + 1] = t[2 * k], t[2 * k + 1]
            gain = m[k] * inverse_root(re * re + im * im + f4(1e-9))
            t[2 * k], t[2 * k + 1] = re * gain, im * gain
