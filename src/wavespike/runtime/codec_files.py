"""Audio files to `.wsc` files and back with any codec, block by block: memory does not grow with the length.

`-` stands for standard input or output: WAV (PCM) for audio, raw bytes for codes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavespike.errors import AudioError, BitstreamError, CheckpointError, UsageError
from wavespike.models.base import Codec
from wavespike.nn.rvq import ResidualVQ
from wavespike.runtime.bitstream import Block, EntropyCoder, Header, Probabilities, WscReader, WscWriter, block_frames_for, read_header
from wavespike.signal.files import Reader, SampleFormat, Writer, replacing
from wavespike.signal.resample import Resampler, Samples, resampled_length

Conceal = Literal["model", "repeat", "silence"]
CHUNK_S = 1.0


@dataclasses.dataclass(frozen=True)
class Coded:
    """What `encode_file` did: lengths, size, and bits a second nominally and really."""

    samples: int
    sample_rate: int
    streams: int
    codebooks: int
    bytes: int
    nominal_bitrate: float
    resampled_from: int | None

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate

    @property
    def real_bitrate(self) -> float:
        return 8 * self.bytes / self.seconds


@dataclasses.dataclass(frozen=True)
class Decoded:
    """What `decode_file` did, and what was wrong with the file."""

    samples: int
    sample_rate: int
    model: str
    lost_blocks: int
    skipped_bytes: int
    truncated: bool
    missing_samples: int
    """Announced by the file and not in it."""
    clipped: int

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate

    @property
    def damaged(self) -> bool:
        return bool(self.lost_blocks or self.skipped_bytes or self.truncated or self.missing_samples)


def code_probabilities(quantizer: ResidualVQ) -> Probabilities:
    """Probability of every index of every level [K, N] from the moving averages of their use, smoothed by a tenth of the mean."""
    counts = np.stack([quantizer.get_buffer(f"levels.{k}.cluster_size").cpu().double().numpy() for k in range(quantizer.config.num_codebooks)])
    counts = np.clip(counts, 0, None) + 0.1 * counts.clip(min=0).mean(1, keepdims=True) + 1e-6
    probabilities: Probabilities = counts / counts.sum(1, keepdims=True)
    return probabilities


def encode_file(
    codec: Codec[Any], source: str | Path, target: str | Path, *, model_name: str, num_codebooks: int | None = None, entropy: bool = False,
    advance: Callable[[float], None] = lambda seconds: None,
) -> Coded:
    """An audio file (or `-`) -> a `.wsc` file (or `-`). Audio at another rate is resampled; channels beyond the model's become streams of their own.

    Raises AudioError for audio that cannot be used, OutputError for a target that cannot be written.
    """
    levels = codec.num_codebooks if num_codebooks is None else num_codebooks
    coder = EntropyCoder(code_probabilities(codec.quantizer_module)) if entropy else None
    with contextlib.ExitStack() as stack:
        audio = stack.enter_context(_audio_source(source))
        if audio.channels % codec.channels:
            raise AudioError(f"{source}: expected a multiple of the model's {codec.channels} channels, got {audio.channels}; mix or split the channels first")
        streams = audio.channels // codec.channels
        length = None if audio.frames is None else resampled_length(audio.frames, audio.rate_hz, codec.sample_rate)
        bits_per_frame = streams * levels * codec.quantizer_module.config.bits
        header = Header(
            model=model_name, fingerprint=codec.fingerprint(), sample_rate=codec.sample_rate, channels=audio.channels, streams=streams, hop=codec.hop,
            codebooks=levels, codebook_size=codec.codebook_size, block_frames=block_frames_for(codec.sample_rate, codec.hop, bits_per_frame),
            samples=length, entropy=entropy,
        )
        file = stack.enter_context(_binary_target(target))
        writer = WscWriter(file, header, coder)
        session = stack.enter_context(codec.stream(streams))
        samples = 0
        for chunk in _resampled(audio, codec.sample_rate):
            samples += chunk.shape[1]
            codes = session.encode(torch.from_numpy(chunk).view(streams, codec.channels, -1))
            writer.write(codes[:, :levels].cpu().numpy())
            file.flush()
            advance(chunk.shape[1] / codec.sample_rate)
        writer.write(session.flush_codes()[:, :levels].cpu().numpy())
        writer.close(samples)
        file.flush()
    resampled_from = audio.rate_hz if audio.rate_hz != codec.sample_rate else None
    return Coded(samples, codec.sample_rate, streams, levels, writer.bytes_written, header.bitrate, resampled_from)


def decode_file(
    codec: Codec[Any], source: str | Path, target: str | Path, *, model_name: str, conceal: Conceal | None = None, sample_format: SampleFormat = "int16",
    advance: Callable[[float], None] = lambda seconds: None,
) -> Decoded:
    """A `.wsc` file (or `-`) -> an audio file (or `-`, WAV). Lost blocks are concealed and counted, never fatal: by the codec itself where it can.

    Raises BitstreamError for a file without a sound header, CheckpointError for one made with other weights.
    """
    with contextlib.ExitStack() as stack:
        reader = WscReader(stack.enter_context(_binary_source(source)))
        h = reader.header
        check_belongs(h, codec, model_name)
        coder = EntropyCoder(code_probabilities(codec.quantizer_module)[: h.codebooks]) if h.entropy else None
        session = stack.enter_context(codec.stream(h.streams))
        channels = h.streams * codec.output_channels
        out = stack.enter_context(_audio_target(target, h, channels, sample_format))
        if conceal == "model" and not codec.conceals:
            raise UsageError(f"conceal: expected 'repeat' or 'silence' for a {type(codec).__name__}, got 'model'; it does not conceal lost frames itself")
        concealer = Concealer(h, channels, session.decode, conceal or ("model" if codec.conceals else "repeat"))
        written = 0
        held: Samples = np.zeros((channels, 0), np.float32)  # the exact length may come last, so the last frame waits
        for block in itertools.chain(reader.blocks(coder), (None,)):  # the end brings out what the session held back
            for audio in concealer.play(block) if block is not None else (concealer.as_samples(session.flush_audio()),):
                held = np.concatenate([held, audio], 1)
                ready = max(0, held.shape[1] - h.hop)
                if reader.samples is not None:
                    ready = min(held.shape[1], max(0, reader.samples - written))
                if ready:
                    out.write(held[:, :ready])
                    advance(ready / h.sample_rate)
                written, held = written + ready, held[:, ready:]
                if reader.samples is not None and written >= reader.samples:
                    held = held[:, :0]
        announced = reader.samples
        rest = held.shape[1] if announced is None else min(held.shape[1], max(0, announced - written))
        if rest:
            out.write(held[:, :rest])
            written += rest
    missing = 0 if announced is None else max(0, announced - written)
    return Decoded(written, h.sample_rate, h.model, reader.lost_blocks, reader.skipped_bytes, reader.truncated, missing, out.clipped)


def read_model_name(source: str | Path) -> str:
    """The model's name in a `.wsc` file's header."""
    if str(source) == "-":
        raise UsageError("expected --model when the codes come from standard input; the header is read only once")
    with _binary_source(source) as file:
        return read_header(file).model


def check_belongs(header: Header, codec: Codec[Any], model_name: str) -> None:
    """Raises CheckpointError, naming both models, unless the codec can read codes with this header."""
    if header.fingerprint != codec.fingerprint():
        raise CheckpointError(
            f"expected codes of {model_name!r} (weights {codec.fingerprint()[:8]}), got a file made with {header.model!r} (weights {header.fingerprint[:8]}); "
            f"decode it with --model {header.model}"
        )
    mine = (codec.sample_rate, codec.hop, codec.codebook_size)
    channels_fit = header.channels == header.streams * codec.channels
    if mine != (header.sample_rate, header.hop, header.codebook_size) or header.codebooks > codec.num_codebooks or not channels_fit:
        raise CheckpointError(f"expected a file at {mine[0]} Hz, hop {mine[1]}, {codec.num_codebooks} x {mine[2]} codes, {codec.channels} channels a stream, "
                              f"got {header.sample_rate} Hz, hop {header.hop}, {header.codebooks} x {header.codebook_size}, {header.channels} channels in {header.streams} streams; use the model it was made with")


class Concealer:
    """Blocks of codes -> audio [C, n]; for lost blocks what the model makes of it, the last frame repeated and faded out in 0.1 s, or silence.

    `decode` is that of a session; "model" needs one of a codec that conceals.
    """

    fade_s = 0.1

    def __init__(self, header: Header, channels: int, decode: Callable[..., Tensor], conceal: Conceal):
        if conceal not in ("model", "repeat", "silence"):
            raise UsageError(f"conceal: expected 'model', 'repeat' or 'silence', got {conceal!r}")
        self._header, self._decode, self._conceal = header, decode, conceal
        self._last: NDArray[np.int64] | None = None
        self._channels = channels

    def play(self, block: Block) -> Iterator[Samples]:
        """The audio of one block, in parts of at most about a second."""
        h = self._header
        second = max(1, h.sample_rate // h.hop)
        if block.codes is not None:
            self._last = block.codes[..., -1:]
            for start in range(0, block.frames, second):
                yield self._audio(block.codes[..., start : start + second])
            return
        frames = block.frames
        if self._conceal == "model":
            for start in range(0, frames, second):
                lost = torch.ones(h.streams, min(second, frames - start), dtype=torch.bool)
                yield self.as_samples(self._decode(torch.zeros(h.streams, h.codebooks, lost.shape[1], dtype=torch.int64), lost))
            return
        if self._conceal == "repeat" and self._last is not None:
            faded = min(frames, max(1, round(self.fade_s * h.sample_rate / h.hop)))
            audio = self._audio(np.repeat(self._last, faded, -1))
            yield audio * np.linspace(1, 0, audio.shape[1], dtype=np.float32)
            frames -= faded
            self._last = None  # a following lost block is silent
        for start in range(0, frames, second):
            yield np.zeros((self._channels, min(second, frames - start) * h.hop), np.float32)

    def _audio(self, codes: NDArray[np.int64]) -> Samples:
        return self.as_samples(self._decode(torch.from_numpy(np.ascontiguousarray(codes))))

    @staticmethod
    def as_samples(audio: Tensor) -> Samples:
        """Audio of a session [S, C / S, n] -> [C, n]."""
        return np.ascontiguousarray(audio.reshape(-1, audio.shape[-1]).cpu().numpy())


def _resampled(audio: Reader | WaveIn, rate_hz: int) -> Iterator[Samples]:
    """Blocks of about a second [C, n] at `rate_hz`."""
    resampler = Resampler(audio.rate_hz, rate_hz, audio.channels)
    for block in audio.blocks(max(1, round(CHUNK_S * audio.rate_hz))):
        chunk = resampler.push(block)
        if chunk.shape[1]:
            yield chunk
    rest = resampler.flush()
    if rest.shape[1]:
        yield rest


class WaveIn:
    """PCM WAV from a pipe (the standard library's reader needs no seeking): as `Reader`."""

    def __init__(self, stream: BinaryIO):
        try:
            self._wave = wave.open(stream, "rb")  # noqa: SIM115 - the stream is not ours to close
        except (wave.Error, EOFError) as error:
            raise AudioError(f"standard input: expected PCM WAV, got {error or 'nothing'}; convert it first") from error
        self.rate_hz, self.channels = self._wave.getframerate(), self._wave.getnchannels()
        self._width = self._wave.getsampwidth()
        if self._width not in (2, 3, 4) or self.channels < 1 or self.rate_hz < 1:
            raise AudioError(f"standard input: expected 16, 24 or 32-bit PCM WAV, got {8 * self._width} bits")
        self.frames: int | None = None  # writers to a pipe cannot know

    def blocks(self, frames: int) -> Iterator[Samples]:
        done = 0
        while data := self._wave.readframes(frames):
            data = data[: len(data) // (self._width * self.channels) * self._width * self.channels]
            if self._width == 3:
                wide = np.zeros((len(data) // 3, 4), np.uint8)
                wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
                samples = wide.reshape(-1).view("<i4").astype(np.float32) / 2**31
            else:
                samples = np.frombuffer(data, f"<i{self._width}").astype(np.float32) / 2 ** (8 * self._width - 1)
            block = samples.reshape(-1, self.channels).T
            if not block.shape[1]:
                break
            done += block.shape[1]
            yield np.ascontiguousarray(block, np.float32)
        if done == 0:
            raise AudioError("standard input: expected at least one sample of audio, got none")


class WaveOut:
    """16-bit PCM WAV to a pipe; with an unknown length the header says the largest possible. As `Writer`."""

    def __init__(self, stream: BinaryIO, rate_hz: int, channels: int, frames: int | None):
        self._stream, self._channels = stream, channels
        self.clipped = 0
        size = 2 * channels * frames if frames is not None else 0xFFFFFFFF - 36
        size = min(size, 0xFFFFFFFF - 36)
        header = io.BytesIO()
        with wave.open(header, "wb") as head:
            head.setnchannels(channels)
            head.setsampwidth(2)
            head.setframerate(rate_hz)
        data = bytearray(header.getvalue())
        data[4:8], data[40:44] = (size + 36).to_bytes(4, "little"), size.to_bytes(4, "little")
        stream.write(bytes(data))

    def write(self, block: Samples) -> None:
        self.clipped += int((np.abs(block) > 1).sum())
        self._stream.write((np.clip(block, -1, 1).T * 32767).round().astype("<i2").tobytes())


@contextlib.contextmanager
def _audio_source(source: str | Path) -> Iterator[Reader | WaveIn]:
    if str(source) == "-":
        yield WaveIn(sys.stdin.buffer)
        return
    with Reader(source) as reader:
        yield reader


@contextlib.contextmanager
def _audio_target(target: str | Path, header: Header, channels: int, sample_format: SampleFormat) -> Iterator[Writer | WaveOut]:
    if str(target) == "-":
        yield WaveOut(sys.stdout.buffer, header.sample_rate, channels, header.samples)
        sys.stdout.buffer.flush()
        return
    with Writer(target, header.sample_rate, channels, sample_format) as writer:
        yield writer


@contextlib.contextmanager
def _binary_source(source: str | Path) -> Iterator[BinaryIO]:
    if str(source) == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(source).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise BitstreamError(f"{source}: expected a .wsc file, got {error.strerror or error}; check the path") from error
    with file:
        yield cast(BinaryIO, file)


@contextlib.contextmanager
def _binary_target(target: str | Path) -> Iterator[BinaryIO]:
    if str(target) == "-":
        yield sys.stdout.buffer
        return
    with replacing(target) as temporary, temporary.open("wb") as file:
        yield cast(BinaryIO, file)
