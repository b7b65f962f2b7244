"""The `.wsc` file: codes of a neural codec, bit-packed in independently checked blocks. The format is specified in docs/format-wsc.md.

Nothing here knows a network: a file is a `Header` and blocks of codes [S, K, l] (S streams, K codebooks, l frames). Whatever bytes come, reading ends
with codes in range or with a BitstreamError, and holds one block in memory.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from wavespike.errors import BitstreamError, FeatureError, MissingDependencyError

Codes = NDArray[np.int64]
Probabilities = NDArray[np.float64]

MAGIC, VERSION = b"\x89WSC", 1
UNKNOWN = 2**64 - 1
"""`samples` of a stream whose length was not known when the header was written."""
_FIXED = struct.Struct("<4sHHIHHIHIHQB16sB")  # everything up to the name
_BLOCK = struct.Struct("<BBHBHI")  # sync, kind, index low 16 bits, index high 8 bits, frames, CRC-32
_SYNC, _PACKED, _RANGE, _END = 0xA5, ord("P"), ord("R"), ord("E")
_MOST_LOST_S = 600
"""A block that claims to follow after a longer gap is taken for damage."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself. `samples` is the exact length at `sample_rate` (None: unknown until the end)."""

    model: str
    fingerprint: str
    """32 hexadecimal digits: `Codec.fingerprint()`."""
    sample_rate: int
    channels: int
    streams: int
    """Independent streams of codes; each carries channels / streams channels."""
    hop: int
    codebooks: int
    codebook_size: int
    block_frames: int
    samples: int | None = None
    entropy: bool = False

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise BitstreamError(f"expected a possible header, got {problem}")

    def _problem(self) -> str:
        """What is impossible, or an empty string. The limits bound what a reader allocates."""
        limits = {"sample_rate": 2**24, "channels": 256, "streams": 256, "hop": 2**16, "codebooks": 64, "codebook_size": 2**16, "block_frames": 2**16 - 1}
        for name, most in limits.items():
            if not 1 <= getattr(self, name) <= most:
                return f"{name} {getattr(self, name)} outside 1..{most}"
        if self.channels % self.streams:
            return f"{self.channels} channels in {self.streams} streams"
        if self.codebook_size < 2:
            return f"codebook_size {self.codebook_size}"
        if self.block_bytes(self.block_frames) > 2**20:
            return f"blocks of {self.block_bytes(self.block_frames)} bytes"
        if self.block_frames * self.hop > 60 * self.sample_rate:
            return f"blocks of {self.block_frames * self.hop / self.sample_rate:.0f} s"
        return ""

    @property
    def bits(self) -> int:
        """Bits an index takes when packed."""
        return (self.codebook_size - 1).bit_length()

    @property
    def bitrate(self) -> float:
        """Packed bits a second without the container."""
        return self.streams * self.codebooks * self.bits * self.sample_rate / self.hop

    def block_bytes(self, frames: int) -> int:
        """Bytes of a packed payload of so many frames."""
        return (self.streams * self.codebooks * self.bits * frames + 7) // 8

    def to_bytes(self) -> bytes:
        name = self.model.encode()
        while len(name) > 255:
            name = name.decode()[:-1].encode()
        body = _FIXED.pack(
            MAGIC, VERSION, _FIXED.size + len(name) + 4, self.sample_rate, self.channels, self.streams, self.hop, self.codebooks, self.codebook_size,
            self.block_frames, UNKNOWN if self.samples is None else self.samples, int(self.entropy), bytes.fromhex(self.fingerprint), len(name),
        ) + name
        return body + struct.pack("<I", zlib.crc32(body))


