"""The event-driven kernels. Frames are rows: a frame is [S, C], its S time steps side by side, so that one load of a weight row serves all of them.

Equation, for an input with spikes s[t, i] in 0, 1 and weight rows W[i, :]:

    y[t, :] = sum_i s[t, i] W[i, :]  =  sum over masks m with bit t of  sum over i whose steps are m of W[i, :]

so every active input's row is added once whatever the number of its steps, and inputs that never fired cost nothing. All functions are pure but for the
arrays named `out`, `deferred` and `kept`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from wavespike.runtime.compiled.compile import FRAMES, add_four_frames, add_row_sums, compiled, inlined, lowest_bit, nonzero_bits

Array = np.ndarray[Any, Any]
f4, i4 = np.float32, np.int32

COLUMNS = 16
"""Frames whose sums are turned into columns together: a line of the cache."""
GROUP = 4
"""Time steps that share one pass over the weight rows: 2^4 - 1 masks."""

# erf(z) = z P(z^2) / Q(z^2) for |z| <= 3.9, fitted by weighted least squares until the error was level: 1.5e-8 in exact arithmetic. In float32 the
# resulting GELU is within 1.1e-6 of the exact one on -8..8, as PyTorch's own is.
P0, P1, P2, P3, P4, P5 = (f4(p) for p in (1.1283790323552363, 0.19194150226964887, 0.05296698475520608, 0.003836898102145415, 0.00028745788289542,
                                          2.050384879736027e-06))
Q1, Q2, Q3, Q4, Q5 = (f4(q) for q in (0.5034355053728616, 0.1147584065949013, 0.01510924750967578, 0.001181740061929011, 3.823075067112868e-05))
EDGE, ROOT_HALF, ONE, HALF = f4(3.9), f4(math.sqrt(0.5)), f4(1), f4(0.5)


@inlined
def gelu(x: Any) -> Any:
    """x (1 + erf(x / sqrt 2)) / 2."""
    z = x * ROOT_HALF
    z = z if z < EDGE else EDGE
    z = z if z > -EDGE else -EDGE
    t = z * z
    p = ((((P5 * t + P4) * t + P3) * t + P2) * t + P1) * t + P0
    q = ((((Q5 * t + Q4) * t + Q3) * t + Q2) * t + Q1) * t + ONE
    return HALF * x * (ONE + z * p / q)


@compiled
def gelu_of(x: Array, out: Array) -> None:
    """`gelu` of every number of x, both flat."""
    for i in range(x.shape[0]):
        out[i] = gelu(x[i])


@compiled
def convolve(x: Array, weight: Array, bias: Array, out: Array) -> None:
    """Frames x [L + K - 1, C_in] -> out [L, C]: bias + the product of K frames from each on, side by side, with weight [K C_in, C].

    L is a multiple of FRAMES and every frame sums in the same order, so a frame does not depend on how many others are computed with it.
    """
    flat, inputs = x.reshape(-1), x.shape[1]
    for f in range(0, out.shape[0], FRAMES):
        for k in range(FRAMES):
            out[f + k] = bias
        add_four_frames(flat, f * inputs, inputs, weight, out, f)


@compiled
def mix_steps(u: Array, alpha: Any, fold: int, out: Array) -> None:
    """u + alpha shift(u), u [W, S, C]: the first `fold` channels from the next step, as many from the previous, the rest from the step itself."""
    frames, steps, channels = u.shape
    own, later, earlier = np.ones(channels, np.float32), np.zeros(channels, np.float32), np.zeros(channels, np.float32)
    own[2 * fold :] = ONE + alpha
    later[:fold] = alpha
    earlier[fold : 2 * fold] = alpha
    none = np.zeros(channels, np.float32)
    for f in range(frames):
        for s in range(steps):
            to, at = out[f, s], u[f, s]
            after, before = (u[f, s + 1] if s + 1 < steps else none), (u[f, s - 1] if s > 0 else none)
            for c in range(channels):
                to[c] = own[c] * at[c] + (later[c] * after[c] + earlier[c] * before[c])


@inlined
def layer_norm(x: Array, gain: Array, shift: Array, out: Array) -> None:
    """gain (x - mean) / deviation + shift over the channels [C]; `out` may be x."""
    per_channel = ONE / f4(x.shape[0])
    mean, square = f4(0), f4(0)
    for c in range(x.shape[0]):
        mean += x[c]
    mean *= per_channel
    for c in range(x.shape[0]):
        z = x[c] - mean
        out[c] = z
        square += z * z
    r = ONE / np.sqrt(square * per_channel + f4(1e-6))
    for c in range(x.shape[0]):
        out[c] = out[c] * r * gain[c] + shift[c]


@compiled
def neuron(x: Array, v: Array, spikes: Array, bit: Any, a: Any, b: Any, c: Any, threshold: Any, soft: bool, reset: Any) -> None:
    """One step of integrate-and-fire neurons: h = a v + b x + c, spike (`bit` into `spikes`) where h >= threshold."""
    none = i4(0)
    for j in range(x.shape[0]):
        h = a * v[j] + b * x[j] + c
        fires = h >= threshold
        spikes[j] |= bit if fires else none
        v[j] = (h - threshold if soft else reset) if fires else h


@compiled
def neuron_after_product(total: Array, scale: Array, bias: Array, with_gelu: bool, v: Array, spikes: Array, bit: Any, a: Any, b: Any, c: Any, threshold: Any,
                         soft: bool, reset: Any) -> None:
    """`neuron` of bias + scale * total, or of its GELU."""
    none = i4(0)
    if with_gelu:
        for j in range(total.shape[0]):
            h = a * v[j] + b * gelu(bias[j] + scale[j] * f4(total[j])) + c
            fires = h >= threshold
            spikes[j] |= bit if fires else none
            v[j] = (h - threshold if soft else reset) if fires else h
    else:
        for j in range(total.shape[0]):
            h = a * v[j] + b * (bias[j] + scale[j] * f4(total[j])) + c
            fires = h >= threshold
            spikes[j] |= bit if fires else none
            v[j] = (h - threshold if soft else reset) if fires else h


@compiled
def active(spikes: Array, found: Array) -> int:
    """Indices of the inputs that fired at any step, in order -> their number."""
    n, whole = 0, spikes.shape[0] // 64 * 64
    for start in range(0, whole, 64):
        bits = nonzero_bits(spikes, start)
        while bits != 0:
            found[n] = start + lowest_bit(bits)
            bits &= bits - np.uint64(1)
            n += 1
    for c in range(whole, spikes.shape[0]):
        found[n] = c
        n += 1 if spikes[c] != 0 else 0
    return n


@compiled
def sort_by_mask(spikes: Array, found: Array, count: int, shift: Any, lists: Array, counts: Array) -> None:
    """The active inputs by which of GROUP steps, from step `shift` on, they fired at: lists[mask, :counts[mask]]."""
    counts[:] = 0
    full = i4(counts.shape[0] - 1)
    for i in range(count):
        c = found[i]
        m = (spikes[c] >> shift) & full
        lists[m, counts[m]] = c
        counts[m] += 1


@compiled
def add_products(weight: Array, spikes: Array, found: Array, count: int, lists: Array, counts: Array, total: Array) -> None:
    """total [S, n] = the weight rows [inputs, n] of the active inputs, summed at the steps at which they fired."""
    total[:] = 0
    for first in range(0, total.shape[0], GROUP):
        sort_by_mask(spikes, found, count, i4(first), lists, counts)
        for m in range(1, counts.shape[0]):
            if counts[m] > 0:
                add_row_sums(weight, lists[m], counts[m], total, first, m)


@compiled
def block(u: Array, mixed: Array, taps: Array, tap_bias: Array, gain: Array, shift: Array, first: Array, second: Array, soft: bool,
          weight_in: Array, scale_in: Array, bias_in: Array, with_gelu: bool, weight_out: Array, scale_out: Array, bias_out: Array, gamma: Array, shortcut: bool,
          left: int, sum_type: Array, most_in: int, most_hidden: int, out: Array, deferred: Array, kept: Array) -> tuple[int, int, int]:
    """One block of the spiking ConvNeXt, window [W, S, C] -> out [W - 6, S, C]; `mixed` is the window after the temporal shift.

    first, second: (a, b, c, threshold, reset) of the neurons; `left` frames of the window are past. A frame with more than `most_in` active inputs or `most_hidden` active hidden units is
    left to a dense product: its number goes into `deferred` and its normalised input [S, C] into `kept`. Returns the number of deferred frames and of
    active inputs and hidden units.
    """
    window, steps, channels = u.shape
    hidden, frames = bias_in.shape[0], window - 6
    x = np.empty((steps, channels), np.float32)
    v1, v2 = np.empty(channels, np.float32), np.empty(hidden, np.float32)
    spikes1, spikes2 = np.empty(channels, np.int32), np.empty(hidden, np.int32)
    found = np.empty(max(channels, hidden) + 1, np.int32)
    masks = 1 << min(GROUP, steps)
    lists, counts = np.empty((masks, max(channels, hidden)), np.int32), np.empty(masks, np.int64)
    total1, total2 = np.empty((steps, hidden), sum_type.dtype), np.empty((steps, channels), sum_type.dtype)
    w0, w1, w2, w3, w4, w5, w6 = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5], taps[6]
    waiting, all_in, all_hidden = 0, 0, 0
    for f in range(frames):
        spikes1[:] = 0
        v1[:] = first[4]
        for s in range(steps):
            h = x[s]
            t0, t1, t2, t3 = mixed[f, s], mixed[f + 1, s], mixed[f + 2, s], mixed[f + 3, s]
            t4, t5, t6 = mixed[f + 4, s], mixed[f + 5, s], mixed[f + 6, s]
            for c in range(channels):
                h[c] = tap_bias[c] + w0[c] * t0[c] + w1[c] * t1[c] + w2[c] * t2[c] + w3[c] * t3[c] + w4[c] * t4[c] + w5[c] * t5[c] + w6[c] * t6[c]
            layer_norm(h, gain, shift, h)
            neuron(h, v1, spikes1, i4(1) << i4(s), first[0], first[1], first[2], first[3], soft, first[4])
        n = active(spikes1, found)
        all_in += n
        if n > most_in:
            deferred[waiting] = f
            kept[waiting] = x
            waiting += 1
            continue
        add_products(weight_in, spikes1, found, n, lists, counts, total1)
        spikes2[:] = 0
        v2[:] = second[4]
        for s in range(steps):
            neuron_after_product(total1[s], scale_in, bias_in, with_gelu, v2, spikes2, i4(1) << i4(s), second[0], second[1], second[2], second[3], soft,
                                 second[4])
        n = active(spikes2, found)
        all_hidden += n
        if n > most_hidden:
            deferred[waiting] = f
            kept[waiting] = x
            waiting += 1
            continue
        add_products(weight_out, spikes2, found, n, lists, counts, total2)
        for s in range(steps):
            to, at, h, y = out[f, s], u[f + left, s], x[s], total2[s]
            for c in range(channels):
                z = gamma[c] * (bias_out[c] + scale_out[c] * f4(y[c]))
                to[c] = at[c] + (z * h[c] if shortcut else z)
    return waiting, all_in, all_hidden


@compiled
def read_out(u: Array, gain: Array, shift: Array, numbers: Array, soft: bool, out: Array) -> None:
    """The spikes of neurons after a layer norm, u [L, S, C] -> out [L, S C]: ones and zeros, the steps side by side."""
    frames, steps, channels = u.shape
    h, v, spikes = np.empty(channels, np.float32), np.empty(channels, np.float32), np.empty(channels, np.int32)
    for f in range(frames):
        v[:] = numbers[4]
        for s in range(steps):
            at, to = u[f, s], out[f, s * channels : (s + 1) * channels]
            layer_norm(at, gain, shift, h)
            spikes[:] = 0
            neuron(h, v, spikes, i4(1), numbers[0], numbers[1], numbers[2], numbers[3], soft, numbers[4])
            for c in range(channels):
                to[c] = f4(spikes[c])


@compiled
def add_lines(x: Array, weight: Array, scale: Array, sum_type: Array, out: Array) -> None:
    """out [n, L] = scale * the weight rows [inputs, n] of the ones in x [L, inputs] (float32 read as int32), a column a frame."""
    frames, n = x.shape[0], weight.shape[1]
    found, total = np.empty(x.shape[1] + 1, np.int32), np.empty((1, n), sum_type.dtype)
    group = np.empty((COLUMNS, n), np.float32)
    for start in range(0, frames, COLUMNS):
        many = min(COLUMNS, frames - start)
        for f in range(many):
            total[:] = 0
            add_row_sums(weight, found, active(x[start + f], found), total, 0, 1)
            for j in range(n):
                group[f, j] = scale[j] * f4(total[0, j])
        for j in range(n):
            for f in range(many):
                out[j, start + f] = group[f, j]


@compiled
def add_exactly(x: Array, weight: Array, bias: Array, out: Array) -> None:
    """out [L, n] = bias + the weight rows [inputs, n] of the ones in x [L, inputs] (float32 read as int32), in float64."""
    found = np.empty(x.shape[1] + 1, np.int32)
    for f in range(x.shape[0]):
        to = out[f]
        to[:] = bias
        for i in range(active(x[f], found)):
            row = weight[found[i]]
            for j in range(to.shape[0]):
                to[j] += row[j]


@compiled
def add_scaled_rows(weight: Array, x: Array, total: Array) -> int:
    """total += sum_i x[i] weight[i, :] over the inputs that are not zero -> their number. Values may be graded; ones are not multiplied."""
    n, count = total.shape[0], 0
    for i in range(x.shape[0]):
        value = x[i]
        if value == f4(0):
            continue
        count += 1
        row = weight[i]
        if value == ONE:
            for j in range(n):
                total[j] += row[j]
        else:
            for j in range(n):
                total[j] += value * row[j]
    return count


@compiled
def drive(x: Array, weight: Array, bias: Array, kind: int, gain: Array, shift: Array, epsilon: Any, out: Array) -> None:
    """norm(W x) for x [S, B, F] -> out [S, B, H]. kind 0: no norm, 1: gain y + shift (batch norm in evaluation), 2: layer norm."""
    steps, batch, n = out.shape
    for t in range(steps):
        for item in range(batch):
            y = out[t, item]
            for j in range(n):
                y[j] = bias[j]
            add_scaled_rows(weight, x[t, item], y)
            if kind == 1:
                for j in range(n):
                    y[j] = y[j] * gain[j] + shift[j]
            elif kind == 2:
                mean = f4(0)
                for j in range(n):
                    mean += y[j]
                mean /= f4(n)
                square = f4(0)
                for j in range(n):
                    y[j] -= mean
                    square += y[j] * y[j]
                r = ONE / np.sqrt(square / f4(n) + epsilon)
                for j in range(n):
                    y[j] = y[j] * r * gain[j] + shift[j]


@compiled
def scan(current: Array, recurrent: Array, recurrent_sum: Array, alpha: Array, beta: Array, a: Array, b: Array, threshold: Any, adaptive: bool,
         symplectic: bool, u: Array, s: Array, w: Array, out: Array) -> None:
    """The neurons of `wavespike.spikes.adaptive` over current [S, B, H] -> spikes in out; the state u, s, w [B, H] is advanced in place.

    Recurrent products add the rows [H, H] (none: [0, H]) of those that fired, or take the rows of those that did not from the sum of all where most fired.
    """
    steps, batch, n = current.shape
    total_row, one_step = np.empty((1, n), np.float32), np.empty(n, np.int32)
    total = total_row[0]
    loops = recurrent.shape[0] > 0
    for item in range(batch):
        ui, si, wi = u[item], s[item], w[item]
        for t in range(steps):
            x, to = current[t, item], out[t, item]
            for j in range(n):
                total[j] = x[j]
            if loops:
                fired, binary = 0, True
                for j in range(n):
                    one_step[fired] = j
                    fired += 1 if si[j] != f4(0) else 0
                    binary &= (si[j] == f4(0)) | (si[j] == ONE)
                if not binary:
                    add_scaled_rows(recurrent, si, total)
                elif 2 * fired <= n:
                    add_row_sums(recurrent, one_step, fired, total_row, 0, 1)
                else:
                    for j in range(n):
                        total[j] += recurrent_sum[j]
                    for i in range(n):
                        if si[i] == f4(0):
                            row = recurrent[i]
                            for j in range(n):
                                total[j] -= row[j]
            if symplectic:
                for j in range(n):
                    v = alpha[j] * ui[j] + (ONE - alpha[j]) * (total[j] - wi[j])
                    fires = v > threshold
                    spike = ONE if fires else f4(0)
                    rest = f4(0) if fires else v
                    wi[j] = beta[j] * wi[j] + (ONE - beta[j]) * (a[j] * rest + b[j] * spike)
                    ui[j], si[j], to[j] = rest, spike, spike
            elif adaptive:
                for j in range(n):
                    adaptation = beta[j] * wi[j] + a[j] * ui[j] + b[j] * si[j]
                    v = alpha[j] * (ui[j] - threshold * si[j]) + (ONE - alpha[j]) * (total[j] - adaptation)
                    spike = ONE if v > threshold else f4(0)
                    wi[j], ui[j], si[j], to[j] = adaptation, v, spike, spike
            else:
                for j in range(n):
                    v = alpha[j] * (ui[j] - threshold * si[j]) + (ONE - alpha[j]) * total[j]
                    spike = ONE if v > threshold else f4(0)
                    ui[j], si[j], to[j] = v, spike, spike


@compiled
def integrate(current: Array, alpha: Array, u: Array) -> None:
    """The read-out's potentials u_t = alpha u_{t-1} + (1 - alpha) x_t in place of current [S, B, H]; u [B, H] is advanced."""
    steps, batch, n = current.shape
    for t in range(steps):
        for item in range(batch):
            x, ui = current[t, item], u[item]
            for j in range(n):
                ui[j] = alpha[j] * ui[j] + (ONE - alpha[j]) * x[j]
                x[j] = ui[j]


