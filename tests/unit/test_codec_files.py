"""Audio to `.wsc` and back through a codec: any mutated file ends in audio or in one line, lost time is kept, wrong weights are refused."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from wavespike.errors import CheckpointError, WavespikeError
from wavespike.models.audiodec import AudioDec, AudioDecConfig, DecoderConfig, EncoderConfig
from wavespike.nn.rvq import RVQConfig
from wavespike.runtime.bitstream import read_header
from wavespike.runtime.codec_files import check_belongs, code_probabilities, decode_file, encode_file

RATE = 8000


def make_codec(channels: int = 1, outputs: int = 1) -> AudioDec:
    torch.manual_seed(0)
    return AudioDec(AudioDecConfig(
        sample_rate=RATE, input_channels=channels, output_channels=outputs, quantizer=RVQConfig(dim=4, num_codebooks=2, codebook_size=16), activate=True,
        encoder=EncoderConfig(channels=2, strides=(4, 10), ratios=(2, 4)), decoder=DecoderConfig(channels=2, strides=(10, 4), ratios=(4, 2)))).eval()


@pytest.fixture
def coded(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "in.wav", 0.3 * np.random.default_rng(0).standard_normal(10 * RATE), RATE)
    encode_file(make_codec(), tmp_path / "in.wav", tmp_path / "in.wsc", model_name="toy")
    return tmp_path / "in.wsc"


def test_mutated_files_end_in_audio_or_in_one_line(coded: Path) -> None:
    data, rng, codec = coded.read_bytes(), random.Random(0), make_codec()
    decoded, refused = [], []
    for _ in range(150):
        broken = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            broken[rng.randrange(len(broken)) if rng.random() < 0.5 else rng.randrange(61)] = rng.randrange(256)
        if rng.random() < 0.5:  # a right checksum over wrong fields gets past the first door
            broken[57:61] = struct.pack("<I", zlib.crc32(bytes(broken[:57])))
        if rng.random() < 0.3:
            broken = broken[: rng.randrange(1, len(broken))]
        coded.write_bytes(bytes(broken))
        try:
            done = decode_file(codec, coded, coded.with_suffix(".wav"), model_name="toy")
            decoded.append(done.samples)
        except WavespikeError as error:
            refused.append(str(error))
    assert len(decoded) > 10
    assert max(decoded) <= 700 * RATE
    assert len(refused) > 10
    assert not any("\n" in message for message in refused)


def test_lost_blocks_keep_the_time_of_what_follows(coded: Path) -> None:
    codec = make_codec()
    decode_file(codec, coded, coded.with_suffix(".wav"), model_name="toy", sample_format="float")
    whole, _ = soundfile.read(coded.with_suffix(".wav"))
    data = bytearray(coded.read_bytes())
    header = read_header(coded.open("rb"))
    data[len(header.to_bytes()) + 11 + 5] ^= 1  # the first block
    coded.write_bytes(bytes(data))
    done = decode_file(codec, coded, coded.with_suffix(".wav"), model_name="toy", sample_format="float")
    broken, _ = soundfile.read(coded.with_suffix(".wav"))
    assert done.lost_blocks == 1
    assert done.missing_samples == 0
    assert broken.shape == whole.shape
    after = header.block_frames * header.hop + 8000  # and the decoder's memory of the lost frames has faded
    assert len(whole) - after > RATE
    assert np.abs(broken[after:] - whole[after:]).max() < 1e-4


def test_channels_of_a_many_to_one_codec_are_those_of_its_output(tmp_path: Path) -> None:
    codec = make_codec(channels=2, outputs=1)
    soundfile.write(tmp_path / "in.wav", 0.3 * np.random.default_rng(0).standard_normal((RATE, 2)), RATE)
    encode_file(codec, tmp_path / "in.wav", tmp_path / "in.wsc", model_name="toy")
    decode_file(codec, tmp_path / "in.wsc", tmp_path / "out.wav", model_name="toy")
    assert soundfile.info(tmp_path / "out.wav").channels == 1
    other = make_codec(channels=2, outputs=1)
    other.quantizer.levels[0].codebook += 1
    with (tmp_path / "in.wsc").open("rb") as file:
        header = read_header(file)
    with pytest.raises(CheckpointError, match=r"codes of 'other'.*made with 'toy'"):
        check_belongs(header, other, "other")
    mono = make_codec()
    mono.quantizer.load_state_dict(codec.quantizer.state_dict())
    with pytest.raises(CheckpointError, match="2 channels in 1 streams"):
        check_belongs(header, mono, "mono")


def test_probabilities_of_codes_are_positive_and_sum_to_one() -> None:
    codec = make_codec()
    codec.quantizer.levels[0].cluster_size.copy_(torch.arange(16.0))
    p = code_probabilities(codec.quantizer)
    assert p.shape == (2, 16)
    assert np.allclose(p.sum(1), 1)
    assert (p > 0).all()
    assert p[0, 15] > p[0, 1]
