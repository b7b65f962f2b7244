"""The noise that a diffusion starts from: isotropic (DiffWave, WaveGrad), scaled by the frame's energy (PriorGrad), or with the speech's envelope (SpecGrad).

Equation: noise = L e, e ~ N(0, I); L = I, diag(deviation) or G+ diag(M) G. `shape` is L, `whiten` its inverse; both depend on the features alone.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from wavespike.config import Config
from wavespike.errors import ConfigError
from wavespike.signal.envelope import LifterPhase, frame_energy, shape_noise, shaping_filter, whiten
from wavespike.signal.mel import MelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class IsotropicPriorConfig(Config):
    """White noise of deviation `scale`; the signal's own root mean square puts both at one level."""

    type_name: ClassVar[str] = "isotropic"

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ConfigError(f"prior.scale: expected a deviation above 0, got {self.scale}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnergyPriorConfig(Config):
    """PriorGrad (Lee et al., 2022): deviation = scale max(floor, (min(E, energy_max) - energy_min) / (energy_max - energy_min)), E = sqrt(sum exp(mel)).

    The published maximum belongs to the HiFi-GAN mel; other conventions need their own.
    """

    type_name: ClassVar[str] = "energy"

    energy_min: float = 0.0
    energy_max: float = 4.0
    floor: float = 0.1
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.energy_min < self.energy_max or not self.floor > 0 or not self.scale > 0:
            raise ConfigError(f"prior: expected energy_min < energy_max, floor and scale above 0, got {self.energy_min}, {self.energy_max}, {self.floor} and {self.scale}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpectralPriorConfig(Config):
    """SpecGrad (Koizumi et al., 2022): the envelope of cepstral order `order`, filters of zero or minimum phase, `floor` added to the filter.

    `frames` (odd) are averaged; `refinements` bring the inverse nearer to one (see `signal.envelope`).
    """

    type_name: ClassVar[str] = "spectral"

    order: int = 24
    phase: LifterPhase = "zero"
    floor: float = 1e-4
    frames: int = 3
    refinements: int = 1

    def __post_init__(self) -> None:
        if self.order < 0 or self.refinements < 0 or not self.floor > 0 or self.frames % 2 != 1 or self.frames < 1:
            raise ConfigError(f"prior: expected order and refinements >= 0, floor above 0 and an odd number of frames, got {self.order}, {self.refinements}, "
                              f"{self.floor} and {self.frames}")


PriorConfig = IsotropicPriorConfig | EnergyPriorConfig | SpectralPriorConfig


class Prior:
    """L and its inverse for one batch of features [B, C, L]; signals are [B, T] with a frame for every column of the features."""

    def __init__(self, config: PriorConfig, features: Tensor, mel: MelConfig):
        self.config, self.mel = config, mel
        if isinstance(config, EnergyPriorConfig):
            share = (frame_energy(features, mel).clamp_max(config.energy_max) - config.energy_min) / (config.energy_max - config.energy_min)
            self.state = config.scale * share.clamp_min(config.floor)  # [B, L]
        elif isinstance(config, SpectralPriorConfig):
            self.state = shaping_filter(features, mel, config.order, config.phase, config.floor, config.frames)  # [B, F, L]

    def _deviation(self, length: int) -> Tensor:
        """[B, L] -> [B, T]: each frame's value for its hop, around the frame's middle."""
        whole = self.state.repeat_interleave(self.mel.hop_length, -1)
        left = (whole.shape[-1] - length) // 2
        return whole[..., left : left + length]

    def shape(self, noise: Tensor) -> Tensor:
        """L e."""
        if isinstance(self.config, SpectralPriorConfig):
            return shape_noise(noise, self.state, self.mel)
        return noise * (self._deviation(noise.shape[-1]) if isinstance(self.config, EnergyPriorConfig) else self.config.scale)

    def whiten(self, x: Tensor) -> Tensor:
        """L^-1 x."""
        if isinstance(self.config, SpectralPriorConfig):
            return whiten(x, self.state, self.mel, self.config.refinements)
        return x / (self._deviation(x.shape[-1]) if isinstance(self.config, EnergyPriorConfig) else self.config.scale)
