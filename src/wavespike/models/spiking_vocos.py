"""Spiking Vocos (arXiv 2509.13049): Vocos with a spiking ConvNeXt backbone.

Equation: waveform = head(backbone(features)), backbone of `nn.spiking`: S time steps a frame, spikes between all pointwise layers.
Departures: the four published variants are options of one model (`PUBLISHED`); the head may be any of Vocos's (mel prior, harmonic source); state is never
kept between calls, so there is nothing to reset.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from wavespike.config import Config
from wavespike.errors import ConfigError
from wavespike.models.vocos import Vocos, VocosConfig
from wavespike.nn.convnext import ConvNeXtConfig
from wavespike.nn.heads import ISTFTHeadConfig, SourceFilterHeadConfig
from wavespike.nn.spiking import SpikingConvNeXtBackbone, SpikingConvNeXtConfig
from wavespike.signal.mel import MelConfig

PUBLISHED: dict[str, dict[str, Any]] = {
    "standard": {"temporal_shift": False},
    "distill": {"temporal_shift": False},
    "tsm": {"temporal_shift": True},
    "tsm_distill": {"temporal_shift": True},
}
"""Published variant -> its options of `SpikingConvNeXtConfig`; the two `distill` variants differ in training only."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpikingVocosConfig(Config):
    """Features, backbone and head, each with a `type`."""

    type_name: ClassVar[str] = "spiking-vocos"

    features: MelConfig = MelConfig()
    backbone: SpikingConvNeXtConfig = SpikingConvNeXtConfig()
    head: ISTFTHeadConfig | SourceFilterHeadConfig = ISTFTHeadConfig()

    def __post_init__(self) -> None:
        if self.backbone.dim != self.head.dim:
            raise ConfigError(f"head.dim: expected the backbone's dim {self.backbone.dim}, got {self.head.dim}")
        if self.backbone.input_channels != self.features.n_mels:
            raise ConfigError(f"backbone.input_channels: expected the features' {self.features.n_mels}, got {self.backbone.input_channels}")

    def dense_twin(self) -> VocosConfig:
        """The Vocos of the same size, features and head: what energy and quality are compared with."""
        b = self.backbone
        backbone = ConvNeXtConfig(input_channels=b.input_channels, dim=b.dim, intermediate_dim=b.intermediate_dim, num_layers=b.num_layers,
                                  layer_scale_init_value=b.layer_scale_init_value, adanorm_num_embeddings=b.adanorm_num_embeddings, causal=b.causal)
        return VocosConfig(features=self.features, backbone=backbone, head=self.head)

    @classmethod
    def twin_of(cls, dense: VocosConfig, **options: Any) -> SpikingVocosConfig:
        """The spiking model of a Vocos's size, features and head; `options` are those of `SpikingConvNeXtConfig`."""
        d = dense.backbone
        backbone = SpikingConvNeXtConfig(**{**dict(input_channels=d.input_channels, dim=d.dim, intermediate_dim=d.intermediate_dim, num_layers=d.num_layers,
                                                   layer_scale_init_value=d.layer_scale_init_value, adanorm_num_embeddings=d.adanorm_num_embeddings,
                                                   causal=d.causal), **options})
        return cls(features=dense.features, backbone=backbone, head=dense.head)


class SpikingVocos(Vocos):
    """A Spiking Vocos of any configuration: a Vocos whose backbone spikes. State-dict names are upstream's (`backbone.*`, `head.out.*`)."""

    config_class: ClassVar[type[Config]] = SpikingVocosConfig
    config: SpikingVocosConfig  # type: ignore[assignment]
    backbone: SpikingConvNeXtBackbone  # type: ignore[assignment]

    def __init__(self, config: SpikingVocosConfig):
        super().__init__(dataclasses.replace(config.dense_twin(), backbone=_stub(config)))
        self.config = config
        self.backbone = SpikingConvNeXtBackbone(config.backbone)


def _stub(config: SpikingVocosConfig) -> ConvNeXtConfig:
    """The smallest dense backbone that fits the features and the head; it is replaced before it is used."""
    b = config.backbone
    return ConvNeXtConfig(input_channels=b.input_channels, dim=b.dim, intermediate_dim=1, num_layers=1)
