"""AudioDec (Wu et al., "AudioDec: an open-source streaming high-fidelity neural audio codec", 2023).

Equation: codes = RVQ(projector(encoder(waveform))); waveform = decoder(sum of codewords). Encoder and decoder are SoundStream's (Zeghidour et al., 2021):
residual units of dilated convolutions between strided (transposed) ones. The decoder may be a HiFi-GAN (vocoders v0 to v3).
Departures: streaming state is a value, so sessions of any number and chunk size run at once; streams start as the offline pass does (upstream's zeroed
buffers are `start="zeros"`); a code leaves as soon as its last sample is in, hop - 1 samples earlier than upstream; `look_ahead` lets codes hear more.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavespike.config import Config
from wavespike.errors import AudioError, ConfigError, FeatureError, UsageError
from wavespike.models.base import Codec, CodecStream
from wavespike.models.hifigan import HiFiGANConfig, HiFiGANGenerator
from wavespike.nn.conv import Conv1d, ConvTranspose1d, with_weight_norm, without_weight_norm
from wavespike.nn.rvq import Quantized, ResidualVQ, RVQConfig

WARM_UP_SAMPLES = 8192
"""Zeros that upstream's demo runs before the first sample: a little more than the receptive field (7,209) of strides 3, 4, 5, 5."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig(Config):
    """Channels grow by the ratios while the strides shorten the sequence."""

    type_name: ClassVar[str] = "audiodec-encoder"

    channels: int = 32
    ratios: tuple[int, ...] = (2, 4, 8, 16)
    strides: tuple[int, ...] = (3, 4, 5, 5)
    kernel_size: int = 7
    dilations: tuple[int, ...] = (1, 3, 9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(Config):
    """The mirror image of the encoder."""

    type_name: ClassVar[str] = "audiodec-decoder"

    channels: int = 32
    ratios: tuple[int, ...] = (16, 8, 4, 2)
    strides: tuple[int, ...] = (5, 5, 4, 3)
    kernel_size: int = 7
    dilations: tuple[int, ...] = (1, 3, 9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioDecConfig(Config):
    """The defaults are symAD at 48 kHz. `activate` is symAAD: ELU on the encoder's output, around the decoder's blocks, and tanh."""

    type_name: ClassVar[str] = "audiodec"

    sample_rate: int = 48000
    input_channels: int = 1
    output_channels: int = 1
    encoder: EncoderConfig = EncoderConfig()
    projector: Literal["conv1d", "conv1d_bn"] = "conv1d"
    quantizer: RVQConfig = RVQConfig()
    decoder: DecoderConfig | HiFiGANConfig = DecoderConfig()
    bias: bool = True
    """Of the strided and transposed convolutions."""
    activate: bool = False
    weight_norm: bool = False
    causal: bool = True
    look_ahead: int = 0
    """Samples that a code hears beyond the first of its hop; 0 as published, where a code says nothing of the other hop - 1 samples that it stands for."""

    def __post_init__(self) -> None:
        if self.look_ahead < 0 or (self.look_ahead and not self.causal):
            raise ConfigError(f"look_ahead: expected 0 or more, and 0 for a centred model (causal: false), got {self.look_ahead}")
        for name, part in (("encoder", self.encoder), ("decoder", self.decoder)):
            if not isinstance(part, HiFiGANConfig) and (len(part.ratios) != len(part.strides) or not part.strides):
                raise ConfigError(f"{name}.strides: expected one for each of the {len(part.ratios)} ratios, got {len(part.strides)}")
            if any(s < 2 for s in (part.upsample_scales if isinstance(part, HiFiGANConfig) else part.strides)):
                raise ConfigError(f"{name}: expected strides of at least 2, got one below")
        hop = self.decoder.hop if isinstance(self.decoder, HiFiGANConfig) else math.prod(self.decoder.strides)
        if hop != self.hop:
            raise ConfigError(f"decoder: expected strides with product {self.hop} as the encoder's, got {hop}")
        if isinstance(self.decoder, HiFiGANConfig):
            d = self.decoder
            if d.in_channels != self.quantizer.dim:
                raise ConfigError(f"decoder.in_channels: expected the quantizer's dim {self.quantizer.dim}, got {d.in_channels}")
            if d.sample_rate != self.sample_rate or d.out_channels != self.output_channels or d.causal != self.causal:
                raise ConfigError(
                    f"decoder: expected sample_rate {self.sample_rate}, out_channels {self.output_channels} and causal {self.causal}, "
                    f"got {d.sample_rate}, {d.out_channels} and {d.causal}"
                )

    @property
    def hop(self) -> int:
        """Samples a code frame."""
        return math.prod(self.encoder.strides)


class ResidualUnit(nn.Module):
    """x + conv1(ELU(conv7_dilated(ELU(x)))), [B, C, L] -> [B, C, L]."""

    def __init__(self, channels: int, kernel_size: int, dilation: int, causal: bool, weight_norm: bool):
        super().__init__()
        self.conv1 = with_weight_norm(Conv1d(channels, channels, kernel_size, dilation=dilation, bias=False, causal=causal), weight_norm)
        self.conv2 = with_weight_norm(Conv1d(channels, channels, 1, bias=False), weight_norm)

    @property
    def look_ahead(self) -> int:
        return self.conv1.look_ahead

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(F.elu(self.conv1(F.elu(x))))
        return x + y

    def initial_state(self, batch_size: int) -> Tensor:
        return self.conv1.initial_state(batch_size)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.conv1.step(F.elu(x), state)
        return x + self.conv2(F.elu(y)), state


def _units(channels: int, part: EncoderConfig | DecoderConfig, config: AudioDecConfig) -> nn.ModuleList:
    return nn.ModuleList(ResidualUnit(channels, part.kernel_size, d, config.causal, config.weight_norm) for d in part.dilations)


class EncoderBlock(nn.Module):
    """Residual units, then a strided convolution of kernel 2 * stride: [B, C_in, L] -> [B, C_out, L / stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: AudioDecConfig):
        super().__init__()
        self.res_units = _units(in_channels, config.encoder, config)
        conv = Conv1d(in_channels, out_channels, 2 * stride, stride=stride, bias=config.bias, causal=config.causal)
        self.conv = with_weight_norm(conv, config.weight_norm)

    def layers(self) -> list[ResidualUnit | Conv1d]:
        return [*(u for u in self.res_units if isinstance(u, ResidualUnit)), self.conv]


class Encoder(nn.Module):
    """Waveform [B, C, T] -> [B, channels * ratios[-1], T / hop]."""

    def __init__(self, config: AudioDecConfig):
        super().__init__()
        c = config.encoder
        self.activate = config.activate
        self.conv = with_weight_norm(Conv1d(config.input_channels, c.channels, c.kernel_size, bias=False, causal=config.causal), config.weight_norm)
        widths = [c.channels, *(c.channels * r for r in c.ratios)]
        self.conv_blocks = nn.ModuleList(EncoderBlock(widths[i], widths[i + 1], s, config) for i, s in enumerate(c.strides))
        self.out_channels = widths[-1]

    def _layers(self) -> list[ResidualUnit | Conv1d]:
        return [self.conv, *(layer for block in self.conv_blocks if isinstance(block, EncoderBlock) for layer in block.layers())]

    def _out(self, x: Tensor) -> Tensor:
        return F.elu(x) if self.activate else x

    @property
    def look_ahead(self) -> int:
        """Future samples that an output frame sees."""
        total, rate = 0, 1
        for layer in self._layers():
            total += layer.look_ahead * rate
            rate *= layer.stride[0] if isinstance(layer, Conv1d) else 1
        return total

    def forward(self, x: Tensor) -> Tensor:
        for layer in self._layers():
            x = layer(x)
        return self._out(x)

    def initial_state(self, batch_size: int) -> list[Tensor]:
        return [layer.initial_state(batch_size) for layer in self._layers()]

    def step(self, x: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        after = []
        for layer, s in zip(self._layers(), state, strict=True):
            x, s = layer.step(x, s)
            after.append(s)
        return self._out(x), after


class Projector(nn.Module):
    """Convolution of kernel 3 (and batch normalisation for `conv1d_bn`): [B, C, L] -> [B, D, L]."""

    def __init__(self, in_channels: int, config: AudioDecConfig):
        super().__init__()
        self.project = with_weight_norm(Conv1d(in_channels, config.quantizer.dim, 3, bias=False, causal=config.causal), config.weight_norm)
        self.norm = nn.BatchNorm1d(config.quantizer.dim) if config.projector == "conv1d_bn" else None

    def _normalised(self, x: Tensor) -> Tensor:
        return x if self.norm is None else self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        return self._normalised(self.project(x))

    def initial_state(self, batch_size: int) -> Tensor:
        return self.project.initial_state(batch_size)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[-1] == 0:
            return x.new_zeros(x.shape[0], self.project.out_channels, 0), state
        x, state = self.project.step(x, state)
        return self._normalised(x), state


class DecoderBlock(nn.Module):
    """A transposed convolution, then residual units: [B, C_in, L] -> [B, C_out, L * stride]; with `activate` an ELU stands before."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: AudioDecConfig):
        super().__init__()
        assert isinstance(config.decoder, DecoderConfig)
        self.activate = config.activate
        self.conv = with_weight_norm(ConvTranspose1d(in_channels, out_channels, stride, bias=config.bias, causal=config.causal), config.weight_norm)
        self.res_units = _units(out_channels, config.decoder, config)

    def _layers(self) -> list[ConvTranspose1d | ResidualUnit]:
        return [self.conv, *(u for u in self.res_units if isinstance(u, ResidualUnit))]

    def look_ahead(self, rate: int) -> int:
        """In output samples, for input frames of `rate` samples."""
        return self.conv.look_ahead * rate + sum(u.look_ahead for u in self._layers()[1:]) * (rate // self.conv.stride[0])

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(x) if self.activate else x
        for layer in self._layers():
            x = layer(x)
        return x

    def initial_state(self, batch_size: int, zeros: bool) -> list[Tensor]:
        return [self.conv.initial_state(batch_size, zeros), *(u.initial_state(batch_size) for u in self._layers()[1:])]

    def step(self, x: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        x = F.elu(x) if self.activate else x
        after = []
        for layer, s in zip(self._layers(), state, strict=True):
            x, s = layer.step(x, s)
            after.append(s)
        return x, after


class Decoder(nn.Module):
    """Quantised latents [B, D, L] -> waveform [B, C, L * hop]."""

    def __init__(self, config: AudioDecConfig):
        super().__init__()
        assert isinstance(config.decoder, DecoderConfig)
        c = config.decoder
        self.activate = config.activate
        widths = [*(c.channels * r for r in c.ratios), c.channels]
        self.conv1 = with_weight_norm(Conv1d(config.quantizer.dim, widths[0], c.kernel_size, bias=False, causal=config.causal), config.weight_norm)
        self.conv_blocks = nn.ModuleList(DecoderBlock(widths[i], widths[i + 1], s, config) for i, s in enumerate(c.strides))
        self.conv2 = with_weight_norm(Conv1d(widths[-1], config.output_channels, c.kernel_size, bias=False, causal=config.causal), config.weight_norm)
        self.strides = c.strides

    def _blocks(self) -> list[DecoderBlock]:
        return [b for b in self.conv_blocks if isinstance(b, DecoderBlock)]

    @property
    def look_ahead(self) -> int:
        """Samples at the output rate that one output sample waits for at most."""
        rate = math.prod(self.strides)
        total = self.conv1.look_ahead * rate
        for block, stride in zip(self._blocks(), self.strides, strict=True):
            total += block.look_ahead(rate)
            rate //= stride
        return total + self.conv2.look_ahead

    def _before_last(self, x: Tensor) -> Tensor:
        return F.elu(x) if self.activate else x

    def _out(self, x: Tensor) -> Tensor:
        return torch.tanh(x) if self.activate else x

    def forward(self, latents: Tensor) -> Tensor:
        x = self.conv1(latents)
        for block in self._blocks():
            x = block(x)
        return self._out(self.conv2(self._before_last(x)))

    def initial_state(self, batch_size: int, zeros: bool = False) -> list[Any]:
        return [self.conv1.initial_state(batch_size), *(b.initial_state(batch_size, zeros) for b in self._blocks()), self.conv2.initial_state(batch_size)]

    def step(self, latents: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        x, s = self.conv1.step(latents, state[0])
        after: list[Any] = [s]
        for block, block_state in zip(self._blocks(), state[1:-1], strict=True):
            x, after_block = block.step(x, block_state)
            after.append(after_block)
        x, s = self.conv2.step(self._before_last(x), state[-1])
        return self._out(x), [*after, s]


class AudioDec(Codec[AudioDecConfig]):
    """An AudioDec of any configuration: audio [B, C, T] <-> codes [B, K, L]."""

    config_class: ClassVar[type[Config]] = AudioDecConfig

    def __init__(self, config: AudioDecConfig):
        super().__init__(config)
        self.encoder = Encoder(config)
        self.projector = Projector(self.encoder.out_channels, config)
        self.quantizer = ResidualVQ(config.quantizer)
        self.decoder: Decoder | HiFiGANGenerator
        self.decoder = HiFiGANGenerator(config.decoder) if isinstance(config.decoder, HiFiGANConfig) else Decoder(config)

    @property
    def quantizer_module(self) -> ResidualVQ:
        return self.quantizer

    @property
    def analysis(self) -> tuple[nn.Module, ...]:
        return self.encoder, self.projector

    @property
    def synthesis(self) -> nn.Module:
        return self.decoder

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def hop(self) -> int:
        return self.config.hop

    @property
    def channels(self) -> int:
        return self.config.input_channels

    @property
    def output_channels(self) -> int:
        return self.config.output_channels

    @property
    def delay(self) -> int:
        """`look_ahead` for causal models: with 0, output sample t needs input samples up to t only, and `push` of n samples returns n samples."""
        projector = 0 if self.config.causal else self.hop
        return self.config.look_ahead + self.encoder.look_ahead + projector + self.decoder.look_ahead

    def delay_with(self, frame_samples: int) -> int:
        """A code is ready with the frame of sample code * hop + look_ahead."""
        if not self.config.causal:
            return super().delay_with(frame_samples)
        firsts = (code * self.hop for code in range(frame_samples // math.gcd(frame_samples, self.hop)))
        return max(-(-(first + self.delay + 1) // frame_samples) * frame_samples - first for first in firsts)

    @property
    def advance(self) -> tuple[int, int]:
        """How codes hear ahead: zeros put before the signal, and the codes at its start that are dropped."""
        zeros = -self.config.look_ahead % self.hop
        return zeros, (zeros + self.config.look_ahead) // self.hop

    def latents(self, audio: Tensor) -> Tensor:
        """Audio [B, C, T] -> latents before quantising [B, D, ceil(T / hop)]; the end is filled with zeros, to a whole hop and for the look-ahead."""
        zeros, dropped = self.advance
        frames = dropped - (-audio.shape[-1] // self.hop)
        audio = F.pad(audio, (zeros, frames * self.hop - zeros - audio.shape[-1]))
        latents: Tensor = self.projector(self.encoder(audio))
        return latents[..., dropped:]

    def synthesise(self, latents: Tensor, missing: Tensor | None = None) -> Tensor:
        audio: Tensor = self.decoder(latents)
        return audio

    def quantize(self, audio: Tensor) -> Quantized:
        """Audio [B, C, T] -> quantised latents, codes, commitment, perplexity and usage; what training looks at."""
        quantized: Quantized = self.quantizer(self.latents(audio))
        return quantized

    def encode(self, audio: Tensor, num_codebooks: int | None = None) -> Tensor:
        self.check_input(audio)
        return self.quantizer.encode(self.latents(audio), num_codebooks)

    def decode(self, codes: Tensor, missing: Tensor | None = None) -> Tensor:
        self.check_codes(codes)
        self.check_missing(codes, missing)
        return self.synthesise(self.quantizer.decode(codes))

    def stream(
        self, batch_size: int = 1, start: Literal["offline", "zeros", "warm"] = "offline", num_codebooks: int | None = None
    ) -> AudioDecStream:
        """A session. `start`: "offline" equals `encode` and `decode` of the whole; "zeros" and "warm" are upstream's buffers, zeroed or after its warm-up."""
        return AudioDecStream(self, batch_size, start, num_codebooks)


class AudioDecStream(CodecStream):
    """A session of `AudioDec.stream`: `push` of n samples returns n samples, or those that are final where the model looks ahead."""

    max_frames = 256
    """Frames that go through the network at once: bounds the memory for huge chunks."""

    def __init__(self, model: AudioDec, batch_size: int, start: str, num_codebooks: int | None):
        if start not in ("offline", "zeros", "warm"):
            raise UsageError(f"start: expected 'offline', 'zeros' or 'warm', got {start!r}")
        if not model.config.causal:
            raise UsageError("expected a causal model for streaming, got a centred one; build it with causal: true")
        if batch_size < 1:
            raise UsageError(f"batch_size: expected at least 1, got {batch_size}")
        if start != "offline" and model.config.look_ahead:
            raise UsageError(f"start: expected 'offline' for a model with look-ahead, got {start!r}; upstream's buffers know of none")
        if model.training and model.projector.norm is not None:
            raise UsageError("expected a model in evaluation mode for streaming with conv1d_bn, got one in training; call model.eval()")
        self._model, self._batch, self._levels = model, batch_size, num_codebooks
        self._encoder, self._projector = without_weight_norm(model.encoder), without_weight_norm(model.projector)
        self._decoder = without_weight_norm(model.decoder)
        self._encoder_state = (self._encoder.initial_state(batch_size), self._projector.initial_state(batch_size))
        self._decoder_state = self._decoder.initial_state(batch_size, zeros=start != "offline")
        codebook = model.quantizer.get_buffer("levels.0.codebook")
        self.delay = model.delay
        zeros, self._to_drop = model.advance
        self._pending = codebook.new_zeros(batch_size, model.channels, zeros)
        self._ready = codebook.new_zeros(batch_size, model.config.output_channels, 0)
        self._next = 0  # position of the first pending sample, modulo the hop
        self._heard = self._coded = 0  # samples taken and codes given by `encode`
        self._taken = self._given = 0  # samples through `push`
        self._ended = False
        if start == "warm":
            quiet = codebook.new_zeros(batch_size, model.channels, WARM_UP_SAMPLES // model.hop * model.hop)
            self.decode(self.encode(quiet))

    @torch.inference_mode()
    def encode(self, chunk: Tensor) -> Tensor:
        """Audio [B, C, t] -> codes [B, K, l]; after n samples in all, ceil((n - look_ahead) / hop) codes have come."""
        self._model.check_input(chunk, empty_ok=True)
        if chunk.shape[0] != self._batch:
            raise AudioError(f"expected chunks of {self._batch} streams as this session was opened for, got {chunk.shape[0]}")
        if self._ended:
            raise UsageError("expected no audio after the end, got a chunk; open a new stream")
        self._heard += chunk.shape[-1]
        return self._codes(chunk)

    def _codes(self, chunk: Tensor) -> Tensor:
        pending = torch.cat([self._pending, chunk.to(self._pending)], -1)
        hop = self._model.hop
        codes = []
        while (take := self._whole(pending.shape[-1], hop)) > 0:
            codes.append(self._encode(pending[..., :take]))
            pending = pending[..., take:]
            self._next = (self._next + take) % hop
        self._pending = pending.clone()
        if codes:
            return torch.cat(codes, -1)
        levels = self._model.num_codebooks if self._levels is None else self._levels
        return torch.zeros(self._batch, levels, 0, dtype=torch.int64, device=chunk.device)

    def _whole(self, waiting: int, hop: int) -> int:
        """How many of the waiting samples go in now: up to and with the last one that completes a code (position 0 of a hop)."""
        first = -self._next % hop + 1
        if waiting < first:
            return 0
        return first + min((waiting - first) // hop, self.max_frames) * hop

    def _encode(self, audio: Tensor) -> Tensor:
        encoder, projector = self._encoder_state
        h, encoder = self._encoder.step(audio, encoder)
        z, projector = self._projector.step(h, projector)
        self._encoder_state = (encoder, projector)
        dropped = min(self._to_drop, z.shape[-1])
        self._to_drop -= dropped
        codes = self._model.quantizer.encode(z[..., dropped:], self._levels)
        self._coded += codes.shape[-1]
        return codes

    @torch.inference_mode()
    def decode(self, codes: Tensor, missing: Tensor | None = None) -> Tensor:
        """Codes [B, k, l] -> audio [B, C, l * hop]."""
        self._model.check_codes(codes, empty_ok=True)
        self._model.check_missing(codes, missing)
        if codes.shape[0] != self._batch:
            raise FeatureError(f"expected codes of {self._batch} streams as this session was opened for, got {codes.shape[0]}")
        codes = codes.to(self._ready.device)
        audio = [self._ready[..., :0]]
        for first in range(0, codes.shape[-1], self.max_frames):
            part = codes[..., first : first + self.max_frames]
            y, self._decoder_state = self._decoder.step(self._model.quantizer.decode(part), self._decoder_state)
            audio.append(y)
        return torch.cat(audio, -1)

    @torch.inference_mode()
    def push(self, chunk: Tensor) -> Tensor:
        """Audio [B, C, t] -> the reconstruction that is final by now: without look-ahead, of just these samples."""
        codes = self.encode(chunk)
        self._taken += chunk.shape[-1]
        return self._cut(codes)

    def _cut(self, codes: Tensor) -> Tensor:
        """No more out than in: what a code says of samples that have not come yet waits for them."""
        ready = torch.cat([self._ready, self.decode(codes)], -1)
        count = min(self._taken - self._given, ready.shape[-1])
        self._given += count
        self._ready = ready[..., count:].clone()
        return ready[..., :count]

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """The rest [B, C, t]: none without look-ahead."""
        return self._cut(self.flush_codes())

    @torch.inference_mode()
    def flush_codes(self) -> Tensor:
        """The codes that wait for samples which do not come: [B, K, 0] without look-ahead."""
        zeros, dropped = self._model.advance
        frames = -(-self._heard // self._model.hop)
        if self._coded >= frames or self._ended:
            self._ended = bool(dropped)
            return self._codes(self._pending[..., :0])
        self._ended = True
        return self._codes(self._pending.new_zeros(self._batch, self._model.channels, (dropped + frames) * self._model.hop - zeros - self._heard))

    def flush_audio(self) -> Tensor:
        """Nothing is held back: [B, C, 0]."""
        return self._ready[..., :0]
