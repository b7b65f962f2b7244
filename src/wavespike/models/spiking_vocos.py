"""Spiking Vocos (arXiv 2509.13049): Vocos with a spiking ConvNeXt backbone.

Equation: waveform = head(backbone(features)), backbone of `nn.spiking`: S time steps a frame, spikes between all pointwise layers.
Departures: the four published variants are options of one model (`PUBLISHED`); the head may be any of Vocos's (mel prior, harmonic source); state is never
kept between calls, so there is nothing to reset.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from torch import Tensor

from wavespike.config import Config
from wavespike.errors import ConfigError
from wavespike.models.base import Stream, Vocoder, check_audio
from wavespike.models.vocos import VocosConfig
from wavespike.nn.convnext import ConvNeXtConfig
from wavespike.nn.heads import ISTFTHead, ISTFTHeadConfig, SourceFilterHead, SourceFilterHeadConfig
from wavespike.nn.spiking import SpikingConvNeXtBackbone, SpikingConvNeXtConfig
from wavespike.signal.mel import MelConfig, log_mel

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


class SpikingVocos(Vocoder[SpikingVocosConfig]):
    """A Spiking Vocos of any configuration. State-dict names are upstream's (`backbone.*`, `head.out.*`)."""

    config_class: ClassVar[type[Config]] = SpikingVocosConfig

    def __init__(self, config: SpikingVocosConfig):
        super().__init__(config)
        self.backbone = SpikingConvNeXtBackbone(config.backbone)
        self.head: ISTFTHead | SourceFilterHead
        if isinstance(config.head, SourceFilterHeadConfig):
            self.head = SourceFilterHead(config.head, config.features)
        else:
            self.head = ISTFTHead(config.head, config.features)

    @property
    def sample_rate(self) -> int:
        return self.config.features.sample_rate

    @property
    def feature_channels(self) -> int:
        return self.config.features.n_mels

    @property
    def hop_length(self) -> int:
        return self.config.head.hop_length

    def features(self, audio: Tensor, **condition: Any) -> Tensor:
        """Waveform [B, T] -> log-mel [B, n_mels, L]."""
        check_audio(audio)
        return log_mel(audio, self.config.features)

    def decode(self, features: Tensor, bandwidth_id: Tensor | None = None, **condition: Any) -> Tensor:
        """Features [B, C, L] -> waveform [B, T]; `bandwidth_id` [B] or [1] for models with adaptive norms."""
        self.check_features(features)
        return self.head(self.backbone(features, bandwidth_id), features)  # type: ignore[no-any-return]

    def stream(self, batch_size: int = 1, **condition: Any) -> Stream:
        raise NotImplementedError