@compiled
def add_scores(potentials: Array, softmax: bool, sums: Array) -> None:
    """sums [B, classes] += the softmax of every step's potentials [S, B, classes], or the potentials themselves."""
    steps, batch, n = potentials.shape
    for t in range(steps):
        for item in range(batch):
            x, to = potentials[t, item], sums[item]
            if not softmax:
                for j in range(n):
                    to[j] += x[j]
                continue
            top = x[0]
            for j in range(n):
                top = max(top, x[j])
            total = f4(0)
            for j in range(n):
                x[j] = np.exp(x[j] - top)
                total += x[j]
            for j in range(n):
                to[j] += x[j] / total


@compiled
def cut_frames(samples: Array, hop: int, preemphasis: Any, window: Array, out: Array) -> None:
    """Kaldi's frames of samples [B, T]: mean removed, pre-emphasised, windowed, into out [B, L, n_fft] (zeros beyond the window)."""
    length = window.shape[0]
    for item in range(out.shape[0]):
        for frame in range(out.shape[1]):
            x, to = samples[item, frame * hop : frame * hop + length], out[item, frame]
            mean = f4(0)
            for j in range(length):
                mean += x[j]
            mean /= f4(length)
            to[0] = ((x[0] - mean) - preemphasis * (x[0] - mean)) * window[0]
            for j in range(1, length):
                to[j] = ((x[j] - mean) - preemphasis * (x[j - 1] - mean)) * window[j]


@compiled
def log_energies(spectrum: Array, triangles: Array, first: Array, last: Array, least: Any, out: Array) -> None:
    """log max(sum_k M[m, k] |X_k|^2, least) for spectrum [B, L, bins] -> out [B, L, mels]; filter m spans bins first[m] to last[m]."""
    power = np.empty(spectrum.shape[2], np.float32)
    for item in range(out.shape[0]):
        for frame in range(out.shape[1]):
            x, to = spectrum[item, frame], out[item, frame]
            for k in range(x.shape[0]):
                power[k] = x[k].real * x[k].real + x[k].imag * x[k].imag
            for m in range(out.shape[2]):
                total = f4(0)
                for k in range(first[m], last[m]):
                    total += triangles[m, k] * power[k]
                to[m] = np.log(max(total, least))
