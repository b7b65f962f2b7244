"""Losses of codecs: those of AudioDec's training (Wu et al., 2023), and ours on spectra; waveforms [B, T] unless said."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wavespike.errors import ConfigError
from wavespike.signal.mel import MelConfig, mel_filterbank
from wavespike.signal.stft import stft

STFT_RESOLUTIONS: tuple[tuple[int, int, int], ...] = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
"""FFT, hop and window in samples, as published (Yamamoto et al., Parallel WaveGAN, 2020)."""


def codec_mel_config(sample_rate: int) -> MelConfig:
    """The published mel loss: 80 Slaney bands of 0..rate/2, FFT 2048, hop 300, natural logarithm."""
    return MelConfig(sample_rate=sample_rate, n_fft=2048, hop_length=300, n_mels=80, norm="slaney", mel_scale="slaney", clip=1e-10)


def _magnitude(x: Tensor, n_fft: int, hop: int, window: int) -> Tensor:
    spectrum = torch.stft(x, n_fft, hop, window, torch.hann_window(window, device=x.device, dtype=x.dtype), return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square()).clamp_min(1e-7).sqrt()


def multi_resolution_stft_loss(predicted: Tensor, target: Tensor, resolutions: tuple[tuple[int, int, int], ...] = STFT_RESOLUTIONS) -> Tensor:
    """Mean over resolutions of ||Y| - |X||_F / ||X||_F + mean |log |Y| - log |X||."""
    total = predicted.new_zeros(())
    for n_fft, hop, window in resolutions:
        if target.shape[-1] <= n_fft // 2:
            raise ConfigError(f"expected crops longer than {n_fft // 2} samples for this loss, got {target.shape[-1]}; raise data.crop_samples")
        y, x = _magnitude(predicted, n_fft, hop, window), _magnitude(target, n_fft, hop, window)
        convergence = torch.linalg.vector_norm(x - y) / torch.linalg.vector_norm(x)
        total = total + convergence + F.l1_loss(y.log(), x.log())
    return total / len(resolutions)


def waveform_shape_loss(predicted: Tensor, target: Tensor, window: int = 300) -> Tensor:
    """L1 between the maxima of |x| in consecutive windows: the envelope."""
    ours, theirs = (F.max_pool1d(x.abs()[:, None], window) for x in (predicted, target))
    return F.l1_loss(ours, theirs)


SPECTRA: tuple[tuple[int, int, int], ...] = ((1024, 256, 64), (512, 128, 40))
"""FFT, hop and mel bands of the two losses on spectra."""


def spectra(x: Tensor) -> list[Tensor]:
    """Complex spectra of a waveform [B, T] at the resolutions of `SPECTRA`: computed once for both losses."""
    return [stft(x, n_fft, hop) for n_fft, hop, _ in SPECTRA]


def compressed_spectrum_loss(predicted: Sequence[Tensor], target: Sequence[Tensor], exponent: float = 0.3) -> Tensor:
    """Mean over resolutions of |Y |Y|^(c-1) - X |X|^(c-1)|_1: magnitude and phase, loudness compressed (Braun and Tashev, 2021); of `spectra`.

    Departure: L1 of real and imaginary parts instead of squares.
    """

    def compressed(x: Tensor) -> Tensor:
        parts = torch.view_as_real(x)
        return parts * (parts.square().sum(-1, keepdim=True) + 1e-5).pow(0.5 * (exponent - 1))

    return torch.stack([F.l1_loss(compressed(y), compressed(x)) for y, x in zip(predicted, target, strict=True)]).mean()


def loudness_loss(predicted: Sequence[Tensor], target: Sequence[Tensor], sample_rate: int, exponent: float = 0.23, floor_db: float = -50.0) -> Tensor:
    """Mean over resolutions of |N(y) - N(x)|_1 / |N(x)|_1 with N = (mel power + floor)^0.23, a specific loudness (Zwicker and Fastl, 1990); of `spectra`.

    What perceptual measures compare (ITU-T P.862 is one): loud bands count more than in a logarithm, faint ones less. The floor, a threshold of
    hearing, lies `floor_db` under the mean power of the target's bands.
    """
    terms = []
    for y, x, (n_fft, hop, bands) in zip(predicted, target, SPECTRA, strict=True):
        bank = mel_filterbank(MelConfig(sample_rate=sample_rate, n_fft=n_fft, hop_length=hop, n_mels=bands)).to(x.real)
        power, other = (torch.matmul(bank, torch.view_as_real(s).square().sum(-1)) for s in (x, y))
        floor = 10 ** (floor_db / 10) * power.mean((1, 2), keepdim=True) + 1e-8
        loud = (power + floor).pow(exponent)
        terms.append((((other + floor).pow(exponent) - loud).abs().mean((1, 2)) / loud.mean((1, 2))).mean())
    return torch.stack(terms).mean()
