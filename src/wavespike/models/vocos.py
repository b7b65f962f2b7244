"""Vocos (Siuzdak, "Vocos: Closing the gap between time-domain and Fourier-based neural vocoders", 2023).

Equation: waveform = head(backbone(features)). Features are log-mel (or EnCodec tokens), the backbone is ConvNeXt, the head an inverse Fourier transform.
Departures: the head may start from a mel prior or from a harmonic source, the backbone may be causal, conditions are per item.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor

from wavespike.config import Config
from wavespike.errors import ConfigError
from wavespike.models.base import Stream, Vocoder, check_audio
from wavespike.nn.convnext import ConvNeXtBackbone, ConvNeXtConfig
from wavespike.nn.heads import ISTFTHead, ISTFTHeadConfig, SourceFilterHead, SourceFilterHeadConfig
from wavespike.signal.mel import MelConfig, log_mel


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocosConfig(Config):
    """Features, backbone and head, each with a `type`."""

    type_name: ClassVar[str] = "vocos"

    features: MelConfig = MelConfig()
    backbone: ConvNeXtConfig = ConvNeXtConfig()
    head: ISTFTHeadConfig | SourceFilterHeadConfig = ISTFTHeadConfig()

    def __post_init__(self) -> None:
        if self.backbone.dim != self.head.dim:
            raise ConfigError(f"head.dim: expected the backbone's dim {self.backbone.dim}, got {self.head.dim}")
        if self.backbone.input_channels != self.features.n_mels:
            raise ConfigError(f"backbone.input_channels: expected the features' {self.features.n_mels}, got {self.backbone.input_channels}")


class Vocos(Vocoder[VocosConfig]):
    """A Vocos of any configuration. State-dict names are upstream's (`backbone.*`, `head.out.*`)."""

    config_class: ClassVar[type[Config]] = VocosConfig

    def __init__(self, config: VocosConfig):
        super().__init__(config)
        self.backbone = ConvNeXtBackbone(config.backbone)
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

    @torch.inference_mode()
    def stream(self, batch_size: int = 1, **condition: Any) -> Stream:
        raise NotImplementedError
