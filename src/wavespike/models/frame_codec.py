"""Codecs of frames: everything runs once a hop, and frames overlap a little; what their kinds share, and their sessions.

A kind gives an `encoder` (frames of `analysis_length` samples that end with their hop -> latents), a `quantizer` and a `decoder` (quantised latents ->
windowed frames of `span` samples, the first `edge` samples of which lie before its hop's output), each with a `step` that takes and returns its state.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from wavespike.errors import AudioError, ConfigError, FeatureError, UsageError
from wavespike.models.base import Codec, CodecStream, ConfigT
from wavespike.nn.convnext import ConvNeXtConfig
from wavespike.nn.spiking import SpikingConvNeXtConfig
from wavespike.signal.blocks import BlockOverlapAdd
from wavespike.signal.lapped import BlockLappedFrames, lapped_frames
from wavespike.signal.stft import add_frames


def check_backbones(encoder: ConvNeXtConfig, inputs: int, inputs_are: str, decoder: ConvNeXtConfig | SpikingConvNeXtConfig, latents: int, latents_are: str) -> None:
    """Raises ConfigError unless both backbones have the given input channels, are causal and take no condition."""
    for name, part, channels, what in (("encoder", encoder, inputs, inputs_are), ("decoder", decoder, latents, latents_are)):
        if part.input_channels != channels:
            raise ConfigError(f"{name}.input_channels: expected {channels} ({what}), got {part.input_channels}")
        if not part.causal:
            raise ConfigError(f"{name}.causal: expected true, got false; this codec has no look-ahead beyond its frame")
        if part.adanorm_num_embeddings is not None:
            raise ConfigError(f"{name}.adanorm_num_embeddings: expected none, got {part.adanorm_num_embeddings}; the codec has no condition")


class FrameCodec(Codec[ConfigT]):
    """Audio [B, 1, T] <-> codes [B, K, L], causal; an output sample depends on input at most `delay` = edge + hop - 1 samples ahead."""

    encoder: Any
    quantizer: Any
    decoder: Any

    @property
    @abc.abstractmethod
    def analysis_length(self) -> int:
        """Samples that the encoder sees at once; they end with a hop."""

    @property
    @abc.abstractmethod
    def span(self) -> int:
        """Samples that the decoder makes of a hop's codes, to be overlap-added."""

    @property
    @abc.abstractmethod
    def edge(self) -> int:
        """Samples at the end of `decode` that one more code would change."""

    @property
    def quantizer_module(self) -> Any:
        return self.quantizer

    @property
    def analysis(self) -> tuple[nn.Module, ...]:
        return (self.encoder,)

    @property
    def synthesis(self) -> nn.Module:
        decoder: nn.Module = self.decoder
        return decoder

    @property
    def sample_rate(self) -> int:
        rate: int = self.config.sample_rate  # type: ignore[attr-defined]
        return rate

    @property
    def hop(self) -> int:
        hop: int = self.config.hop_length  # type: ignore[attr-defined]
        return hop

    @property
    def channels(self) -> int:
        return 1

    @property
    def delay(self) -> int:
        """The first sample that a hop's codes complete waits for the hop's last."""
        return self.edge + self.hop - 1

    def delay_with(self, frame_samples: int) -> int:
        """A frame is complete with its hop: for whole hops, in step, nothing comes on top of delay + 1."""
        hop, period = self.hop, frame_samples // math.gcd(frame_samples, self.hop)
        return max(-(-(code + 1) * hop // frame_samples) * frame_samples - (code * hop - self.edge) for code in range(period))

    @property
    def conceals(self) -> bool:
        return True

    def dense_twin(self) -> FrameCodec[ConfigT] | None:
        """A codec of the same sizes whose decoder does not spike, with random weights; None where this one does not spike."""
        decoder = self.config.decoder  # type: ignore[attr-defined]
        if not isinstance(decoder, SpikingConvNeXtConfig):
            return None
        names = {field.name for field in dataclasses.fields(ConvNeXtConfig)}
        dense = ConvNeXtConfig(**{field.name: getattr(decoder, field.name) for field in dataclasses.fields(decoder) if field.name in names})
        return type(self)(dataclasses.replace(self.config, decoder=dense)).eval()  # type: ignore[call-arg]

    def frames_of(self, audio: Tensor) -> Tensor:
        """Audio [B, 1, T] -> what the encoder sees [B, L, analysis_length]."""
        return lapped_frames(audio[:, 0], self.analysis_length, self.hop)

    def latents(self, audio: Tensor) -> Tensor:
        latents: Tensor = self.encoder(self.frames_of(audio))
        return latents

    def synthesise(self, latents: Tensor, missing: Tensor | None = None) -> Tensor:
        length = latents.shape[-1] * self.hop
        return add_frames(self.decoder(latents, missing), self.hop)[:, None, self.edge : self.edge + length]

    def encode(self, audio: Tensor, num_codebooks: int | None = None) -> Tensor:
        self.check_input(audio)
        codes: Tensor = self.quantizer.encode(self.latents(audio), num_codebooks)
        return codes

    def decode(self, codes: Tensor, missing: Tensor | None = None) -> Tensor:
        self.check_codes(codes)
        self.check_missing(codes, missing)
        return self.synthesise(self.quantizer.decode(codes), missing)

    def stream(self, batch_size: int = 1, num_codebooks: int | None = None) -> FrameCodecStream:
        """A session whose concatenated output equals the offline output, `flush` included."""
        return FrameCodecStream(self, batch_size, num_codebooks)


class FrameCodecStream(CodecStream):
    """A session of `FrameCodec.stream`. After n samples floor(n / hop) codes have come; the decoder holds back the overlap."""

    max_frames = 256
    """Frames that go through the network at once: bounds the memory for huge chunks."""

    def __init__(self, model: FrameCodec[Any], batch_size: int, num_codebooks: int | None):
        if batch_size < 1:
            raise UsageError(f"batch_size: expected at least 1, got {batch_size}")
        self._model, self._batch, self._levels = model, batch_size, num_codebooks
        self.delay = model.delay
        self._encoder_state = model.encoder.initial_state(batch_size)
        self._decoder_state = model.decoder.initial_state(batch_size)
        self._analysis = BlockLappedFrames(model.analysis_length, model.hop)
        self._synthesis = BlockOverlapAdd(model.span, model.hop, model.edge, "same")
        self._like = next(model.encoder.parameters()).detach()
        self._ended = self._silent = False
        self._taken = self._given = 0  # samples through `push`

    @torch.inference_mode()
    def encode(self, chunk: Tensor) -> Tensor:
        """Audio [B, 1, t] -> codes [B, K, l]."""
        self._model.check_input(chunk, empty_ok=True)
        if chunk.shape[0] != self._batch:
            raise AudioError(f"expected chunks of {self._batch} streams as this session was opened for, got {chunk.shape[0]}")
        return self._codes(chunk, False)

    @torch.inference_mode()
    def flush_codes(self) -> Tensor:
        return self._codes(self._like.new_zeros(self._batch, 1, 0), True)

    def _codes(self, chunk: Tensor, final: bool) -> Tensor:
        if self._ended:
            raise UsageError("expected no audio after the end, got a chunk; open a new stream")
        self._ended = final
        frames = self._analysis.push(chunk[:, 0].to(self._like), final)
        parts = [frames[:, first : first + self.max_frames] for first in range(0, frames.shape[1], self.max_frames)]
        if parts:
            return torch.cat([self._encode_frames(part) for part in parts], -1)
        levels = self._model.num_codebooks if self._levels is None else self._levels
        return torch.zeros(self._batch, levels, 0, dtype=torch.int64, device=self._like.device)

    def _encode_frames(self, frames: Tensor) -> Tensor:
        """[B, l, analysis_length] -> codes [B, K, l]."""
        latents, self._encoder_state = self._model.encoder.step(frames, self._encoder_state)
        codes: Tensor = self._model.quantizer.encode(latents, self._levels)
        return codes

    def _decode_frames(self, codes: Tensor, missing: Tensor | None) -> Tensor:
        """Codes [B, k, l] and lost frames [B, l] -> windowed frames [B, l, span]."""
        frames: Tensor
        frames, self._decoder_state = self._model.decoder.step(self._model.quantizer.decode(codes), self._decoder_state, missing)
        return frames

    @torch.inference_mode()
    def decode(self, codes: Tensor, missing: Tensor | None = None) -> Tensor:
        """Codes [B, k, l] and which of the frames are lost [B, l] -> audio [B, 1, t]."""
        self._model.check_codes(codes, empty_ok=True)
        if codes.shape[0] != self._batch:
            raise FeatureError(f"expected codes of {self._batch} streams as this session was opened for, got {codes.shape[0]}")
        self._model.check_missing(codes, missing)
        if self._silent:
            raise UsageError("expected no codes after the end, got some; open a new stream")
        audio = [self._like.new_zeros(self._batch, 0)]
        for first in range(0, codes.shape[-1], self.max_frames):
            part = slice(first, first + self.max_frames)
            lost = None if missing is None else missing[:, part].to(self._like.device)
            audio.append(self._synthesis.push(self._decode_frames(codes[..., part].to(self._like.device), lost)))
        return torch.cat(audio, -1)[:, None]

    @torch.inference_mode()
    def flush_audio(self) -> Tensor:
        if self._silent:
            raise UsageError("expected one end, got a second; open a new stream")
        self._silent = True
        none = self._like.new_zeros(self._batch, 0, self._model.span)
        return self._synthesis.push(none, final=True)[:, None]

    @torch.inference_mode()
    def push(self, chunk: Tensor) -> Tensor:
        """Audio [B, 1, t] -> the reconstruction that is final by now [B, 1, t']."""
        codes = self.encode(chunk)
        self._taken += chunk.shape[-1]
        return self._cut(self.decode(codes))

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """The rest: in all as many samples come out as went in."""
        return self._cut(torch.cat([self.decode(self.flush_codes()), self.flush_audio()], -1))

    def _cut(self, audio: Tensor) -> Tensor:
        """No more out than in: the zeros that filled the last hop are not given back."""
        audio = audio[..., : self._taken - self._given]
        self._given += audio.shape[-1]
        return audio
