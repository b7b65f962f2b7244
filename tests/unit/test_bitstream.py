"""The `.wsc` format: what is written is read, damage is found and survived, and no bytes crash the reader."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import random
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavespike.errors import BitstreamError, FeatureError
from wavespike.runtime.bitstream import EntropyCoder, Header, WscReader, WscWriter, block_frames_for, pack, read_header, unpack

HEADER = Header(model="toy", fingerprint="00112233445566778899aabbccddeeff", sample_rate=800, channels=2, streams=2, hop=10, codebooks=3, codebook_size=32,
                block_frames=8, samples=293)

needs_constriction = pytest.mark.skipif(importlib.util.find_spec("constriction") is None, reason="needs the package constriction (extra entropy)")


def some_codes(frames: int, header: Header = HEADER, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, header.codebook_size, (header.streams, header.codebooks, frames))


def written(codes: np.ndarray, header: Header = HEADER, coder: EntropyCoder | None = None, samples: int = 293) -> bytes:
    file = io.BytesIO()
    writer = WscWriter(file, header, coder)
    for start in range(0, codes.shape[-1], 5):
        writer.write(codes[..., start : start + 5])
    writer.close(samples)
    assert writer.bytes_written == len(file.getvalue())
    return file.getvalue()


def read(data: bytes, coder: EntropyCoder | None = None) -> tuple[WscReader, list]:
    reader = WscReader(io.BytesIO(data))
    return reader, list(reader.blocks(coder))


@given(bits=st.integers(1, 16), streams=st.integers(1, 3), codebooks=st.integers(1, 5), frames=st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_unpacking_undoes_packing_at_nominal_size(bits, streams, codebooks, frames):
    codes = np.random.default_rng(0).integers(0, 2**bits, (streams, codebooks, frames))
    data = pack(codes, bits)
    assert len(data) == -(-bits * codes.size // 8)
    assert np.array_equal(unpack(data, streams, codebooks, frames, bits), codes)


def test_what_is_written_is_read():
    codes = some_codes(30)
    reader, blocks = read(written(codes))
    assert reader.header == HEADER
    assert [b.frames for b in blocks] == [8, 8, 8, 6]
    assert np.array_equal(np.concatenate([b.codes for b in blocks], -1), codes)
    assert reader.samples == 293
    assert not reader.damaged


def test_the_layout_is_the_documented_one():
    """Fields at the offsets of docs/format-wsc.md, read with nothing of ours."""
    data = written(some_codes(3), dataclasses.replace(HEADER, samples=None), samples=25)
    assert data[:4] == b"\x89WSC"
    assert struct.unpack_from("<HHIHHIHIHQB", data, 4) == (1, 61, 800, 2, 2, 10, 3, 32, 8, 2**64 - 1, 0)
    assert data[37:53].hex() == HEADER.fingerprint
    assert data[53] == 3
    assert data[54:57] == b"toy"
    assert struct.unpack_from("<I", data, 57)[0] == zlib.crc32(data[:57])
    sync, kind, low, high, frames, crc = struct.unpack_from("<BBHBHI", data, 61)
    assert (sync, kind, low, high, frames) == (0xA5, ord("P"), 0, 0, 3)
    payload = data[72 : 72 + -(-2 * 3 * 5 * 3 // 8)]
    assert crc == zlib.crc32(data[61:68] + payload)
    end = data[72 + len(payload) :]
    assert end[:2] == b"\xa5E"
    assert struct.unpack("<Q", end[-8:])[0] == 25


def test_length_may_be_known_only_at_the_end():
    reader, _ = read(written(some_codes(30), dataclasses.replace(HEADER, samples=None)))
    assert reader.header.samples is None
    assert reader.samples == 293


@pytest.mark.parametrize("at", [70, 90, 130, 200])
def test_a_damaged_block_costs_itself_only(at):
    codes = some_codes(80)
    data = bytearray(written(codes))
    data[at] ^= 0x10
    reader, blocks = read(bytes(data))
    assert reader.lost_blocks == 1
    assert reader.skipped_bytes > 0
    assert sum(b.frames for b in blocks) == 80
    at_frame = 0
    for block in blocks:
        assert block.codes is None or np.array_equal(block.codes, codes[..., at_frame : at_frame + block.frames])
        at_frame += block.frames


def test_lost_and_inserted_bytes_are_resynchronised():
    codes = some_codes(80)
    data = written(codes)
    for broken in (data[:100] + data[130:], data[:100] + bytes(range(256)) + data[100:]):
        reader, blocks = read(broken)
        assert reader.damaged
        assert sum(b.frames for b in blocks) == 80
        assert sum(b.codes is not None for b in blocks) >= 8


def test_a_truncated_file_says_so_and_the_cut_block_is_lost():
    data = written(some_codes(80))
    reader, blocks = read(data[: 61 + 3 * 41 + 20])
    assert reader.truncated
    assert [b.codes is None for b in blocks] == [False, False, False, True]
    reader, blocks = read(data[:61])
    assert reader.truncated
    assert blocks == []


def test_damage_in_the_header_is_refused_in_one_line():
    data = written(some_codes(8))
    for broken, message in ((b"RIFF" + data[4:], "another kind"), (b"", "another kind"), (data[:30], "truncated"), (data[:60], "damaged or truncated"),
                            (data[:4] + b"\x02" + data[5:], "version"), (data[:20] + b"\xff" + data[21:], "checksum")):
        with pytest.raises(BitstreamError, match=message) as caught:
            WscReader(io.BytesIO(broken))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"block_frames": 0}, {"codebooks": 65}, {"sample_rate": 0}, {"streams": 3}, {"codebook_size": 1}, {"block_frames": 60000},
                                    {"hop": 65536}])
def test_an_impossible_header_is_refused_even_with_a_right_checksum(change):
    with pytest.raises(BitstreamError, match="possible header"):
        dataclasses.replace(HEADER, **change)


def test_codes_outside_the_codebook_are_not_passed_on():
    """A block of 5-bit indices of a codebook of 20: values 20 to 31 fit the bits but not the model."""
    data = written(np.full((2, 3, 8), 31))
    small = dataclasses.replace(HEADER, codebook_size=20)
    reader, blocks = read(small.to_bytes() + data[len(HEADER.to_bytes()) :])
    assert [b.codes for b in blocks] == [None]
    assert reader.lost_blocks == 1
    with pytest.raises(FeatureError, match=r"0\.\.31"):
        written(np.full((2, 3, 8), 32))
    with pytest.raises(FeatureError, match="codes"):
        written(np.zeros((2, 4, 8), np.int64))


def test_a_long_gap_is_damage_not_an_order_for_silence():
    data = bytearray(written(some_codes(16)))
    second = 61 + 41
    data[second + 2 : second + 5] = b"\xff\xff\xff"
    head = bytes(data[second : second + 7])
    data[second + 7 : second + 11] = struct.pack("<I", zlib.crc32(head + bytes(data[second + 11 : second + 41])))
    _, blocks = read(bytes(data))
    assert len(blocks) < 5


def mutate(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, what = rng.randrange(len(out)), rng.randrange(6)
        if what == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            out[at] = rng.choice([0, 255, 0xA5, ord("P"), ord("R"), ord("E")])
        elif what == 2:
            del out[at : at + rng.randint(1, 40)]
        elif what == 3:
            out[at:at] = rng.randbytes(rng.randint(1, 40))
        elif what == 4:
            out = out[: at + 1]
        else:
            length = rng.randint(1, 60)
            out[at:at] = out[max(0, at - length) : at]
        if not out:
            out = bytearray(b"\0")
    if rng.random() < 0.3 and len(out) > 61:  # a right checksum over wrong fields gets deeper
        out[57:61] = struct.pack("<I", zlib.crc32(bytes(out[:57])))
    return bytes(out)


def test_ten_thousand_mutated_files_never_crash_and_never_give_impossible_codes():
    data = written(some_codes(40))
    rng = random.Random(0)
    start, refused, longest = time.monotonic(), 0, 0
    for _ in range(10_000):
        broken = mutate(data, rng)
        try:
            reader = WscReader(io.BytesIO(broken))
            frames = 0
            for block in reader.blocks(None) if not reader.header.entropy else ():
                frames += block.frames
                if block.codes is not None:
                    assert block.codes.min() >= 0
                    assert block.codes.max() < reader.header.codebook_size
                    assert block.codes.shape == (reader.header.streams, reader.header.codebooks, block.frames)
            longest = max(longest, frames * reader.header.hop / reader.header.sample_rate)
        except BitstreamError:
            refused += 1
    assert 100 < refused < 9_900
    assert longest < 3600
    assert time.monotonic() - start < 120


@pytest.mark.parametrize(("rate", "hop", "bits"), [(24000, 300, 80), (48000, 300, 80), (48000, 320, 160), (24000, 300, 40)])
def test_a_minute_is_within_2_percent_of_its_nominal_size(rate, hop, bits):
    header = Header(model="audiodec-24k", fingerprint="0" * 32, sample_rate=rate, channels=1, streams=1, hop=hop, codebooks=bits // 10, codebook_size=1024,
                    block_frames=block_frames_for(rate, hop, bits), samples=60 * rate)
    data = written(some_codes(60 * rate // hop, header), header, samples=60 * rate)
    assert 1 <= 8 * len(data) / 60 / header.bitrate < 1.02


@needs_constriction
class TestEntropy:
    skewed = np.repeat((1.5 ** -np.arange(32.0) / (1.5 ** -np.arange(32.0)).sum())[None], 3, 0)
    header = dataclasses.replace(HEADER, entropy=True, block_frames=320)

    def codes(self, frames: int) -> np.ndarray:
        return np.random.default_rng(0).choice(32, (2, 3, frames), p=self.skewed[0])

    def test_it_is_lossless_and_near_the_entropy(self):
        codes, coder = self.codes(640), EntropyCoder(self.skewed)
        data = written(codes, self.header, coder)
        reader, blocks = read(data, EntropyCoder(self.skewed))
        assert np.array_equal(np.concatenate([b.codes for b in blocks], -1), codes)
        assert not reader.damaged
        entropy = -(self.skewed[0] * np.log2(self.skewed[0])).sum()
        assert 8 * len(data) < 1.1 * entropy * codes.size
        assert len(data) < len(written(codes, dataclasses.replace(self.header, entropy=False)))

    def test_a_block_that_would_grow_stays_packed(self):
        codes = 31 - self.codes(64)
        assert len(written(codes, self.header, EntropyCoder(self.skewed))) == len(written(codes, dataclasses.replace(self.header, entropy=False)))

    def test_mutated_payloads_with_right_checksums_never_crash(self):
        coder = EntropyCoder(self.skewed)
        data = written(self.codes(64), self.header, coder)
        start = len(self.header.to_bytes())
        rng = random.Random(1)
        for _ in range(500):
            broken = bytearray(data)
            size = struct.unpack_from("<H", data, start + 11)[0]
            for _ in range(3):
                broken[start + 13 + rng.randrange(size)] = rng.randrange(256)
            broken[start + 7 : start + 11] = struct.pack("<I", zlib.crc32(bytes(broken[start : start + 7]) + bytes(broken[start + 11 : start + 13 + size])))
            _, blocks = read(bytes(broken), coder)
            assert blocks[0].codes is None or blocks[0].codes.max() < 32

    def test_it_is_refused_without_a_coder(self):
        reader = WscReader(io.BytesIO(written(self.codes(64), self.header, EntropyCoder(self.skewed))))
        with pytest.raises(BitstreamError, match="entropy coder"):
            list(reader.blocks())


def test_header_alone_is_readable():
    assert read_header(io.BytesIO(written(some_codes(3)))).model == "toy"
