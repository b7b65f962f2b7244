"""The contracts that models keep. Dimensions: B batch, C channels, T samples, L frames, K codebooks.

A contract is an abstract class; the registry's contract tests run over every registered model of it.
"""

from __future__ import annotations

import abc
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from wavespike.config import Config
from wavespike.errors import AudioError, FeatureError, UsageError
from wavespike.signal.mel import MelConfig

ConfigT = TypeVar("ConfigT", bound=Config)


class Model(nn.Module, abc.ABC, Generic[ConfigT]):
    """Any registered model: built from its configuration alone, with the sampling rate it works at."""

    config_class: ClassVar[type[Config]]
    kind: ClassVar[str] = ""  # vocoder, codec, classifier

    def __init__(self, config: ConfigT):
        super().__init__()
        self.config: ConfigT = config

    @property
    @abc.abstractmethod
    def sample_rate(self) -> int:
        """Hertz."""

    @classmethod
    def from_pretrained(cls, source: str, revision: str | None = None) -> Self:
        """`wavespike.load(source)`, checked to be of this class. Raises CheckpointError for another model."""
        import importlib

        hub = importlib.import_module("wavespike.hub.load")  # the hub stands above the models: late, so that imports run downwards
        model = hub.load(source, revision=revision, expect=cls)
        assert isinstance(model, cls)
        return model

    def parameter_count(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters())


class Stream(abc.ABC):
    """A session of `model.stream(batch_size)`: `push` chunks of any size, `flush` what is left. State lives here, not in the model."""

    delay: int = 0
    """Algorithmic latency in samples."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    @abc.abstractmethod
    def push(self, chunk: Tensor) -> Tensor:
        """The next chunk of input -> the output that is final by now (possibly of length 0)."""

    @abc.abstractmethod
    def flush(self) -> Tensor:
        """End of input -> the rest of the output. The concatenation of all outputs equals the offline output."""


class Vocoder(Model[ConfigT]):
    """features(audio [B, T]) -> [B, C, L]; decode(features) -> [B, T]; calling it is copy-synthesis."""

    kind: ClassVar[str] = "vocoder"

    @abc.abstractmethod
    def features(self, audio: Tensor, **condition: Any) -> Tensor:
        """Waveform [B, T] at `sample_rate` -> features [B, C, L]."""

    @abc.abstractmethod
    def decode(self, features: Tensor, **condition: Any) -> Tensor:
        """Features [B, C, L] -> waveform [B, T]."""

    @property
    @abc.abstractmethod
    def feature_channels(self) -> int:
        """C of the features."""

    @property
    @abc.abstractmethod
    def hop_length(self) -> int:
        """Samples a frame."""

    @abc.abstractmethod
    def stream(self, batch_size: int = 1, **condition: Any) -> Stream:
        """A session that decodes chunks of features [B, C, l] of any l; their concatenation equals `decode` of the whole."""

    def feature_stream(self, batch_size: int = 1) -> Stream:
        """A session from audio [B, t] to features [B, C, l]; concatenated they equal `features` of the whole.

        Raises UsageError for a model whose features need the whole signal.
        """
        from wavespike.models.streaming import MelStream

        mel = getattr(self.config, "features", None)
        if not isinstance(mel, MelConfig):
            raise UsageError(f"expected a model with mel features for block-wise analysis, got {type(mel).__name__}; compute features(audio) of the whole")
        return MelStream(mel, batch_size)

    def forward(self, audio: Tensor, **condition: Any) -> Tensor:
        return self.decode(self.features(audio, **condition), **condition)

    def check_features(self, features: Tensor) -> None:
        """Raises FeatureError unless features are [B, feature_channels, L >= 1] and finite."""
        want = f"features [batch, {self.feature_channels}, frames]"
        if features.ndim != 3 or features.shape[1] != self.feature_channels:
            raise FeatureError(f"expected {want}, got {list(features.shape)}; compute them with model.features(audio)")
        if features.shape[2] == 0:
            raise FeatureError(f"expected {want} with at least one frame, got none")
        if not bool(torch.isfinite(features).all()):
            raise FeatureError(f"expected finite {want}, got NaN or Inf; check what made them")


class ClassifierStream(Stream):
    """A session of a classifier: `push` audio (or features) and get the logits so far [B, classes]; `flush` gives the final ones."""

    @property
    @abc.abstractmethod
    def logits(self) -> Tensor:
        """[B, classes] of what was heard so far; after the end they equal the offline logits."""


class Classifier(Model[ConfigT]):
    """features(audio [B, T]) -> [B, C, L]; logits(features) -> [B, classes]; calling it does both."""

    kind: ClassVar[str] = "classifier"

    @property
    @abc.abstractmethod
    def labels(self) -> tuple[str, ...]:
        """The classes' names, in the order of the logits."""

    @abc.abstractmethod
    def features(self, audio: Tensor, **condition: Any) -> Tensor:
        """Waveform [B, T] at `sample_rate` -> features [B, C, L]."""

    @abc.abstractmethod
    def logits(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Features [B, C, L], `lengths` [B] in frames when padded -> [B, classes]; the largest is the answer."""

    @property
    @abc.abstractmethod
    def feature_channels(self) -> int:
        """C of the features."""

    @abc.abstractmethod
    def stream(self, batch_size: int = 1, **condition: Any) -> ClassifierStream:
        """A session that recognises while the input comes."""

    def forward(self, audio: Tensor, **condition: Any) -> Tensor:
        return self.logits(self.features(audio, **condition))

    def check_features(self, features: Tensor) -> None:
        """Raises FeatureError unless features are [B, feature_channels, L >= 1] and finite."""
        want = f"features [batch, {self.feature_channels}, frames]"
        if features.ndim != 3 or features.shape[1] != self.feature_channels or features.shape[2] == 0:
            raise FeatureError(f"expected {want} with at least one frame, got {list(features.shape)}; compute them with model.features(audio)")
        if not bool(torch.isfinite(features).all()):
            raise FeatureError(f"expected finite {want}, got NaN or Inf; check what made them")


def check_audio(audio: Tensor) -> None:
    """Raises AudioError unless audio is [B, T >= 1], floating and finite."""
    if audio.ndim != 2:
        raise AudioError(f"expected audio [batch, samples], got {list(audio.shape)}; add or drop axes")
    if audio.shape[1] == 0:
        raise AudioError("expected at least one sample of audio, got none; check the input for emptiness")
    if not audio.is_floating_point():
        raise AudioError(f"expected floating-point audio in -1..1, got {audio.dtype}; divide integers by their full scale")
    if not bool(torch.isfinite(audio).all()):
        raise AudioError("expected finite samples, got NaN or Inf; check what made the audio")
