"""A harmonic source in phase with the target: the fundamental's phase measured in the waveform, so that the network need not learn a constant offset.

Equation: z = sum_n w[n] x[n] exp(-j phi(n)) around every frame, phi the integral of the pitch labels; the source's phase at the frame is phi + arg z and
its pitch between frames is what that phase demands.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wavespike.signal.source import integrate_pitch
from wavespike.signal.stft import hann_window


def aligned_pulses(audio: Tensor, f0_hz: Tensor, voiced: Tensor, hop_length: int, sample_rate: int, window: int = 1024) -> Tensor:
    """Unit-variance pulse train [B, T] in phase with the fundamental of `audio` [B, T].

    `f0_hz` [B, L], defined in every frame, and `voiced` [B, L] are labels at the samples 0, hop, 2 hop, ...; L = T // hop + 1.
    """
    phase, pitch = measured_phase(audio, f0_hz, voiced, hop_length, sample_rate, window)
    n = torch.arange(hop_length, device=audio.device)
    pitch = torch.cat([pitch, pitch[:, -1:]], 1)  # [B, L], constant between frames
    angle = phase[:, :, None].to(audio.dtype) + 2 * math.pi / sample_rate * pitch[:, :, None] * n
    count = torch.floor(sample_rate / 2 / pitch)[:, :, None]
    half = torch.sin(angle / 2)
    near = half.abs() < 1e-4
    total = 0.5 * (torch.sin((count + 0.5) * angle) / torch.where(near, 1.0, half) - 1.0)
    total = torch.where(near, count.expand_as(total), total)
    return (total * torch.sqrt(2 / count)).flatten(1)[:, : audio.shape[1]]


def measured_phase(audio: Tensor, f0_hz: Tensor, voiced: Tensor, hop_length: int, sample_rate: int, window: int = 1024) -> tuple[Tensor, Tensor]:
    """Phase of the fundamental at the frames [B, L] (radians) and the pitch between frames that agrees with it [B, L - 1] (hertz)."""
    step = 2 * math.pi * hop_length / sample_rate
    phase = integrate_pitch(f0_hz, hop_length, sample_rate)  # [B, L] float64
    f0 = torch.cat([f0_hz, f0_hz[:, -1:]], 1)
    n = torch.arange(hop_length, device=audio.device)
    glide = f0[:, :-1, None] * n + f0.diff(dim=1)[:, :, None] * n.square() / (2 * hop_length)
    angle = (phase[:, :, None].to(audio.dtype) + 2 * math.pi / sample_rate * glide).flatten(1)[:, : audio.shape[1]]
    turned = torch.stack([audio * torch.cos(angle), -audio * torch.sin(angle)], 1)  # [B, 2, T]
    frames = F.pad(turned, (window // 2, window // 2)).unfold(2, window, hop_length)  # [B, 2, L, window]
    z = (frames * hann_window(window, device=audio.device)).sum(-1) * voiced[:, None]  # [B, 2, L]
    kernel = torch.tensor([0.25, 0.5, 1.0, 0.5, 0.25], device=audio.device)[None, None].expand(2, 1, 5)
    z = F.conv1d(z, kernel, padding=2, groups=2)  # unvoiced frames take their neighbours' phase
    delta = torch.atan2(z[:, 1], z[:, 0] + 1e-9)
    drift = delta.diff(dim=1)
    drift = drift - 2 * math.pi * torch.round(drift / (2 * math.pi))
    pitch = (0.5 * step * (f0_hz[:, 1:] + f0_hz[:, :-1]) + drift) / step
    return (phase + delta).remainder(2 * math.pi), pitch.clamp(40.0, 700.0)
