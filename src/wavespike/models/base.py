"""The contracts that models keep. Dimensions: B batch, C channels, T samples, L frames, K codebooks.

A contract is an abstract class; the registry's contract tests run over every registered model of it.
"""

from __future__ import annotations

import abc
import hashlib
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from wavespike.config import Config
from wavespike.errors import AudioError, FeatureError, UsageError
from wavespike.nn.rvq import ResidualVQ
from wavespike.signal.mel import MelConfig, log_mel

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


class MelVocoder(Vocoder[ConfigT]):
    """A vocoder of mel features alone: its configuration's `features` say rate, hop and bands."""

    @property
    def mel(self) -> MelConfig:
        """The convention of the features."""
        config: Any = self.config
        mel: MelConfig = config.features
        return mel

    @property
    def sample_rate(self) -> int:
        return self.mel.sample_rate

    @property
    def feature_channels(self) -> int:
        return self.mel.n_mels

    @property
    def hop_length(self) -> int:
        return self.mel.hop_length

    def features(self, audio: Tensor, **condition: Any) -> Tensor:
        check_audio(audio)
        return log_mel(audio, self.mel)


class CodecStream(Stream):
    """A session of `codec.stream(batch_size)`. `encode` and `decode` are two independent streams; `push` is one after the other.

    Chunks may have any size; samples that do not yet complete a code wait in the session.
    """

    @abc.abstractmethod
    def encode(self, chunk: Tensor) -> Tensor:
        """The next audio [B, C, t] -> the codes [B, K, l] that are final by now (possibly l = 0)."""

    @abc.abstractmethod
    def decode(self, codes: Tensor, missing: Tensor | None = None) -> Tensor:
        """The next codes [B, k, l] -> the audio [B, C, t] that is final by now. `missing` [B, l]: frames that were lost, for a codec that `conceals`."""

    @abc.abstractmethod
    def flush_codes(self) -> Tensor:
        """End of the audio given to `encode` -> the codes [B, K, l] that waited for more; in all ceil(samples / hop) come out."""

    @abc.abstractmethod
    def flush_audio(self) -> Tensor:
        """End of the codes given to `decode` -> the audio [B, C, t] that waited for more; in all frames * hop samples come out."""


