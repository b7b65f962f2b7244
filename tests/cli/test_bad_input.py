"""Law of errors: whatever is wrong with a call, a file or a place, the user gets one line, the right exit code (2 the call, 1 the data) and no partial file."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command import files_in, inside, refused, voice, wavespike

from wavespike.signal.files import read, write

# ---- files that cannot be read -------------------------------------------------------------------------------------------------------------------


def noise(seconds: float = 1.0) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).normal(size=(1, int(24000 * seconds)))).astype(np.float32)


def make_bad(folder: Path, kind: str) -> Path:
    path = folder / ("in.flac" if kind == "truncated flac" else "in.wav")
    if kind == "folder":
        path = folder / "in"
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text renamed":
        path.write_text("hello, I am text\n" * 100)
    elif kind.startswith("truncated"):
        write(path, noise(), 24000)
        os.truncate(path, path.stat().st_size // 2)
    elif kind == "zero-length":
        soundfile.write(path, np.zeros((0, 1)), 24000)
    elif kind in ("NaN", "Inf"):
        samples = noise()[0]
        samples[20000] = np.nan if kind == "NaN" else np.inf
        soundfile.write(path, samples, 24000, subtype="FLOAT")
    return path


@pytest.mark.parametrize(("kind", "says"), [
    ("missing", "in.wav: .*found nothing"), ("folder", "in: expected a folder with audio"), ("empty", r"0 bytes"), ("truncated wav", "truncated"), ("truncated flac", "truncated"),
    ("text renamed", "got data that is none or damaged"), ("zero-length", "at least one sample"), ("NaN", "got nan in channel 1 at 0.833 s"),
    ("Inf", "got inf in channel 1 at 0.833 s")])
def test_resynth_refuses_files_that_cannot_be_right(tmp_path: Path, kind: str, says: str) -> None:
    path = make_bad(tmp_path, kind)
    before = files_in(tmp_path)
    refused(wavespike("resynth", path, tmp_path / "out.wav"), 1, says)
    assert files_in(tmp_path) == before


def test_in_a_folder_the_good_files_are_done_and_the_bad_ones_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "good.wav", voice(), 24000)
    (tmp_path / "in" / "bad.wav").write_text("no audio")
    result = inside("resynth", tmp_path / "in", tmp_path / "out")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "bad.wav" in result.stderr
    assert "1 of 2 files failed" in result.stdout
    assert files_in(tmp_path / "out") == ["good.wav"]


def test_a_folder_given_for_a_file_and_a_file_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.wav", voice(), 24000)
    write(tmp_path / "old.wav", voice(), 24000)
    before = files_in(tmp_path)
    refused(inside("resynth", tmp_path / "in", tmp_path / "out.wav"), 2, "expected a folder as output for 1 input.s., got a file's name")
    refused(inside("resynth", tmp_path / "in", tmp_path / "old.wav"), 2, "expected a folder as output for a folder, got a file")
    refused(inside("resynth", tmp_path / "in", tmp_path / "in"), 2, "the input itself")
    (tmp_path / "folder.wav").mkdir()
    refused(inside("vocode", tmp_path / "folder.wav", tmp_path / "folder.wav"), 1, "got a folder")
    assert files_in(tmp_path) == before


def test_a_list_names_each_file_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", voice(), 24000)
    (tmp_path / "list.txt").write_text("a.wav\nsub/b.wav\n")
    result = inside("resynth", "--list", tmp_path / "list.txt", tmp_path / "out", "--json")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "sub/b.wav: expected an audio file, found nothing" in result.stderr
    assert files_in(tmp_path / "out") == ["a.wav"]


def test_eval_refuses_data_without_speech_and_names_unreadable_files(tmp_path: Path) -> None:
    refused(inside("eval", "--data", tmp_path), 1, "expected a folder with audio")
    refused(inside("eval", "--data", tmp_path / "none.txt"), 1, "found nothing")
    (tmp_path / "bad.wav").touch()
    refused(inside("eval", "--data", tmp_path, "--metrics", "mel_l1"), 1, "at least one usable file.*0 bytes")


# ---- mels ----------------------------------------------------------------------------------------------------------------------------------------


def make_mel(folder: Path, kind: str) -> Path:
    path = folder / "mel.npy"
    good = np.full((100, 20), -3.0, np.float32)
    if kind == "wrong size":
        np.save(path, good[:80])
    elif kind == "transposed":
        np.save(path, good.T)
    elif kind == "batch of two":
        np.save(path, np.stack([good, good]))
    elif kind == "NaN":
        good[7, 3] = np.nan
        np.save(path, good)
    elif kind == "no frames":
        np.save(path, good[:, :0])
    elif kind == "one frame":
        np.save(path, good[:, :1])
    elif kind == "words":
        np.save(path, np.array([["a"]]))
    elif kind == "pickle":
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif kind == "text":
        path.write_text("mel mel mel")
    elif kind == "truncated":
        np.save(path, good)
        os.truncate(path, path.stat().st_size // 2)
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "many arrays":
        path = path.with_suffix(".npz")
        np.savez(path, a=good, b=good)
    return path


@pytest.mark.parametrize(("kind", "says"), [
    ("wrong size", r"got an array of shape \[80, 20\]"), ("transposed", "transpose it"), ("batch of two", "one utterance a file"), ("NaN", "got nan in band 7 of frame 3"),
    ("no frames", "at least one frame"), ("one frame", "at least one sample"), ("words", "of numbers"), ("pickle", "cannot be read"), ("text", "cannot be read"),
    ("truncated", "cannot be read"), ("empty", "0 bytes"), ("folder", "got a folder"), ("missing", "found nothing"), ("many arrays", "got a, b")])
def test_vocode_refuses_mels_that_do_not_fit(tmp_path: Path, kind: str, says: str) -> None:
    path = make_mel(tmp_path, kind)
    before = files_in(tmp_path)
    run = wavespike if kind in ("NaN", "pickle") else inside
    refused(run("vocode", path, tmp_path / "out.wav", "--model", "griffin-lim-24k"), 1, says)
    assert files_in(tmp_path) == before


# ---- names and options ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "says"), [
    (["resinth", "a", "b"], "did you mean 'resynth'"), (["resynth", "a.wav"], "required: output"), (["resynth", "a.wav", "b.wav", "--mdel", "x"], "unrecognized"),
    (["eval", "--data", "x", "--limit", "many"], "limit"), (["eval"], "data"), (["eval", "--data", "x", "--limit", "0"], "at least 1"),
    (["eval", "--data", "x", "--metrics", "pesk_wb"], "did you mean 'pesq_wb'"), (["show", "grifin-lim"], "did you mean 'griffin-lim-24k'"), (["doctor", "x"], "unrecognized")])
def test_a_wrong_call_is_one_line_and_exit_code_2(words: list[str], says: str) -> None:
    run = wavespike if words[0] in ("resinth", "resynth") else inside
    refused(run(*words), 2, says)


def test_an_unknown_model_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    write(tmp_path / "in.wav", voice(), 24000)
    refused(wavespike("resynth", tmp_path / "in.wav", tmp_path / "out.wav", "--model", "grifin-lim-24k"), 2, "did you mean 'griffin-lim-24k'")
    assert files_in(tmp_path) == ["in.wav"]


# ---- places that cannot be written ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    return write(tmp_path / "in.wav", voice(3.0), 24000)


@pytest.mark.parametrize(("target", "code", "says"), [
    ("none/out.wav", 1, "does not; create it first"), ("in.wav", 2, "the input itself"), ("out", 2, "no ending"), ("out.mp4", 2, "ends in"), ("/dev/full", 2, "no ending")])
def test_resynth_refuses_outputs_that_cannot_be(speech: Path, target: str, code: int, says: str) -> None:
    before = speech.read_bytes()
    refused(wavespike("resynth", speech, speech.parent / target), code, says)
    assert files_in(speech.parent) == ["in.wav"]
    assert speech.read_bytes() == before


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody, not even root, can write."""
    folder = tmp_path / "locked"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("root without permission to mount: no folder can be made read-only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_folder_is_refused_before_anything_is_computed(speech: Path, read_only: Path) -> None:
    refused(wavespike("resynth", speech, read_only / "out.wav"), 1, "Read-only file system|Permission denied")
    np.save(speech.parent / "mel.npy", np.full((100, 20), -3.0, np.float32))
    refused(wavespike("vocode", speech.parent / "mel.npy", read_only / "out.wav"), 1, "Read-only file system|Permission denied")
    assert files_in(read_only) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs of 64 kB needs root; the quota test covers the same path")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("name", ["out.wav", "out.flac"])
def test_a_full_disk_is_one_line_and_leaves_no_file(speech: Path, small_disk: Path, name: str) -> None:
    write(speech, noise(5.0), 24000)
    refused(wavespike("resynth", speech, small_disk / name), 1, "disk is full")
    assert files_in(small_disk) == []


def test_a_reached_quota_is_one_line_and_leaves_no_file(speech: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))

    refused(wavespike("resynth", speech, speech.parent / "out.wav", preexec_fn=limit), 1, "its quota is reached")
    assert files_in(speech.parent) == ["in.wav"]


