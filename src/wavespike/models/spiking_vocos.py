"""Spiking Vocos (arXiv 2509.13049): Vocos with a spiking ConvNeXt backbone.

Equation: waveform = head(backbone(features)), backbone of `nn.spiking`: S time steps a frame, spikes between all pointwise layers.
Departures: the four published variants are options of one model (`PUBLISHED`); features and head may be any of Vocos's (EnCodec tokens, mel prior,
harmonic source); state is never kept between calls, so there is nothing to reset.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from wavespike.config import Config
from wavespike.errors import ConfigError
from wavespike.models.vocos import Vocos, VocosConfig
from wavespike.nn.convnext import ConvNeXtConfig
from wavespike.nn.spiking import SpikingConvNeXtBackbone, SpikingConvNeXtConfig

PUBLISHED: dict[str, dict[str, Any]] = {
    "standard": {"temporal_shift": False},
    "distill": {"temporal_shift": False},
    "tsm": {"temporal_shift": True},
    "tsm_distill": {"temporal_shift": True},
}
"""Published variant -> its options of `SpikingConvNeXtConfig`; the two `distill` variants differ in training only."""

SHARED = ("input_channels", "dim", "intermediate_dim", "num_layers", "layer_scale_init_value", "adanorm_num_embeddings", "causal")
"""Options that a spiking and a dense backbone have in common."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpikingVocosConfig(VocosConfig):
    """Features, backbone and head, each with a `type`; features and heads are those of `VocosConfig`."""

    type_name: ClassVar[str] = "spiking-vocos"

    backbone: SpikingConvNeXtConfig = SpikingConvNeXtConfig()  # type: ignore[assignment]

    @property
    def hidden_dim(self) -> int:
        return self.backbone.output_dim

    def dense_twin(self) -> VocosConfig:
        """The Vocos of the same size, features and head: what energy and quality are compared with."""
        head = dataclasses.replace(self.head, dim=self.backbone.dim)
        return VocosConfig(features=self.features, backbone=ConvNeXtConfig(**{k: getattr(self.backbone, k) for k in SHARED}), head=head)

    @classmethod
    def twin_of(cls, dense: VocosConfig, **options: Any) -> SpikingVocosConfig:
        """The spiking model of a Vocos's size, features and head; `options` are those of `SpikingConvNeXtConfig`."""
        if not isinstance(dense.backbone, ConvNeXtConfig):
            raise ConfigError(f"expected a Vocos with a ConvNeXt backbone, got {type(dense.backbone).__name__}; only ConvNeXt has a spiking twin")
        shared = {k: getattr(dense.backbone, k) for k in SHARED}
        backbone = SpikingConvNeXtConfig(**{**shared, **options})
        return cls(features=dense.features, backbone=backbone, head=dataclasses.replace(dense.head, dim=backbone.output_dim))


class SpikingVocos(Vocos):
    """A Spiking Vocos of any configuration: a Vocos whose backbone spikes. State-dict names are upstream's (`backbone.*`, `head.out.*`)."""

    config_class: ClassVar[type[Config]] = SpikingVocosConfig
    config: SpikingVocosConfig
    backbone: SpikingConvNeXtBackbone  # type: ignore[assignment]

    def make_backbone(self) -> SpikingConvNeXtBackbone:  # type: ignore[override]
        return SpikingConvNeXtBackbone(self.config.backbone)
