"""Adversarial losses over several discriminators. Scores are lists of tensors, feature maps lists of lists, one entry a discriminator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wavespike.errors import ConfigError
from wavespike.signal.mel import MelConfig, log_mel

AdversarialLoss = Literal["hinge", "lsgan"]


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor], kind: AdversarialLoss = "hinge") -> Tensor:
    """Hinge (Lim and Ye, 2017): mean relu(1 - D(x)) + relu(1 + D(y)); LSGAN (Mao et al., 2017): mean (1 - D(x))^2 + D(y)^2. Mean over discriminators."""
    if kind == "hinge":
        terms = [F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)]
    else:
        terms = [(1 - r).square().mean() + f.square().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def generator_loss(fake: Sequence[Tensor], kind: AdversarialLoss = "hinge") -> Tensor:
    """Hinge as in Vocos: mean relu(1 - D(y)); LSGAN: mean (1 - D(y))^2. Mean over discriminators."""
    terms = [(F.relu(1 - f) if kind == "hinge" else (1 - f).square()).mean() for f in fake]
    return torch.stack(terms).mean()


def feature_matching_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Feature matching (Kumar et al., MelGAN, 2019): sum over maps of mean |map(x) - map(y)|, divided by the number of discriminators.

    The real maps are targets: no gradient flows into them.
    """
    terms = [F.l1_loss(f.float(), r.detach().float()) for rs, fs in zip(real, fake, strict=True) for r, f in zip(rs, fs, strict=True)]
    return torch.stack(terms).sum() / len(real)


def mel_loss_config(sample_rate: int) -> MelConfig:
    """Resolution of the mel loss: 1024/256 and 100 bands at 24 kHz, and the same in milliseconds (to a power of two) at other rates.

    Departure from Vocos, which keeps 1024/256 at every rate.
    """
    n_fft = 2 ** max(6, round(math.log2(1024 * sample_rate / 24000)))
    return MelConfig(sample_rate=sample_rate, n_fft=n_fft, hop_length=n_fft // 4, n_mels=100 if n_fft >= 512 else 40)


def mel_loss(predicted: Tensor, target: Tensor, config: MelConfig) -> Tensor:
    """L1 between natural-log mel spectrograms (Kong et al., HiFi-GAN, 2020) of waveforms [B, T]."""
    return F.l1_loss(log_mel(predicted, config), log_mel(target, config))


def cosine_weight(weight: float, step: int, steps: int, start: int = 0) -> float:
    """A weight that falls from its value at `start` to 0 at `steps`: w (1 + cos(pi (n - start) / (steps - start))) / 2."""
    done = min(1.0, max(0.0, (step - start) / max(1, steps - start)))
    return weight * 0.5 * (1 + math.cos(math.pi * done))


def same_length(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cut two waveforms [B, T] to the shorter one: a head with `center` padding returns (L - 1) * hop samples, whatever the crop was.

    Raises ConfigError when they differ by more than a tenth: then the model's hop is not its features' hop.
    """
    n = min(predicted.shape[-1], target.shape[-1])
    if n < 0.9 * max(predicted.shape[-1], target.shape[-1]):
        raise ConfigError(f"expected about {target.shape[-1]} samples from the model, got {predicted.shape[-1]}; do the head's and the features' hop_length agree?")
    return predicted[..., :n], target[..., :n]