def block_frames_for(sample_rate: int, hop: int, bits_per_frame: int) -> int:
    """Frames of a block: about a second, and longer (up to eight) where a second has fewer than 800 bytes, so that the container stays below 2 %."""
    second = max(1, round(sample_rate / hop))
    wanted = -(-8 * 800 // bits_per_frame)
    return min(max(second, min(wanted, 8 * second)), max(1, 2**23 // bits_per_frame), 2**16 - 1)


def read_header(file: BinaryIO) -> Header:
    """The header at the start of a binary file. Raises BitstreamError when it is none, of a later version, or damaged."""
    fixed = _read_exactly(file, _FIXED.size)
    if fixed[:4] != MAGIC:
        raise BitstreamError("expected a .wsc file, got another kind of file; encode audio with `wavespike encode`")
    if len(fixed) < _FIXED.size:
        raise BitstreamError(f"expected a header of at least {_FIXED.size + 4} bytes, got {len(fixed)}: the file is truncated")
    (_, version, size, rate, channels, streams, hop, codebooks, codebook_size, block_frames, samples, coding, fingerprint, name_bytes) = _FIXED.unpack(fixed)
    if version != VERSION:
        raise BitstreamError(f"expected version {VERSION} of the format, got {version}; update wavespike")
    rest = _read_exactly(file, name_bytes + 4)
    if size != _FIXED.size + name_bytes + 4 or len(rest) < name_bytes + 4:
        raise BitstreamError("expected a whole header, got a damaged or truncated one; without it nothing can be decoded")
    if zlib.crc32(fixed + rest[:-4]) != struct.unpack("<I", rest[-4:])[0] or coding not in (0, 1):
        raise BitstreamError("expected a header with its checksum, got a damaged one; without it nothing can be decoded")
    return Header(
        model=rest[:-4].decode("utf-8", "replace"), fingerprint=fingerprint.hex(), sample_rate=rate, channels=channels, streams=streams, hop=hop,
        codebooks=codebooks, codebook_size=codebook_size, block_frames=block_frames, samples=None if samples == UNKNOWN else samples, entropy=bool(coding),
    )


def _read_exactly(file: BinaryIO, count: int) -> bytes:
    parts, left = [], count
    while left > 0 and (part := file.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def pack(codes: Codes, bits: int) -> bytes:
    """Codes [S, K, l] -> bytes: frame by frame, stream by stream, level by level, each index in `bits` bits, most significant first."""
    flat = codes.transpose(2, 0, 1).reshape(-1, 1)  # [l * S * K, 1]
    planes = (flat >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(planes.astype(np.uint8).reshape(-1)).tobytes()


def unpack(data: bytes, streams: int, codebooks: int, frames: int, bits: int) -> Codes:
    """Inverse of `pack` -> [S, K, l] int64."""
    count = streams * codebooks * frames
    planes = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits).reshape(count, bits)
    flat = planes.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))
    return flat.reshape(frames, streams, codebooks).transpose(1, 2, 0)


class EntropyCoder:
    """Range coding (Martin, 1979; constriction, Bamler, 2022) with fixed probabilities of every level's indices [K, N].

    Blocks stay independent: each is coded from a fresh coder, level after level.
    """

    def __init__(self, probabilities: Probabilities):
        try:
            import constriction
        except ImportError as error:
            raise MissingDependencyError("entropy coding", "constriction", "entropy") from error
        self._queue = constriction.stream.queue
        self._models = [constriction.stream.model.Categorical(p, perfect=False) for p in probabilities.astype(np.float64)]

    def encode(self, codes: Codes) -> bytes:
        """Codes [S, K, l] -> bytes."""
        encoder = self._queue.RangeEncoder()
        for k in range(codes.shape[1]):
            encoder.encode(np.ascontiguousarray(codes[:, k].reshape(-1), np.int32), self._models[k])
        return np.asarray(encoder.get_compressed()).astype("<u4").tobytes()

    def decode(self, data: bytes, streams: int, codebooks: int, frames: int) -> Codes:
        """Inverse of `encode`. Raises ValueError for bytes that no encoder wrote."""
        if len(data) % 4:
            raise ValueError("not whole words")
        decoder = self._queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
        levels = [np.asarray(decoder.decode(self._models[k], streams * frames)) for k in range(codebooks)]
        return np.stack(levels, 1).reshape(streams, frames, codebooks).transpose(0, 2, 1).astype(np.int64)


def _block(kind: int, index: int, frames: int, payload: bytes) -> bytes:
    head = _BLOCK.pack(_SYNC, kind, index & 0xFFFF, index >> 16, frames, 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))) + payload


class WscWriter:
    """Writes a header, then codes as they come, then `close(samples)`. The file needs only `write`: a pipe will do."""

    def __init__(self, file: BinaryIO, header: Header, coder: EntropyCoder | None = None):
        self._file, self.header, self._coder = file, header, coder
        self._index = 0
        self._waiting: Codes = np.zeros((header.streams, header.codebooks, 0), np.int64)
        self.bytes_written = self._write(header.to_bytes())

    def _write(self, data: bytes) -> int:
        self._file.write(data)
        return len(data)

    def write(self, codes: Codes) -> None:
        """The next codes [S, K, l]. Raises FeatureError when they do not fit the header."""
        h = self.header
        if codes.ndim != 3 or codes.shape[:2] != (h.streams, h.codebooks):
            raise FeatureError(f"expected codes [{h.streams}, {h.codebooks}, frames], got {list(codes.shape)}")
        if codes.size and not (codes.min() >= 0 and codes.max() < h.codebook_size):
            raise FeatureError(f"expected codes in 0..{h.codebook_size - 1}, got {codes.min()}..{codes.max()}")
        self._waiting = np.concatenate([self._waiting, codes], -1)
        while self._waiting.shape[-1] >= h.block_frames:
            self._flush(h.block_frames)

    def _flush(self, frames: int) -> None:
        if self._index >= 2**24:
            raise BitstreamError(f"expected at most {2**24} blocks in a file, got more; begin another file")
        codes, self._waiting = self._waiting[..., :frames], self._waiting[..., frames:]
        payload, kind = pack(codes, self.header.bits), _PACKED
        if self._coder is not None:
            shorter = self._coder.encode(codes)
            if len(shorter) + 2 < len(payload) and len(shorter) < 2**16:
                payload, kind = struct.pack("<H", len(shorter)) + shorter, _RANGE
        self.bytes_written += self._write(_block(kind, self._index, frames, payload))
        self._index += 1

    def close(self, samples: int) -> None:
        """Write the last block and the end, with the exact number of samples. Does not close the file."""
        if self._waiting.shape[-1]:
            self._flush(self._waiting.shape[-1])
        self.bytes_written += self._write(_block(_END, self._index, 0, struct.pack("<Q", samples)))


