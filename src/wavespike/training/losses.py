"""Training losses, each with the paper it is from. All take batches and return a scalar tensor."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavespike.nn.pitch import PitchClasses
from wavespike.signal.mel import MelConfig, log_mel
from wavespike.signal.stft import stft


class MultiScaleMelLoss(nn.Module):
    """L1 between natural-log mel spectrograms at several resolutions (as in DAC, Kumar et al., 2023), waveforms [B, T].

    Default: FFT 2048 1024 512 256 128, hop a quarter, 160 100 64 40 20 HTK mels, clip 1e-5; the mean over the scales.
    """

    def __init__(self, sample_rate: int, scales: tuple[tuple[int, int], ...] = ((2048, 160), (1024, 100), (512, 64), (256, 40), (128, 20))):
        super().__init__()
        self.configs = [MelConfig(sample_rate=sample_rate, n_fft=n, hop_length=n // 4, n_mels=m, clip=1e-5) for n, m in scales]

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        terms = [F.l1_loss(log_mel(predicted, c), log_mel(target, c)) for c in self.configs]
        return torch.stack(terms).mean()


def anti_wrapped(x: Tensor) -> Tensor:
    """|x - 2 pi round(x / 2 pi)|, gradient +-1: the rounding is detached (Ai and Ling, 2023)."""
    return (x - 2 * math.pi * torch.round(x / (2 * math.pi)).detach()).abs()


def phase_losses(predicted: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Instantaneous phase, group delay and phase time difference losses (Ai and Ling, 2023) of phases [B, F, L] in radians.

    Departure: an optional weight [B, F, L]. Unlike the published Spiking Vocos, the gradient is not zero.
    """
    w = torch.ones_like(target) if weight is None else weight
    d = predicted - target
    ip = (anti_wrapped(d) * w).mean()
    gd = (anti_wrapped(d.diff(dim=1)) * w[:, 1:]).mean()
    ptd = (anti_wrapped(d.diff(dim=2)) * w[..., 1:]).mean()
    return ip, gd, ptd


def magnitude_weight(spectrum: Tensor) -> Tensor:
    """sqrt of the magnitude over its mean, clipped at sqrt(5): phase matters where there is energy. [B, F, L]"""
    w = spectrum.abs()
    return (w / (w.mean((1, 2), keepdim=True) + 1e-6)).clamp(max=5).sqrt()


def waveform_phase_loss(predicted: Tensor, target: Tensor, n_fft: int = 1024, hop_length: int = 256) -> Tensor:
    """Sum of the three phase losses between two waveforms [B, T], weighted by the target's magnitude."""
    x, y = stft(target, n_fft, hop_length), stft(predicted, n_fft, hop_length)
    return torch.stack(phase_losses(y.angle(), x.angle(), magnitude_weight(x))).sum()


def pitch_losses(logits: Tensor, voicing: Tensor, f0_hz: Tensor, voiced: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of the pitch classes [B, L, bins] in voiced frames, against a Gaussian of 1.25 classes (25 cents), and binary cross entropy of the voicing [B, L]."""
    place = PitchClasses.class_of(f0_hz.clamp(1.02 * PitchClasses.F_MIN_HZ, 0.99 * PitchClasses.F_MAX_HZ))[..., None]
    target = torch.softmax(-0.5 * ((torch.arange(PitchClasses.BINS, device=logits.device) - place) / 1.25) ** 2, -1)
    entropy = -(target * F.log_softmax(logits, -1)).sum(-1)
    pitch = (entropy * voiced).sum() / voiced.sum().clamp_min(1)
    return pitch, F.binary_cross_entropy_with_logits(voicing, voiced)
