"""Pitch as a code of its own beside residual vector quantisation: a codec's decoder gets an exact number, whatever computed it.

Equation: class 0 is unvoiced, class k = 1..N-1 is f_min (f_max / f_min)^((k - 1) / (N - 2)): with N = 1024 a grid of 4 cents from 55 to 550 Hz.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from wavespike.errors import UsageError
from wavespike.nn.pitch import PitchClasses
from wavespike.nn.rvq import Quantized, ResidualVQ, RVQConfig, code_histogram, perplexity, usage

NOT_SENT = -1
"""Class of a pitch that was not transmitted: fewer codebooks were."""


@dataclasses.dataclass(frozen=True)
class PitchScale:
    """The classes of a codebook of `size` entries."""

    size: int
    f_min_hz: float = PitchClasses.F_MIN_HZ
    f_max_hz: float = PitchClasses.F_MAX_HZ

    def index(self, f0_hz: Tensor, voiced: Tensor) -> Tensor:
        """The nearest class [...] int64 of a pitch; 0 where not voiced."""
        place = torch.log(f0_hz / self.f_min_hz) * ((self.size - 2) / math.log(self.f_max_hz / self.f_min_hz))
        return torch.where(voiced, place.round().clamp(0, self.size - 2) + 1, 0.0).long()

    def hertz(self, index: Tensor) -> Tensor:
        """float64 [...]; of class 0 and below it means nothing."""
        return self.f_min_hz * torch.exp((index.double() - 1).clamp_min(0) * (math.log(self.f_max_hz / self.f_min_hz) / (self.size - 2)))


class PitchedRVQ(nn.Module):
    """`ResidualVQ` of K - 1 codebooks with the pitch class as another, at `place`. Latents [B, 1 + D, L], the first of them the class <-> codes [B, K, L]."""

    def __init__(self, config: RVQConfig, place: int):
        super().__init__()
        self.config, self.place = config, place
        self.residual = ResidualVQ(dataclasses.replace(config, num_codebooks=config.num_codebooks - 1))

    @property
    def frozen(self) -> bool:
        """Stop the moving averages although the module is in training mode."""
        return self.residual.frozen

    @frozen.setter
    def frozen(self, value: bool) -> None:
        self.residual.frozen = value

    def _joined(self, index: Tensor, codes: Tensor) -> Tensor:
        return torch.cat([codes[:, : self.place], index[:, None], codes[:, self.place :]], 1)

    def forward(self, x: Tensor) -> Quantized:
        index = x[:, :1].round()
        active = self.residual.draw_levels(x.shape[0], x.device, self.config.num_codebooks)
        sent = active > self.place
        # one codebook at least carries the envelope
        found = self.residual(x[:, 1:], (active - sent.to(active)).clamp_min(1))
        codes = self._joined(index[:, 0].long(), found.codes)
        histogram = code_histogram(codes, self.config.codebook_size)
        values = torch.cat([torch.where(sent[:, None, None], index, float(NOT_SENT)), found.values], 1)
        return Quantized(values, codes, found.commitment, perplexity(histogram), usage(histogram))

    def start(self, x: Tensor) -> None:
        """k-means of the codebooks that wait for it, on latents [B, 1 + D, L]."""
        self.residual.start(x[:, 1:])

    def encode(self, x: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Latents [B, 1 + D, L] -> indices [B, K, L] of the first `num_codebooks` levels."""
        count = self.config.num_codebooks if num_codebooks is None else num_codebooks
        if not 1 <= count <= self.config.num_codebooks:
            raise UsageError(f"expected num_codebooks in 1..{self.config.num_codebooks}, got {count}; the model has no more levels")
        index = x[:, 0].round().long()
        if count <= self.place:
            return self.residual.encode(x[:, 1:], count)
        if count == 1:
            return index[:, None]
        return self._joined(index, self.residual.encode(x[:, 1:], count - 1))

    def decode(self, codes: Tensor) -> Tensor:
        """Indices [B, k <= K, L] of the first k levels -> quantised latents [B, 1 + D, L]; without the pitch's level the class is NOT_SENT."""
        rest = torch.cat([codes[:, : self.place], codes[:, self.place + 1 :]], 1)
        values = self.residual.decode(rest)
        index = codes[:, self.place] if codes.shape[1] > self.place else torch.full_like(codes[:, 0], NOT_SENT)
        return torch.cat([index[:, None].to(values), values], 1)