@dataclasses.dataclass(frozen=True)
class Block:
    """Codes [S, K, l] of consecutive frames, or None where a block was lost; `frames` is l."""

    frames: int
    codes: Codes | None


class WscReader:
    """Reads codes block by block from anything with `read`. After `blocks()` is exhausted, `samples` and the counts of damage are final."""

    def __init__(self, file: BinaryIO):
        self._read = getattr(file, "read1", file.read)  # a pipe gives what it has: no waiting for a full buffer
        self.header = read_header(file)
        self.samples = self.header.samples
        self.lost_blocks = 0
        self.skipped_bytes = 0
        self.truncated = False
        """No end mark was found."""
        self._buffer = b""
        self._ended = False
        self._cut = False  # the file ended inside what looked like a block

    @property
    def damaged(self) -> bool:
        return bool(self.lost_blocks or self.skipped_bytes or self.truncated)

    def _fill(self, count: int) -> bool:
        """Hold at least `count` bytes in the buffer, if there are as many."""
        while len(self._buffer) < count and not self._ended:
            part = self._read(max(count - len(self._buffer), 1 << 14))
            self._ended = not part
            self._buffer += part
        return len(self._buffer) >= count

    def blocks(self, coder: EntropyCoder | None = None) -> Iterator[Block]:
        """The codes in order. A lost block is one without codes; damage between blocks is skipped to the next sound one.

        Raises BitstreamError for a file with entropy coding when no coder is given.
        """
        h = self.header
        if h.entropy and coder is None:
            raise BitstreamError("expected an entropy coder for this file, got none; the codec's statistics are needed")
        expected = 0
        most_lost = max(1, int(_MOST_LOST_S * h.sample_rate / (h.hop * h.block_frames)))
        while True:
            found = self._parse(expected, most_lost, coder)
            if found is None:
                if self._skip():
                    continue
                self.truncated = True
                if self._cut:
                    self.lost_blocks += 1
                    yield Block(h.block_frames, None)
                return
            kind, index, frames, codes, samples = found
            for _ in range(index - expected):
                self.lost_blocks += 1
                yield Block(h.block_frames, None)
            if kind == _END:
                self.samples = samples
                self.skipped_bytes += len(self._buffer) if self._fill(1) else 0
                return
            self._cut = False
            expected = index + 1
            if codes is None:
                self.lost_blocks += 1
            yield Block(frames, codes)

    def _skip(self) -> bool:
        """Drop bytes up to the next possible block start. False at the end of the file."""
        first = 1
        while (at := self._buffer.find(_SYNC, first)) < 0:
            self.skipped_bytes += len(self._buffer)
            self._buffer, first = b"", 0
            if not self._fill(1):
                return False
        self.skipped_bytes += at
        self._buffer = self._buffer[at:]
        return True

    def _parse(self, expected: int, most_lost: int, coder: EntropyCoder | None) -> tuple[int, int, int, Codes | None, int | None] | None:
        """A sound block at the start of the buffer (kind, index, frames, codes, samples), removed from it; None when there is none."""
        h = self.header
        if not self._fill(_BLOCK.size):
            return None
        sync, kind, low, high, frames, crc = _BLOCK.unpack_from(self._buffer)
        index = high << 16 | low
        if sync != _SYNC or not expected <= index <= expected + most_lost:
            return None
        if kind == _END and frames == 0:
            size = 8
        elif kind == _PACKED and 1 <= frames <= h.block_frames:
            size = h.block_bytes(frames)
        elif kind == _RANGE and h.entropy and 1 <= frames <= h.block_frames and self._fill(_BLOCK.size + 2):
            size = 2 + struct.unpack_from("<H", self._buffer, _BLOCK.size)[0]
            if size > h.block_bytes(frames):
                return None
        else:
            return None
        if not self._fill(_BLOCK.size + size):
            self._cut = True
            return None
        payload = self._buffer[_BLOCK.size : _BLOCK.size + size]
        if zlib.crc32(payload, zlib.crc32(self._buffer[: _BLOCK.size - 4])) != crc:
            return None
        self._buffer = self._buffer[_BLOCK.size + size :]
        if kind == _END:
            return kind, index, 0, None, struct.unpack("<Q", payload)[0]
        return kind, index, frames, self._codes(kind, payload, frames, coder), None

    def _codes(self, kind: int, payload: bytes, frames: int, coder: EntropyCoder | None) -> Codes | None:
        """Codes [S, K, l] of a block whose checksum fits; None when they are impossible (no writer of ours made it)."""
        h = self.header
        if kind == _PACKED:
            codes = unpack(payload, h.streams, h.codebooks, frames, h.bits)
        else:
            assert coder is not None
            try:
                codes = coder.decode(payload[2:], h.streams, h.codebooks, frames)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:  # a panic of the extension is no Exception
                return None
        return codes if codes.min() >= 0 and codes.max() < h.codebook_size else None
