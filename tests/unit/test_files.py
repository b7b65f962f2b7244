"""Laws of audio files: what is written is read, blocks equal the whole, damage is refused in one line, a failed write leaves nothing behind."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from wavespike.errors import AudioError, OutputError, UsageError, WavespikeError
from wavespike.signal.files import Reader, Writer, audio_files, read, replacing, write
from wavespike.signal.resample import Resampler, resample, resampled_length


def tone(frames: int = 5000, channels: int = 1, rate: int = 24000) -> np.ndarray:
    t = np.arange(frames) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * 220 * (c + 1) * t) for c in range(channels)]).astype(np.float32)


@pytest.mark.parametrize(("sample_format", "error"), [("int16", 2**-15), ("int24", 2**-23), ("int32", 2**-24), ("float", 0.0)])
@pytest.mark.parametrize("channels", [1, 2, 9])
@pytest.mark.parametrize("rate", [8000, 44100, 192000])
def test_wav_keeps_samples_rate_and_channels(tmp_path: Path, sample_format: str, error: float, channels: int, rate: int) -> None:
    x = tone(channels=channels)
    got, got_rate = read(write(tmp_path / "x.wav", x, rate, sample_format))  # type: ignore[arg-type]
    assert got_rate == rate
    assert got.shape == x.shape
    assert np.abs(got - x).max() <= error


@pytest.mark.parametrize("sample_format", ["int16", "int24"])
def test_flac_keeps_samples(tmp_path: Path, sample_format: str) -> None:
    x = tone(channels=8)
    got, _ = read(write(tmp_path / "x.flac", x, 96000, sample_format))  # type: ignore[arg-type]
    assert np.abs(got - x).max() <= 2 ** (1 - int(sample_format[3:]))


@pytest.mark.parametrize("name", ["x.ogg", "x.opus", "x.mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_lossy_files_keep_length_and_nearly_the_signal(tmp_path: Path, name: str, channels: int) -> None:
    x = tone(24000, channels)
    got, rate = read(write(tmp_path / name, x, 24000))
    assert rate == 24000
    assert got.shape == x.shape
    assert np.abs(got - x)[:, 1000:-1000].mean() < 0.02


def test_blocks_concatenate_to_the_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "x.flac", tone(100000, 2), 24000)
    whole, _ = read(path)
    with Reader(path) as audio:
        assert (audio.rate_hz, audio.channels, audio.frames) == (24000, 2, 100000)
        blocks = list(audio.blocks(7777))
    assert all(0 < b.shape[1] <= 7777 for b in blocks)
    assert np.array_equal(np.concatenate(blocks, 1), whole)


def test_samples_beyond_full_scale_are_clipped_and_counted_not_wrapped(tmp_path: Path) -> None:
    with Writer(tmp_path / "x.wav", 8000, 1) as file:
        file.write(np.array([[0.0, 1.5, -1.5, 1.0]], np.float32))
    assert file.clipped == 2
    got, _ = read(tmp_path / "x.wav")
    assert np.allclose(got, [[0, 1, -1, 1]], atol=2**-14)
    with Writer(tmp_path / "y.wav", 8000, 1, "float") as file:
        file.write(np.array([[1.5]], np.float32))
    assert file.clipped == 0
    assert read(tmp_path / "y.wav")[0][0, 0] == 1.5


# ---- what cannot be read -------------------------------------------------------------------------------------------------------------------------


def bad_file(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / ("x.flac" if "flac" in kind else "x.mp3" if "mp3" in kind else "x.wav")
    noise = 0.1 * np.random.default_rng(0).normal(size=(1, 48000)).astype(np.float32)
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is no audio\n" * 50)
    elif kind.startswith("truncated"):
        write(path, noise, 24000)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "header only":
        write(path, noise, 24000)
        path.write_bytes(path.read_bytes()[:20])
    elif kind == "no samples":
        soundfile.write(path, np.zeros((0, 1)), 24000)
    elif kind in ("nan", "inf"):
        noise[0, 12000] = np.nan if kind == "nan" else -np.inf
        soundfile.write(path, noise[0], 24000, subtype="FLOAT")
    return path


@pytest.mark.parametrize(("kind", "says"), [
    ("missing", "found nothing"), ("folder", "got a folder"), ("empty", "0 bytes"), ("text", "got data that is none"), ("truncated wav", "truncated"),
    ("truncated flac", "truncated"), ("truncated mp3", "truncated"), ("header only", "damaged|truncated|at least one sample"), ("no samples", "at least one sample"),
    ("nan", r"got nan in channel 1 at 0\.500 s"), ("inf", r"got -inf in channel 1 at 0\.500 s")])
def test_what_cannot_be_read_is_refused_in_one_line_that_names_the_file(tmp_path: Path, kind: str, says: str) -> None:
    path = bad_file(tmp_path, kind)
    with pytest.raises(AudioError, match=says) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wav_whose_writer_could_not_seek_is_read_to_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "x.wav", tone(), 24000)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    data[4:8] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert read(path)[0].shape == (1, 5000)


# ---- what cannot be written ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind", "says"), [
    ("no/x.wav", OutputError, "create it first"), (".", UsageError, "ends in"), ("x", UsageError, "no ending"), ("x.wave", UsageError, "did you mean '.wav'"),
    ("folder.wav", OutputError, "got a folder")])
def test_what_cannot_be_written_is_refused_at_once(tmp_path: Path, name: str, kind: type[WavespikeError], says: str) -> None:
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(kind, match=says):
        Writer(tmp_path / name, 24000, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.wav"]


def test_a_device_is_not_replaced() -> None:
    with pytest.raises(OutputError, match="device"), replacing("/dev/null"):
        pass
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(("name", "rate", "channels", "sample_format"), [
    ("x.flac", 24000, 9, "int16"), ("x.flac", 24000, 1, "float"), ("x.mp3", 24000, 3, "int16"), ("x.mp3", 96000, 1, "int16"), ("x.opus", 44100, 1, "int16")])
def test_a_format_that_cannot_hold_it_is_refused_and_says_which_can(tmp_path: Path, name: str, rate: int, channels: int, sample_format: str) -> None:
    with pytest.raises(UsageError, match="write a WAV file instead"):
        Writer(tmp_path / name, rate, channels, sample_format)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.ogg", "x.mp3"])
def test_a_full_quota_is_one_error_and_leaves_the_old_file_and_no_new_one(tmp_path: Path, name: str) -> None:
    old = write(tmp_path / name, tone(100), 24000).read_bytes()
    noise = 0.3 * np.random.default_rng(0).normal(size=(1, 240000)).astype(np.float32)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, hard))  # Python ignores SIGXFSZ, so a write fails with EFBIG
    try:
        with pytest.raises(OutputError, match="disk is full or its quota"):
            write(tmp_path / name, noise, 24000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == old


def test_an_error_while_writing_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> None:
        with Writer(tmp_path / "x.wav", 24000, 1) as file:
            file.write(tone())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_nothing_stands_under_the_name_before_the_end(tmp_path: Path) -> None:
    with Writer(tmp_path / "x.wav", 24000, 1) as file:
        file.write(tone())
        assert not (tmp_path / "x.wav").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["x.wav"]


def test_a_file_may_be_replaced_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.wav", tone(300000), 24000)
    with Reader(path) as audio, Writer(path, 24000, 1) as out:
        for block in audio.blocks(1000):
            out.write(-block)
    assert np.allclose(read(path)[0], -tone(300000), atol=2**-14)


def test_a_link_is_followed_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "link.wav").symlink_to(tmp_path / "target.wav")
    write(tmp_path / "link.wav", tone(), 24000)
    assert (tmp_path / "link.wav").is_symlink()
    assert (tmp_path / "target.wav").is_file()


# ---- folders and lists ---------------------------------------------------------------------------------------------------------------------------


def test_folders_and_lists_name_their_audio_in_order(tmp_path: Path) -> None:
    for name in ("b.wav", "a.flac", "sub/c.ogg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, tone(), 24000)
    (tmp_path / "notes.md").write_text("x")
    assert [p.name for p in audio_files(tmp_path)] == ["a.flac", "b.wav", "c.ogg"]
    (tmp_path / "list.txt").write_text("sub/c.ogg\tits text\n\nb.wav\n")
    assert audio_files(tmp_path / "list.txt") == [tmp_path / "sub/c.ogg", tmp_path / "b.wav"]
    assert audio_files(tmp_path / "b.wav") == [tmp_path / "b.wav"]
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "void").mkdir()
    for nothing in ("empty.txt", "none.txt", "void"):
        with pytest.raises(AudioError, match=nothing):
            audio_files(tmp_path / nothing)


# ---- resampling ----------------------------------------------------------------------------------------------------------------------------------

RATES = [1000, 8000, 16000, 22050, 24000, 44100, 48000, 192000]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(RATES), st.sampled_from(RATES), st.lists(st.integers(0, 3000), min_size=1, max_size=6), st.integers(1, 3))
def test_blocks_resample_to_the_same_samples_as_the_whole(a: int, b: int, sizes: list[int], channels: int) -> None:
    x = np.random.default_rng(0).normal(size=(channels, sum(sizes))).astype(np.float32)
    stream = Resampler(a, b, channels)
    cuts = np.cumsum(sizes)[:-1]
    blocks = np.concatenate([*(stream.push(part) for part in np.split(x, cuts, axis=1)), stream.flush()], axis=1)
    assert np.array_equal(blocks, resample(x, a, b))
    assert blocks.shape == (channels, resampled_length(sum(sizes), a, b))


def test_resampling_keeps_a_tone_within_the_band() -> None:
    x, y = tone(48000, 1, 48000), tone(24000, 1, 24000)
    assert np.abs(resample(x, 48000, 24000) - y)[:, 200:-200].max() < 1e-4


def test_one_sample_stays_at_least_one() -> None:
    assert resample(np.full((1, 1), 0.5, np.float32), 192000, 24000).tolist() == [[0.5]]
