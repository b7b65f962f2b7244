"""Losses of codecs: those of AudioDec's training (Wu et al., 2023), and a compressed complex spectrum; waveforms [B, T]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wavespike.errors import ConfigError
from wavespike.signal.mel import MelConfig
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


def compressed_spectrum_loss(predicted: Tensor, target: Tensor, exponent: float = 0.3, resolutions: tuple[tuple[int, int], ...] = ((1024, 256), (512, 128))) -> Tensor:
    """Mean over resolutions (FFT, hop) of |Y |Y|^(c-1) - X |X|^(c-1)|_1: magnitude and phase, loudness compressed (Braun and Tashev, 2021).

    Departure: L1 of real and imaginary parts instead of squares.
    """

    def compressed(x: Tensor, n_fft: int, hop: int) -> Tensor:
        spectrum = torch.view_as_real(stft(x, n_fft, hop))
        return spectrum * (spectrum.square().sum(-1, keepdim=True) + 1e-5).pow(0.5 * (exponent - 1))

    terms = [F.l1_loss(compressed(predicted, n, h), compressed(target, n, h)) for n, h in resolutions]
    return torch.stack(terms).mean()
