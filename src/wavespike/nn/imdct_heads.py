"""MDCT heads (Vocos, Siuzdak, 2023, section 3.4): real coefficients instead of a complex spectrum, critically sampled.

Equation, symexp: X = sign(z) (exp|z| - 1), clipped to +-100; cos: X = min(exp m, 100) cos p; waveform = IMDCT(X).
Departures: `clip_audio` clips the waveform to -1..1 (the original clips the coefficients and returns those).
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from wavespike.config import Config
from wavespike.errors import ConfigError
from wavespike.signal.mdct import imdct
from wavespike.signal.stft import Padding

LIMIT = 100.0


def _check_frame(frame_length: int) -> None:
    if frame_length < 2 or frame_length % 2:
        raise ConfigError(f"head.mdct_frame_len: expected an even number of samples, got {frame_length}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class IMDCTSymExpHeadConfig(Config):
    """`sample_rate` in hertz scales the initial weights down towards high frequencies, in mel steps; None leaves them alone."""

    type_name: ClassVar[str] = "imdct-symexp"

    dim: int = 512
    mdct_frame_len: int = 512
    padding: Padding = "same"
    sample_rate: int | None = None
    clip_audio: bool = False

    def __post_init__(self) -> None:
        _check_frame(self.mdct_frame_len)

    @property
    def hop_length(self) -> int:
        return self.mdct_frame_len // 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class IMDCTCosHeadConfig(Config):
    """A magnitude and a phase a coefficient."""

    type_name: ClassVar[str] = "imdct-cos"

    dim: int = 512
    mdct_frame_len: int = 512
    padding: Padding = "same"
    clip_audio: bool = False

    def __post_init__(self) -> None:
        _check_frame(self.mdct_frame_len)

    @property
    def hop_length(self) -> int:
        return self.mdct_frame_len // 2


class IMDCTHead(nn.Module):
    """Hidden frames [B, L, dim] -> coefficients [B, N, L] -> waveform [B, T]; the configuration says how coefficients are made."""

    def __init__(self, config: IMDCTSymExpHeadConfig | IMDCTCosHeadConfig):
        super().__init__()
        self.config = config
        bins = config.mdct_frame_len // 2
        self.out = nn.Linear(config.dim, bins if isinstance(config, IMDCTSymExpHeadConfig) else 2 * bins)
        rate = getattr(config, "sample_rate", None)
        if rate is not None:
            mel_max = 2595.0 * math.log10(1.0 + rate / 2 / 700.0)
            hertz = 700.0 * (10.0 ** (torch.linspace(0.0, mel_max, bins) / 2595.0) - 1.0)
            with torch.no_grad():
                self.out.weight.mul_((1.0 - hertz / hertz[-1])[:, None])

    @property
    def context_frames(self) -> tuple[int, int]:
        """Frames before and after that touch one hop of output."""
        return 2, 2

    def coefficients(self, hidden: Tensor) -> Tensor:
        """Hidden frames [B, L, dim] -> MDCT coefficients [B, N, L]."""
        z = self.out(hidden).transpose(1, 2)
        if isinstance(self.config, IMDCTSymExpHeadConfig):
            return torch.sign(z) * torch.expm1(z.abs().clamp(max=math.log1p(LIMIT)))  # the clip inside keeps the gradient finite
        log_magnitude, phase = z.chunk(2, 1)
        return torch.exp(log_magnitude.clamp(max=math.log(LIMIT))) * torch.cos(phase)

    def forward(self, hidden: Tensor, features: Tensor) -> Tensor:
        audio = imdct(self.coefficients(hidden), self.config.mdct_frame_len, self.config.padding)
        return audio.clamp(-1.0, 1.0) if self.config.clip_audio else audio
