"""Vocos (Siuzdak, "Vocos: Closing the gap between time-domain and Fourier-based neural vocoders", 2023).

Equation: waveform = head(backbone(features)). Features are log-mel or EnCodec tokens, the backbone is ConvNeXt or ResNet, the head an inverse Fourier
or cosine transform.
Departures: the head may start from a mel prior or from a harmonic source, the backbone may be causal, conditions are per item.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from wavespike.config import Config
from wavespike.errors import ConfigError, UsageError, nearest
from wavespike.models.base import Stream, Vocoder, check_audio
from wavespike.models.streaming import BackboneStream
from wavespike.nn.convnext import ConvNeXtBackbone, ConvNeXtConfig
from wavespike.nn.features import EncodecConfig, EncodecFeatures, MelFeatures
from wavespike.nn.heads import ISTFTHead, ISTFTHeadConfig, SourceFilterHead, SourceFilterHeadConfig
from wavespike.nn.imdct_heads import IMDCTCosHeadConfig, IMDCTHead, IMDCTSymExpHeadConfig
from wavespike.nn.resnet import ResNetBackbone, ResNetConfig
from wavespike.signal.mel import MelConfig
from wavespike.threads import spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocosConfig(Config):
    """Features, backbone and head, each with a `type`."""

    type_name: ClassVar[str] = "vocos"

    features: MelConfig | EncodecConfig = MelConfig()
    backbone: ConvNeXtConfig | ResNetConfig = ConvNeXtConfig()
    head: ISTFTHeadConfig | SourceFilterHeadConfig | IMDCTSymExpHeadConfig | IMDCTCosHeadConfig = ISTFTHeadConfig()

    @property
    def channels(self) -> int:
        """C of the features."""
        return self.features.n_mels if isinstance(self.features, MelConfig) else self.features.codebook_dim

    @property
    def hidden_dim(self) -> int:
        """Channels between backbone and head."""
        return self.backbone.dim

    def __post_init__(self) -> None:
        if self.hidden_dim != self.head.dim:
            raise ConfigError(f"head.dim: expected the {self.hidden_dim} channels that the backbone puts out, got {self.head.dim}")
        if self.backbone.input_channels != self.channels:
            raise ConfigError(f"backbone.input_channels: expected the features' {self.channels}, got {self.backbone.input_channels}")
        if self.head.hop_length != self.features.hop_length:
            raise ConfigError(f"head: expected the features' hop_length {self.features.hop_length}, got {self.head.hop_length}")


class Vocos(Vocoder[VocosConfig]):
    """A Vocos of any configuration. State-dict names are upstream's (`feature_extractor.*`, `backbone.*`, `head.out.*`).

    In evaluation mode no gradient is kept unless the input asks for one, so `model.decode(features).numpy()` works and a frozen vocoder can still
    stand inside another model's loss.
    """

    config_class: ClassVar[type[Config]] = VocosConfig

    def __init__(self, config: VocosConfig):
        super().__init__(config)
        mel = config.features if isinstance(config.features, MelConfig) else None
        self.feature_extractor: MelFeatures | EncodecFeatures
        if isinstance(config.features, MelConfig):
            self.feature_extractor = MelFeatures(config.features)
        else:
            self.feature_extractor = EncodecFeatures(config.features)
        self.backbone: ConvNeXtBackbone | ResNetBackbone
        self.backbone = self.make_backbone()
        self.head: ISTFTHead | SourceFilterHead | IMDCTHead
        if isinstance(config.head, SourceFilterHeadConfig):
            self.head = SourceFilterHead(config.head, mel)
        elif isinstance(config.head, ISTFTHeadConfig):
            self.head = ISTFTHead(config.head, mel)
        else:
            self.head = IMDCTHead(config.head)

    def make_backbone(self) -> ConvNeXtBackbone | ResNetBackbone:
        """The backbone of the configuration, with random weights."""
        c = self.config.backbone
        return ResNetBackbone(c) if isinstance(c, ResNetConfig) else ConvNeXtBackbone(c)

    @classmethod
    def from_hparams(cls, config_path: str | Path) -> Self:
        """A model with random weights from an upstream `config.yaml` (or our `config.json`), in evaluation mode."""
        hub = importlib.import_module("wavespike.hub.load")  # the hub stands above the models: late, so that imports run downwards
        model = hub.from_config_file(config_path, expect=cls)
        assert isinstance(model, cls)
        return model

    @property
    def sample_rate(self) -> int:
        return self.config.features.sample_rate

    @property
    def feature_channels(self) -> int:
        return self.config.channels

    @property
    def hop_length(self) -> int:
        return self.config.head.hop_length

    @property
    def context_frames(self) -> tuple[int, int]:
        """Frames of past and of future that touch one hop of output."""
        past, future = zip(self.backbone.context_frames, self.head.context_frames, strict=True)
        return sum(past), sum(future)

    def _keep_graph(self, x: Tensor) -> bool:
        return torch.is_grad_enabled() and (self.training or x.requires_grad)

    def features(self, audio: Tensor, bandwidth_id: Tensor | None = None, **condition: Any) -> Tensor:
        """Waveform [B, T] -> features [B, C, L]; EnCodec features need `bandwidth_id` [B] or [1]."""
        _refuse(condition)
        check_audio(audio)
        with torch.set_grad_enabled(self._keep_graph(audio)):
            out: Tensor = self.feature_extractor(audio, bandwidth_id=bandwidth_id)
        return out

    def codes_to_features(self, codes: Tensor) -> Tensor:
        """EnCodec tokens [K, L] or [K, B, L] -> features [B, codebook_dim, L]. Raises UsageError for a mel model."""
        if not isinstance(self.feature_extractor, EncodecFeatures):
            raise UsageError("expected a model with EnCodec features for codes_to_features, got a mel model; use features(audio)")
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.training):
            return self.feature_extractor.embed(codes)

    def decode(self, features: Tensor, bandwidth_id: Tensor | None = None, **condition: Any) -> Tensor:
        """Features [B, C, L] -> waveform [B, T]; `bandwidth_id` [B] or [1] for models with adaptive norms."""
        _refuse(condition)

        def work() -> Tensor:
            self.check_features(features)
            condition_id = self._condition(bandwidth_id, features.shape[0])
            out: Tensor = self.head(self.backbone(features, condition_id), features)
            return out

        with torch.set_grad_enabled(self._keep_graph(features)):
            return self._spread(work, features)

    def _spread(self, work: Callable[[], Tensor], features: Tensor) -> Tensor:
        """work() on several threads where all parts know how."""
        return spread(work, features, self) if isinstance(self.head, SourceFilterHead) else work()

    def stream(self, batch_size: int = 1, bandwidth_id: Tensor | None = None, **condition: Any) -> Stream:
        """A session that decodes chunks of features [B, C, l]; a centred model answers late, a causal one at once."""
        _refuse(condition)
        condition_id = self._condition(bandwidth_id, batch_size)
        return BackboneStream(self.backbone, self.head, self.hop_length, self.feature_channels, batch_size, condition_id)

    def _condition(self, bandwidth_id: Tensor | None, batch: int) -> Tensor | None:
        """What the backbone is given, checked."""
        known = getattr(self.config.backbone, "adanorm_num_embeddings", None)
        if known is None:
            if bandwidth_id is not None and isinstance(self.config.features, MelConfig):
                raise UsageError("got a bandwidth_id, but this model has no adaptive norms; leave bandwidth_id out")
            return None
        if bandwidth_id is None:
            raise UsageError(f"expected bandwidth_id (0..{known - 1}) for a model with adaptive norms, got none; pass bandwidth_id=torch.tensor([i])")
        good = bandwidth_id.ndim == 1 and bandwidth_id.shape[0] in (1, batch) and not bandwidth_id.is_floating_point()
        if not good or int(bandwidth_id.min()) < 0 or int(bandwidth_id.max()) >= known:
            raise UsageError(f"expected bandwidth_id of 1 or {batch} integers in 0..{known - 1}, got {bandwidth_id.tolist()}")
        return bandwidth_id


def _refuse(condition: dict[str, Any]) -> None:
    for name in condition:
        raise UsageError(f"expected no other condition than bandwidth_id, got {name!r}{nearest(name, ['bandwidth_id'])}")
