"""Spectral envelope from a mel, and the time-frequency filter that shapes noise with it (SpecGrad, Koizumi et al., 2022).

Equations: r = irfft(log A), A the magnitudes that the mel implies; M = exp(rfft(r w)) / sqrt(sum h^2) + floor with w the lifter of order n (quefrencies 0..n kept)
and h the STFT window; L = G+ diag(M) G with G the STFT and G+ its inverse, L^-1 ~ G+ diag(1/M) G.
Scale: unit white noise has the STFT power sum h^2, so L e with e ~ N(0, I) has the power spectrum A_smooth^2 of the speech itself; nothing is renormalised.
Departures: the pseudo-inverse is held above what the transposed bank gives, because the logarithm of its negative and near-zero bins would drag the
envelope down; the envelope may be smoothed over frames, because L^-1 is an inverse only where M moves slowly; `whiten` can refine its result.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wavespike.signal.griffin_lim import scaled
from wavespike.signal.mel import MelConfig, linear_mel, magnitude_from_mel, mel_filterbank
from wavespike.signal.stft import hann_window, istft, stft

LifterPhase = Literal["zero", "minimum"]


def mel_magnitude(features: Tensor, mel: MelConfig, floor: float = 1e-4) -> Tensor:
    """max(pinv(B) exp(c), the mean of the bands that a bin belongs to, floor): magnitudes [..., n_fft//2+1, L] without holes, from log-mel [..., n_mels, L].

    Bins outside all bands take the nearest one inside.
    """
    bank = mel_filterbank(mel).to(features)
    share = bank / bank.sum(0).clamp_min(1e-3) / bank.sum(1, keepdim=True).clamp_min(1e-3)  # a bin is the mean of its bands, a band the mean of its bins
    spread = torch.matmul(share.T, linear_mel(features, mel))
    if mel.power != 1.0:
        spread = torch.pow(spread, 1.0 / mel.power)
    whole = torch.maximum(magnitude_from_mel(features, mel, floor), spread)
    inside = (bank.sum(0) > 1e-3).nonzero()[:, 0]
    return whole if len(inside) == whole.shape[-2] else whole[..., _nearest(inside, whole.shape[-2]), :]


def _nearest(inside: Tensor, bins: int) -> Tensor:
    """For each of `bins` the nearest of the bins `inside` (increasing)."""
    at = torch.arange(bins, device=inside.device)
    right = torch.searchsorted(inside, at).clamp(1, len(inside) - 1)
    low, high = inside[right - 1], inside[right]
    return torch.where(at - low <= high - at, low, high)


def cepstral_envelope(magnitude: Tensor, n_fft: int, order: int = 24, phase: LifterPhase = "zero") -> Tensor:
    """Smooth spectrum of magnitudes [..., n_fft//2+1, L] above 0: real for zero phase, complex for minimum phase, its modulus the same.

    Keeps the quefrencies 0..order (in samples) of both sides.
    """
    cepstrum = torch.fft.irfft(torch.log(magnitude), n=n_fft, dim=-2)
    n = torch.arange(n_fft, device=magnitude.device)
    if phase == "zero":
        lifter = ((n <= order) | (n >= n_fft - order)).to(magnitude.dtype)
    else:  # fold the negative quefrencies onto the positive ones
        lifter = torch.where(n == 0, 1.0, torch.where(n <= order, 2.0, 0.0)).to(magnitude.dtype)
    log_envelope = torch.fft.rfft(cepstrum * lifter[:, None], dim=-2)
    return torch.exp(log_envelope.real) if phase == "zero" else torch.exp(log_envelope)


def smooth_frames(log_magnitude: Tensor, width: int) -> Tensor:
    """Hann-weighted mean over `width` (odd) neighbouring frames, [..., F, L] -> the same; the ends are repeated."""
    if width == 1:
        return log_magnitude
    weight = hann_window(width + 1, dtype=log_magnitude.dtype, device=log_magnitude.device)[1:]
    flat = log_magnitude.reshape(-1, 1, log_magnitude.shape[-1])  # [B * F, 1, L]
    padded = F.pad(flat, (width // 2, width // 2), mode="replicate")
    out: Tensor = F.conv1d(padded, (weight / weight.sum())[None, None]).reshape(log_magnitude.shape)
    return out


def window_energy(n_fft: int, win_length: int | None = None) -> float:
    """sum h^2 of the periodic Hann window: the STFT power of unit white noise."""
    return 0.375 * (n_fft if win_length is None else win_length)


def shaping_filter(features: Tensor, mel: MelConfig, order: int = 24, phase: LifterPhase = "zero", floor: float = 1e-4, frames: int = 3) -> Tensor:
    """The filter M [..., n_fft//2+1, L] of log-mel features [..., n_mels, L]; real for zero phase, complex for minimum phase.

    `floor` is added to its modulus, in units of the noise's deviation; `frames` (odd) are averaged.
    """
    magnitude = torch.exp(smooth_frames(torch.log(mel_magnitude(features, mel)), frames))
    envelope = cepstral_envelope(magnitude, mel.n_fft, order, phase) / math.sqrt(window_energy(mel.n_fft, mel.win_length))
    if not envelope.is_complex():
        return envelope + floor
    return scaled(envelope, 1 + floor / envelope.abs())


def apply_filter(x: Tensor, response: Tensor, mel: MelConfig) -> Tensor:
    """G+ diag(response) G x: a time-varying filter in the STFT domain, waveform [..., T] -> [..., T].

    `response` [..., n_fft//2+1, L] has a column for every frame of x.
    """
    spectrum = stft(x, mel.n_fft, mel.hop_length, mel.win_length, mel.padding)
    shaped = spectrum * response if response.is_complex() else scaled(spectrum, response)
    return istft(shaped, mel.n_fft, mel.hop_length, mel.win_length, mel.padding)


def shape_noise(noise: Tensor, response: Tensor, mel: MelConfig) -> Tensor:
    """L e = G+ diag(M) G e, [..., T]."""
    return apply_filter(noise, response, mel)


def whiten(x: Tensor, response: Tensor, mel: MelConfig, refinements: int = 0) -> Tensor:
    """L^-1 x ~ G+ diag(1/M) G x, [..., T]: the inverse up to how fast M changes over time and frequency.

    Each refinement adds the same inverse of what is left, w <- w + W (x - L w).
    """
    inverse = response.reciprocal()
    out = apply_filter(x, inverse, mel)
    for _ in range(refinements):
        out = out + apply_filter(x - apply_filter(out, response, mel), inverse, mel)
    return out


def frame_energy(features: Tensor, mel: MelConfig) -> Tensor:
    """PriorGrad's energy sqrt(sum exp(c)) of log-mel features [..., n_mels, L] -> [..., L] (Lee et al., 2022)."""
    return linear_mel(features, mel).sum(-2).sqrt()
