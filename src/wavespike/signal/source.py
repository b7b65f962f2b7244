"""Harmonic source and noise source: the two excitations of voiced and unvoiced speech (Fant, 1960), given a pitch track.

Equation: phi(n) = 2 pi / sr * integral of f0, e(n) = sqrt(2/K) * sum_{k=1..K} cos(k phi(n)) with K = floor(sr / (2 f0)), summed in closed form
(Dirichlet kernel). The train of pulses has unit variance and every harmonic below half the sampling rate.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from wavespike.signal.stft import Padding, frame_blocks
from wavespike.threads import cut, run_all, share

SILENT = 0.1
"""Probability of voicing below which the harmonic source is not heard."""


def integrate_pitch(f0_hz: Tensor, hop_length: int, sample_rate: int, start_phase: Tensor | None = None, voiced: Tensor | None = None) -> Tensor:
    """Phase of the fundamental at each frame, [B, L] hertz -> [B, L] float64 radians, wrapped to [0, 2 pi).

    f0 is linear between frames, so the phase advances by the trapezoid rule. `start_phase` [B] is the phase at the first frame. Where `voiced` [B, L]
    is below SILENT the phase starts anew from 0: nothing is heard there, and no error of pitch lives longer than a voiced stretch.
    """
    f0 = f0_hz.double()
    step = math.pi * hop_length / sample_rate * (f0[:, 1:] + f0[:, :-1])  # [B, L-1]
    start = f0.new_zeros(f0.shape[0]) if start_phase is None else start_phase.double()
    return _accumulated(step, start, None if voiced is None else voiced < SILENT)


def _accumulated(step: Tensor, start: Tensor, silent: Tensor | None) -> Tensor:
    """Start [B] and steps [B, L-1] in radians -> phases [B, L] in [0, 2 pi), 0 in the frames [B, L] that are silent."""
    phase = torch.cat([start[:, None], start[:, None] + torch.cumsum(step, 1)], 1)
    if silent is not None:
        anew = torch.where(silent, torch.arange(1, phase.shape[1] + 1, device=phase.device), 0).cummax(1).values  # 0: not yet
        base = torch.cat([phase.new_zeros(phase.shape[0], 1), phase], 1).gather(1, anew)
        phase = phase - base
    return phase.remainder(2 * math.pi)


def harmonic_source(f0_hz: Tensor, phase: Tensor, hop_length: int, sample_rate: int) -> Tensor:
    """Unit-variance pulse train of a pitch track: f0 [B, L] hertz, phase [B, L] radians at the frames -> [B, (L-1)*hop].

    Sample n of segment l has phase phi_l + 2 pi/sr (f_l n + (f_{l+1} - f_l) n^2 / (2 hop)).
    """
    segments = (f0_hz[:, :-1], f0_hz.diff(dim=1), phase[:, :-1].to(f0_hz.dtype))
    length = segments[0].shape[1]
    if (count := share(length)) == 1:
        return torch.cat([_pulses(f0, change, start, hop_length, sample_rate) for f0, change, start in frame_blocks(*segments)], 1)
    out = f0_hz.new_empty(f0_hz.shape[0], length * hop_length)

    def work(piece: tuple[int, int]) -> None:
        at = piece[0]
        for f0, change, start in frame_blocks(*(s[:, slice(*piece)] for s in segments)):
            out[:, at * hop_length : (at + f0.shape[1]) * hop_length] = _pulses(f0, change, start, hop_length, sample_rate)
            at += f0.shape[1]

    run_all(work, cut(length, count))
    return out


def _pulses(f0_hz: Tensor, change_hz: Tensor, phase: Tensor, hop_length: int, sample_rate: int) -> Tensor:
    """The segments [B, l] of `harmonic_source`, [B, l * hop]."""
    n = torch.arange(hop_length, dtype=f0_hz.dtype, device=f0_hz.device)
    here, change = f0_hz[:, :, None], change_hz[:, :, None]
    angle = phase[:, :, None] + 2 * math.pi / sample_rate * (here * n + change * (n.square() / (2 * hop_length)))
    count = torch.floor(sample_rate / 2 / (here + change * (n / hop_length)))  # harmonics below half the rate, [B, l, hop]
    # sum_{k=1..K} cos(k a) = (sin((K + 1/2) a) / sin(a / 2) - 1) / 2; near a = 0 (mod 2 pi) its limit K
    half = torch.sin(angle / 2)
    near = half.abs() < 1e-4
    total = 0.5 * (torch.sin((count + 0.5) * angle) / torch.where(near, 1.0, half) - 1.0)
    total = torch.where(near, count, total)
    return (total * torch.sqrt(2.0 / count)).flatten(1)


def sources(f0_hz: Tensor, phase: Tensor, offset_samples: Tensor, hop_length: int, sample_rate: int, padding: Padding,
            pulses: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The harmonic and the noise source of L frames, waveforms [B, T] as long as the frames' inverse STFT.

    f0 [B, L] hertz, phase [B, L] radians at the frames, offset [B] int64: position of the first sample in the whole signal.
    `pulses` [B, T] stands in for the harmonic source.
    """
    if pulses is None:
        last = f0_hz[:, -1:]  # the source runs one hop past the last frame, at its pitch; the phase at the end of that hop is not asked for
        pulses = harmonic_source(torch.cat([f0_hz, last], 1), torch.cat([phase, phase[:, -1:]], 1), hop_length, sample_rate)
        if padding == "center":  # L frames span (L-1) hops
            pulses = pulses[:, : max(1, (f0_hz.shape[1] - 1) * hop_length)]
    length = pulses.shape[-1]
    if (count := share(length // hop_length)) == 1:
        return pulses, counter_noise(offset_samples, length, pulses.dtype)
    noise = torch.empty_like(pulses)

    def work(piece: tuple[int, int]) -> None:
        noise[:, slice(*piece)] = counter_noise(offset_samples + piece[0], piece[1] - piece[0], noise.dtype)

    run_all(work, cut(length, count))
    return pulses, noise


def counter_noise(start: Tensor, length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """White, uniform, unit-variance noise that depends on the sample's position only: start [B] int64 -> [B, length].

    A counter-based generator (the finaliser of MurmurHash3, Appleby 2011, on the sample index): the noise of samples a..b is the same however the
    signal is cut, so a stream equals the whole.
    """
    n = (start[:, None] + torch.arange(length, device=start.device)).to(torch.int32)  # the last 32 bits: products wrap as they should
    h = n * _int32(0x9E3779B1)
    h = (h ^ ((h >> 16) & 0xFFFF)) * _int32(0x85EBCA6B)  # `>>` repeats the sign: keep the bits of an unsigned shift
    h = (h ^ ((h >> 13) & 0x7FFFF)) * _int32(0xC2B2AE35)
    h = h ^ ((h >> 16) & 0xFFFF)
    # h read as unsigned, / 2^31 - 1: the sign bit turned over and read as signed
    return ((h ^ _int32(0x80000000)).to(dtype) * (math.sqrt(3.0) / 2**31)).to(dtype)


def _int32(bits: int) -> int:
    """32 bits read as a signed number."""
    return bits - 2**32 if bits >= 2**31 else bits


@dataclasses.dataclass
class PulseState:
    """Where a pulse train that is made hop by hop stands: pitch class, pitch in hertz, voicing and phase at the last node, each [B]."""

    index: Tensor
    f0_hz: Tensor
    voiced: Tensor
    phase: Tensor

    @classmethod
    def silent(cls, batch_size: int, device: torch.device | str = "cpu", phase: Tensor | None = None) -> PulseState:
        """Before the first hop; `phase` [B] radians is where the train begins."""
        zero = torch.zeros(batch_size, dtype=torch.float64, device=device)
        none = torch.zeros(batch_size, dtype=torch.int64, device=device)
        return cls(none, zero + 150.0, none > 0, zero if phase is None else phase)

    def hold(self, index: Tensor, missing: Tensor | None) -> Tensor:
        """Pitch classes [B, l], those of missing frames replaced by the last that was heard."""
        if index.shape[1] == 0:
            return index
        if missing is not None:
            known = torch.cat([self.index[:, None], index], 1)
            place = torch.where(missing, 0, torch.arange(1, known.shape[1], device=index.device)).cummax(1).values
            index = known.gather(1, place)
        self.index = index[:, -1]
        return index


def pulse_segments(f0_hz: Tensor, voiced: Tensor, state: PulseState, hop_length: int, sample_rate: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The next hops of a unit-variance pulse train whose nodes, pitch [B, l] float64 and voicing [B, l] bool, lie at their ends -> [B, l * hop].

    Between two voiced nodes the pitch is linear; beside an unvoiced one it is that of the voiced, and the train fades. The phase starts anew where
    neither is voiced, so that no error lives longer than a voiced stretch. `state` goes on.
    """
    if f0_hz.shape[1] == 0:
        return f0_hz.new_zeros(f0_hz.shape[0], 0, dtype=dtype)
    before_v = torch.cat([state.voiced[:, None], voiced[:, :-1]], 1)
    before_f = torch.cat([state.f0_hz[:, None], f0_hz[:, :-1]], 1)
    first = torch.where(before_v, before_f, torch.where(voiced, f0_hz, 150.0))
    last = torch.where(voiced, f0_hz, torch.where(before_v, before_f, 150.0))
    silent = torch.cat([torch.zeros_like(voiced[:, :1]), ~(voiced | before_v)], 1)
    phase = _accumulated(math.pi * hop_length / sample_rate * (first + last), state.phase, silent)  # [B, l + 1]
    state.f0_hz, state.voiced, state.phase = f0_hz[:, -1], voiced[:, -1], phase[:, -1]
    here, rise = first.to(dtype), (last - first).to(dtype)
    train = torch.cat([_pulses(f0, change, start, hop_length, sample_rate) for f0, change, start in frame_blocks(here, rise, phase[:, :-1].to(dtype))], 1)
    share = torch.arange(hop_length, dtype=dtype, device=f0_hz.device) / hop_length
    gain = before_v.to(dtype)[..., None] * (1 - share) + voiced.to(dtype)[..., None] * share  # [B, l, hop]
    return train * gain.flatten(1)