class Codec(Model[ConfigT]):
    """encode(audio [B, C, T]) -> codes [B, K, L]; decode(codes) -> [B, C, T]; calling it is the reconstruction. `quantizer` is a `ResidualVQ`."""

    kind: ClassVar[str] = "codec"

    @property
    @abc.abstractmethod
    def quantizer_module(self) -> ResidualVQ:
        """The quantiser whose codebooks give the codes their meaning."""

    @property
    @abc.abstractmethod
    def analysis(self) -> tuple[nn.Module, ...]:
        """What makes latents of audio: the parts before the quantiser."""

    @property
    @abc.abstractmethod
    def synthesis(self) -> nn.Module:
        """What makes audio of quantised latents."""

    @property
    def conceals(self) -> bool:
        """Whether `decode` bridges lost frames by itself."""
        return False

    @property
    @abc.abstractmethod
    def hop(self) -> int:
        """Samples a code frame."""

    @property
    @abc.abstractmethod
    def channels(self) -> int:
        """C of the input audio."""

    @property
    def output_channels(self) -> int:
        """C of the decoded audio."""
        return self.channels

    @property
    @abc.abstractmethod
    def delay(self) -> int:
        """Future samples that an output sample depends on at most: the latency when samples are given one by one."""

    def delay_with(self, frame_samples: int) -> int:
        """Samples from the arrival of a sample to its output, at most, for a caller that gathers frames of so many."""
        return self.delay + frame_samples

    @property
    def edge(self) -> int:
        """Samples at the end of `decode` that one more code would change."""
        return 0

    @abc.abstractmethod
    def latents(self, audio: Tensor) -> Tensor:
        """Audio [B, C, T] -> latents before quantising [B, D, ceil(T / hop)]; what training looks at."""

    @abc.abstractmethod
    def synthesise(self, latents: Tensor, missing: Tensor | None = None) -> Tensor:
        """Quantised latents [B, D, L] -> audio [B, C, L * hop]."""

    @abc.abstractmethod
    def encode(self, audio: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Audio [B, C, T] -> codes [B, K, ceil(T / hop)] int64, each in 0..codebook_size - 1; the first `num_codebooks` levels."""

    @abc.abstractmethod
    def decode(self, codes: Tensor, missing: Tensor | None = None) -> Tensor:
        """Codes [B, k, L] of the first k <= K levels -> audio [B, C, L * hop]. `missing` [B, L] bool: lost frames, for a codec that `conceals`."""

    @abc.abstractmethod
    def stream(self, batch_size: int = 1) -> CodecStream:
        """A session whose concatenated output equals the offline output."""

    def forward(self, audio: Tensor) -> Tensor:
        return self.decode(self.encode(audio))[..., : audio.shape[-1]]

    @property
    def num_codebooks(self) -> int:
        return self.quantizer_module.config.num_codebooks

    @property
    def codebook_size(self) -> int:
        return self.quantizer_module.config.codebook_size

    @property
    def bitrate(self) -> float:
        """Nominal bits a second of one stream with all codebooks."""
        return self.quantizer_module.config.bits_per_frame * self.sample_rate / self.hop

    def codebooks_for(self, bitrate: float) -> int:
        """How many codebooks fit into `bitrate` bits a second. Raises UsageError when not even one does, or more than the model has are asked."""
        step = self.bitrate / self.num_codebooks
        if not step - 1e-6 <= bitrate <= self.bitrate + 1e-6:
            raise UsageError(f"expected a bitrate from {step:.0f} to {self.bitrate:.0f} bits a second for this codec, got {bitrate:.0f}")
        return int(bitrate / step + 1e-6)

    def fingerprint(self) -> str:
        """32 hexadecimal digits of the SHA-256 of the quantiser: codecs that agree on it read each other's codes."""
        digest = hashlib.sha256()
        for name, value in sorted(self.quantizer_module.state_dict().items()):
            digest.update(f"{name} {list(value.shape)} ".encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().astype("<f4").tobytes())
        return digest.hexdigest()[:32]

    def check_input(self, audio: Tensor, empty_ok: bool = False) -> None:
        """Raises AudioError unless audio is [B, channels, T >= 1], floating and finite."""
        if audio.ndim != 3 or audio.shape[1] != self.channels:
            raise AudioError(f"expected audio [batch, {self.channels}, samples], got {list(audio.shape)}; a channel of its own may go to the batch axis")
        if not audio.is_floating_point():
            raise AudioError(f"expected floating-point audio in -1..1, got {audio.dtype}; divide integers by their full scale")
        if audio.shape[2] == 0 and not empty_ok:
            raise AudioError("expected at least one sample of audio, got none; check the input for emptiness")
        if not bool(torch.isfinite(audio).all()):
            raise AudioError("expected finite samples, got NaN or Inf; check what made the audio")

    def check_codes(self, codes: Tensor, empty_ok: bool = False) -> None:
        """Raises FeatureError unless codes are integers [B, 1..K, L >= 1] in 0..codebook_size - 1."""
        want = f"codes [batch, 1..{self.num_codebooks}, frames]"
        if codes.ndim != 3 or not 1 <= codes.shape[1] <= self.num_codebooks:
            raise FeatureError(f"expected {want}, got {list(codes.shape)}; compute them with this codec's encode")
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise FeatureError(f"expected integer {want}, got {codes.dtype}")
        if codes.numel() == 0:
            if not empty_ok:
                raise FeatureError(f"expected {want} with at least one frame, got none")
            return
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= self.codebook_size:
            raise FeatureError(f"expected codes in 0..{self.codebook_size - 1}, got {low}..{high}; they belong to another codec or carry level offsets")

    def check_missing(self, codes: Tensor, missing: Tensor | None) -> None:
        """Raises UsageError when this codec does not conceal, FeatureError unless `missing` is boolean [B, L] as the codes."""
        if missing is None:
            return
        if not self.conceals:
            raise UsageError(f"expected no missing frames, got some; a {type(self).__name__} does not conceal them: repeat or silence them (wavespike decode --conceal)")
        if missing.dtype != torch.bool or missing.shape != (codes.shape[0], codes.shape[2]):
            raise FeatureError(f"expected missing frames as booleans [{codes.shape[0]}, {codes.shape[2]}], got {missing.dtype} {list(missing.shape)}")


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