def test_a_terminated_run_leaves_no_file(speech: Path) -> None:
    import signal
    import sys
    import time

    write(speech, noise(60.0), 24000)
    process = subprocess.Popen([sys.executable, "-m", "wavespike", "resynth", str(speech), str(speech.parent / "out.wav")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not any(name.endswith(".part") for name in files_in(speech.parent)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert process.communicate() == (b"", b"")
    assert files_in(speech.parent) == ["in.wav"]


# ---- odd but valid -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "rate"), [(1, 24000), (1, 48000), (2, 192000), (300, 8000)])
def test_a_handful_of_samples_gives_as_many_seconds_back(tmp_path: Path, samples: int, rate: int) -> None:
    write(tmp_path / "in.wav", np.full((1, samples), 0.1, np.float32), rate)
    assert inside("resynth", tmp_path / "in.wav", tmp_path / "out.wav", "--keep-rate").returncode == 0
    got, got_rate = read(tmp_path / "out.wav")
    assert (got.shape, got_rate) == ((1, samples), rate)


def test_silence_stays_silent_and_full_scale_stays_within_full_scale(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "silence.wav", np.zeros((1, 24000), np.float32), 24000)
    given = np.clip(30 * voice(1.0), -1, 1)
    write(tmp_path / "in" / "loud.wav", given, 24000)
    result = inside("resynth", tmp_path / "in", tmp_path / "out")
    assert result.returncode == 0
    assert "samples beyond full scale were clipped" in result.stdout
    assert np.abs(read(tmp_path / "out" / "silence.wav")[0]).max() < 1e-3
    loud = read(tmp_path / "out" / "loud.wav")[0]
    assert 0.9 < np.abs(loud).max() <= 1.0
    assert np.mean(loud**2) > np.mean(given**2) / 4  # within 6 dB of what came in, whichever model is the default


def test_nine_channels_are_nine_channels_and_a_rate_of_1_khz_is_kept(tmp_path: Path) -> None:
    x = voice(1.0, 24000, 9)
    write(tmp_path / "nine.wav", x, 24000)
    assert inside("resynth", tmp_path / "nine.wav", tmp_path / "out9.wav").returncode == 0
    y, _ = read(tmp_path / "out9.wav")
    assert y.shape == x.shape
    rms = np.sqrt(np.mean(y**2, axis=1)) / np.sqrt(np.mean(x**2, axis=1))
    assert np.allclose(rms, 1.0, atol=0.05)
    refused(inside("resynth", tmp_path / "nine.wav", tmp_path / "out.flac"), 2, "at most 8 channels for FLAC, got 9; write a WAV file")
    low = voice(1.0, 1000)
    write(tmp_path / "low.wav", low, 1000)
    assert inside("resynth", tmp_path / "low.wav", tmp_path / "low_out.wav", "--keep-rate").returncode == 0
    z, rate = read(tmp_path / "low_out.wav")
    assert (z.shape, rate) == (low.shape, 1000)
    spectrum = np.abs(np.fft.rfft(z[0] * np.hanning(z.shape[1])))
    assert abs(np.argmax(spectrum) - 150) <= 2  # the fundamental, in hertz
