"""encode, decode and stream as a user runs them, with a codec of random weights."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import wavespike
from wavespike.cli.main import main
from wavespike.models.audiodec import AudioDec, AudioDecConfig, DecoderConfig, EncoderConfig
from wavespike.nn.rvq import RVQConfig

RATE = 8000


def make_codec(folder: Path, seed: int, channels: int = 1) -> Path:
    torch.manual_seed(seed)
    codec = AudioDec(AudioDecConfig(
        sample_rate=RATE, input_channels=channels, output_channels=channels, quantizer=RVQConfig(dim=8, num_codebooks=4, codebook_size=64),
        encoder=EncoderConfig(channels=2, strides=(4, 10), ratios=(2, 4)), decoder=DecoderConfig(channels=2, strides=(10, 4), ratios=(4, 2)), activate=True))
    wavespike.save(codec, folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    make_codec(folder / "toy", 0)
    make_codec(folder / "other", 1)
    noise = 0.3 * np.random.default_rng(0).standard_normal((3 * RATE + 123, 1))
    soundfile.write(folder / "in.wav", noise, RATE)
    return folder


def run(place: Path, *words: str, check: int = 0) -> subprocess.CompletedProcess[bytes]:
    """The command in this process: starting an interpreter for each would take most of the time."""
    out, err, here = io.StringIO(), io.StringIO(), os.getcwd()
    os.chdir(place)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
    finally:
        os.chdir(here)
    assert code == check, err.getvalue()
    assert "Traceback" not in err.getvalue()
    return subprocess.CompletedProcess(words, code, out.getvalue().encode(), err.getvalue().encode())


def spawn(place: Path, *words: str, stdin: bytes) -> bytes:
    return subprocess.run([sys.executable, "-m", "wavespike", *words], cwd=place, input=stdin, stdout=subprocess.PIPE, check=True).stdout


def test_a_file_comes_back_with_its_exact_length_and_equals_the_offline_reconstruction(place):
    report = json.loads(run(place, "encode", "in.wav", "a.wsc", "--model", "toy", "--json").stdout)
    assert report["samples"] == 3 * RATE + 123
    assert report["real_bitrate"] > report["nominal_bitrate"] == 4 * 6 * RATE / 40
    run(place, "decode", "a.wsc", "a.wav", "--strict", "--model", "toy", "--sample-format", "float")
    decoded, rate = soundfile.read(place / "a.wav", dtype="float32")
    assert rate == RATE
    codec = wavespike.load(place / "toy")
    audio, _ = soundfile.read(place / "in.wav", dtype="float32")
    with torch.no_grad():
        offline = codec(torch.from_numpy(audio)[None, None])[0, 0].numpy()
    assert np.abs(decoded - offline).max() < 1e-4
    # the model's name is in the file
    run(place, "decode", "a.wsc", "b.wav")
    assert soundfile.info(place / "b.wav").frames == 3 * RATE + 123


def test_pipes_carry_audio_and_codes(place):
    run(place, "encode", "in.wav", "p.wsc", "--model", "toy")
    codes = spawn(place, "encode", "-", "-", "--model", "toy", stdin=(place / "in.wav").read_bytes())
    assert abs(len(codes) - (place / "p.wsc").stat().st_size) < 10
    audio = spawn(place, "decode", "-", "-", "--model", "toy", stdin=codes)
    run(place, "decode", "p.wsc", "p.wav")
    (place / "piped.wav").write_bytes(audio)
    # the length was not known in the pipe's header: read up to the end
    piped = np.frombuffer(audio[44:], "<i2")
    whole, _ = soundfile.read(place / "p.wav", dtype="int16")
    assert piped.shape == whole.shape
    assert np.abs(piped.astype(int) - whole).max() <= 2


def test_a_lower_bitrate_uses_fewer_codebooks_of_the_same_model(place):
    low = json.loads(run(place, "encode", "in.wav", "low.wsc", "--model", "toy", "--bitrate", "2400", "--json").stdout)
    assert low["codebooks"] == 2
    run(place, "decode", "low.wsc", "low.wav", "--strict")
    assert b"bitrate from 1200 to 4800" in run(place, "encode", "in.wav", "low.wsc", "--model", "toy", "--bitrate", "50", check=2).stderr


def test_stereo_goes_through_a_mono_codec_as_two_streams(place):
    noise = 0.3 * np.random.default_rng(1).standard_normal((RATE, 2))
    soundfile.write(place / "stereo.wav", noise, RATE)
    assert json.loads(run(place, "encode", "stereo.wav", "s.wsc", "--model", "toy", "--json").stdout)["streams"] == 2
    run(place, "decode", "s.wsc", "s.wav", "--sample-format", "float")
    decoded, _ = soundfile.read(place / "s.wav", dtype="float32")
    audio, _ = soundfile.read(place / "stereo.wav", dtype="float32")
    with torch.no_grad():
        offline = wavespike.load(place / "toy")(torch.from_numpy(audio.T.copy())[:, None])[:, 0].numpy()
    assert np.abs(decoded.T - offline).max() < 1e-4
    make_codec(place / "duo", 2, channels=2)
    assert b"multiple of the model's 2 channels" in run(place, "encode", "in.wav", "x.wsc", "--model", "duo", check=1).stderr


def test_another_rate_is_resampled_and_said(place):
    soundfile.write(place / "cd.wav", 0.3 * np.random.default_rng(1).standard_normal(11025), 11025)
    assert b"resampled from 11025" in run(place, "encode", "cd.wav", "cd.wsc", "--model", "toy").stderr
    run(place, "decode", "cd.wsc", "cd8.wav")
    assert soundfile.info(place / "cd8.wav").frames == RATE


def test_a_file_of_other_weights_is_refused_by_name(place):
    run(place, "encode", "in.wav", "o.wsc", "--model", "toy")
    refused = run(place, "decode", "o.wsc", "o.wav", "--model", "other", check=1).stderr
    assert b"'toy'" in refused
    assert b"'other'" in refused
    assert not (place / "o.wav").exists()


def test_damage_is_concealed_with_a_warning_and_exit_1_when_strict(place):
    run(place, "encode", "in.wav", "d.wsc", "--model", "toy")
    data = bytearray((place / "d.wsc").read_bytes())
    data[len(data) // 2] ^= 255
    (place / "d.wsc").write_bytes(data)
    for conceal in ("repeat", "silence"):
        done = run(place, "decode", "d.wsc", "d.wav", "--conceal", conceal)
        assert b"warning" in done.stderr
        assert b"lost_blocks 1" in done.stderr
        assert soundfile.info(place / "d.wav").frames == 3 * RATE + 123
    run(place, "decode", "d.wsc", "d.wav", "--strict", check=1)
    (place / "d.wsc").write_bytes(data[: len(data) // 3])
    assert b"truncated" in run(place, "decode", "d.wsc", "d.wav", "--strict", check=1).stderr
    (place / "d.wsc").write_bytes(b"")
    assert b"another kind of file" in run(place, "decode", "d.wsc", "d.wav", "--model", "toy", check=1).stderr


def test_entropy_coding_is_lossless(place):
    pytest.importorskip("constriction", reason="needs the package constriction (extra entropy)")
    run(place, "encode", "in.wav", "e0.wsc", "--model", "toy")
    run(place, "encode", "in.wav", "e1.wsc", "--model", "toy", "--entropy")
    run(place, "decode", "e0.wsc", "e0.wav")
    run(place, "decode", "e1.wsc", "e1.wav", "--strict")
    assert (place / "e0.wav").read_bytes() == (place / "e1.wav").read_bytes()


@pytest.mark.parametrize(("words", "code", "message"), [
    (("encode", "in.wav", "x.wsc", "--model", "griffin-lim-24k"), 2, b"expected a codec"),
    (("encode", "nothing.wav", "x.wsc", "--model", "toy"), 1, b"found nothing"),
    (("decode", "in.wav", "x.wav", "--model", "toy"), 1, b"another kind of file"),
    (("decode", "nothing.wsc", "x.wav"), 1, b"No such file"),
    (("encode", "in.wav", "no/folder/x.wsc", "--model", "toy"), 1, b"folder"),
])
def test_wrong_calls_say_what_to_do(place, words, code, message):
    assert message in run(place, *words, check=code).stderr
    assert not (place / "x.wsc").exists()


@pytest.mark.slow
def test_an_hour_goes_through_in_constant_memory(place):
    """Peak memory of ten minutes and of one hour differ by less than 50 MB."""
    script = "import resource, sys; from wavespike.cli.main import main; code = main(sys.argv[1:]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    peaks = []
    for minutes in (10, 60):
        with soundfile.SoundFile(place / "long.flac", "w", RATE, 1) as file:
            for _ in range(minutes):
                file.write(0.1 * np.random.default_rng(0).standard_normal(60 * RATE))
        for words in (["encode", "long.flac", "long.wsc", "--model", "toy"], ["decode", "long.wsc", "long.wav"]):
            done = subprocess.run([sys.executable, "-c", script, *words], cwd=place, capture_output=True, check=True)
            peaks.append(int(done.stderr.split()[-1]) / 1024)
    assert max(peaks) < 1000
    assert abs(peaks[2] - peaks[0]) < 50
    assert abs(peaks[3] - peaks[1]) < 50
