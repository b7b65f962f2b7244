"""Pitch and voicing from log-mel features (after CREPE, Kim et al., 2018: classes 20 cents apart, weighted average around the best).

The network computes in float64: its pitch is integrated over minutes, and what float32 rounds differently from one cutting of a stream to another would
grow with time. It is small (a twentieth of the vocoder), so this costs little.

Equation: f0 = exp(sum_i p_i log f_i / sum_i p_i) over the four classes either side of the most probable one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavespike.nn.convnext import ConvNeXtBackbone, ConvNeXtConfig, in_pieces


class PitchClasses(nn.Linear):
    """Hidden frames [..., dim] -> class logits [..., bins] and the voicing logit [..., 1], side by side."""

    F_MIN_HZ, F_MAX_HZ, STEP_CENTS, REACH = 55.0, 550.0, 20.0, 4
    BINS = math.ceil(1200 * math.log2(F_MAX_HZ / F_MIN_HZ) / STEP_CENTS) + 1

    def __init__(self, dim: int):
        super().__init__(dim, self.BINS + 1)

    @classmethod
    def class_of(cls, f0_hz: Tensor) -> Tensor:
        """Fractional class of a frequency in hertz."""
        return 1200 / cls.STEP_CENTS * torch.log2(f0_hz / cls.F_MIN_HZ)

    @classmethod
    def hertz(cls, logits: Tensor) -> Tensor:
        """Pitch [...] of class logits [..., bins]."""
        best = logits.argmax(-1, keepdim=True)
        index = (best + torch.arange(-cls.REACH, cls.REACH + 1, device=logits.device)).clamp(0, cls.BINS - 1)
        weight = torch.softmax(logits.gather(-1, index), -1)
        return cls.F_MIN_HZ * torch.exp((weight * index).sum(-1) * (math.log(2) * cls.STEP_CENTS / 1200))


class PitchReadout(nn.Module):
    """Hidden frames [B, L, dim] of another network -> class logits [B, L, bins] and voicing logits [B, L], float64."""

    F_MIN_HZ, F_MAX_HZ = PitchClasses.F_MIN_HZ, PitchClasses.F_MAX_HZ

    def __init__(self, dim: int):
        super().__init__()
        self.bins = PitchClasses.BINS
        self.out = PitchClasses(dim)
        self.double()

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.split(hidden.to(self.out.weight.dtype))

    def split(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden frames [B, L, dim] -> logits of the classes and of voicing."""
        out = self.out(hidden)
        return out[..., :-1], out[..., -1]

    def decode(self, logits: Tensor, voicing_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Pitch in hertz [B, L], defined in every frame, and the probability of voicing [B, L].

        Unvoiced frames take the pitch of voiced neighbours (a Gaussian of three frames either side), so that onsets do not glide.
        """
        voiced = torch.sigmoid(voicing_logits)
        return self.fill(PitchClasses.hertz(logits), voiced), voiced

    @staticmethod
    def fill(f0_hz: Tensor, voiced: Tensor) -> Tensor:
        """Smooth the pitch of unvoiced frames by their voiced neighbours, [B, L]."""
        kernel = torch.exp(-0.5 * (torch.arange(-3, 4, device=f0_hz.device, dtype=f0_hz.dtype) / 1.5) ** 2)[None, None]
        weight = voiced**4
        near = F.conv1d(F.pad((weight * f0_hz)[:, None], (3, 3)), kernel)[:, 0]
        total = F.conv1d(F.pad(weight[:, None], (3, 3)), kernel)[:, 0]
        filled = (near + 1e-3 * f0_hz) / (total + 1e-3)
        return voiced * f0_hz + (1 - voiced) * filled


class PitchEstimator(PitchReadout):
    """Features [B, C, L] -> class logits [B, L, bins] and voicing logits [B, L], float64: a readout with a network of its own."""

    def __init__(self, input_channels: int, dim: int = 96, num_layers: int = 4, causal: bool = False):
        super().__init__(dim)
        self.backbone = ConvNeXtBackbone(
            ConvNeXtConfig(input_channels=input_channels, dim=dim, intermediate_dim=3 * dim, num_layers=num_layers, causal=causal)
        )
        self.double()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        out = in_pieces(lambda x: self.out(self.backbone(x)), features.to(self.out.weight.dtype), self.backbone.context_frames, self.bins + 1)
        return out[..., :-1], out[..., -1]
