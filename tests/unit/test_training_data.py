"""Laws of training data: item g is a function of the seed and g; every process sees its part; bad files are named, not fatal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("lightning", reason="training needs the package lightning")

from hypothesis import given, settings
from hypothesis import strategies as st

from training_helpers import make_corpus, voice
from wavespike.errors import TrainingError
from wavespike.training.audio_data import AudioCrops, AudioDataConfig, AudioFile, fill_unvoiced, pitch_labels, read_mono, scan
from wavespike.training.data import Part, StepSampler, list_files, shuffled


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 20), st.integers(1, 8))
def test_processes_and_restarts_together_see_every_item_once_in_order(processes: int, per_process: int, first: int, steps: int) -> None:
    batches = [list(StepSampler(first, first + steps, per_process, rank, processes)) for rank in range(processes)]
    together = [g for step in range(steps) for part in batches for g in part[step]]
    size = per_process * processes
    assert together == list(range(first * size, (first + steps) * size))
    later = list(StepSampler(first + steps // 2, first + steps, per_process, 0, processes))
    assert later == batches[0][steps // 2 :]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 4))
def test_every_validation_item_is_judged(size: int, processes: int) -> None:
    parts = [list(Part(size, rank, processes)) for rank in range(processes)]
    assert {i for part in parts for i in part} == set(range(size))
    assert all(parts)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(0, 4))
def test_every_file_comes_once_an_epoch(seed: int, size: int, epoch: int) -> None:
    assert sorted(shuffled(seed, epoch * size + i, size) for i in range(size)) == list(range(size))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder, files=4, seconds=0.6, rates=(24000, 16000, 44100))
    return folder


def crops(files: list[AudioFile], seed: int = 1, pitch: bool = False, **changes: object) -> AudioCrops:
    return AudioCrops(files, AudioDataConfig(crop_samples=4096, **changes), 24000, 256, seed, pitch)  # type: ignore[arg-type]


def test_lists_take_the_first_field_relative_to_their_folder_and_folders_are_searched(corpus: Path) -> None:
    assert list_files((str(corpus / "train.txt"),)) == [corpus / f"voice{i}.wav" for i in range(4)]
    assert list_files((str(corpus),)) == [corpus / f"voice{i}.wav" for i in range(5)]
    for source in ("missing.txt", str(corpus / "none")):
        with pytest.raises(TrainingError, match="found nothing there"):
            list_files((source,))
    (corpus / "empty.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(TrainingError, match="at least one audio file"):
        list_files((str(corpus / "empty.txt"),))


@pytest.mark.parametrize("decoded", [False, True])
def test_an_item_is_a_function_of_seed_and_index(corpus: Path, tmp_path: Path, decoded: bool) -> None:
    files, _ = scan(list_files((str(corpus),)), 24000, 256, tmp_path, keep_decoded=decoded)
    one, two, other = crops(files), crops(files), crops(files, seed=2)
    forwards = [one[g]["audio"] for g in range(8)]
    assert all((two[g]["audio"] == forwards[g]).all() for g in reversed(range(8)))
    assert any((other[g]["audio"] != forwards[g]).any() for g in range(8))


def test_peaks_lie_in_their_range_and_any_rate_is_resampled(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.wav", np.sin(2 * np.pi * 1000 * np.arange(44100) / 44100) * 0.01, 44100, subtype="FLOAT")
    files, _ = scan([tmp_path / "tone.wav"], 24000, 256, tmp_path)
    items = crops(files, peak_db=(-12.0, -6.0))
    peaks_db = [20 * np.log10(float(items[g]["audio"].abs().max())) for g in range(40)]
    assert -12.1 < min(peaks_db) < -10
    assert -8 < max(peaks_db) < -5.9
    spectrum = np.abs(np.fft.rfft(items[0]["audio"].numpy() * np.hanning(4096)))
    assert np.argmax(spectrum) * 24000 / 4096 == pytest.approx(1000, abs=6)


def test_channels_are_averaged(tmp_path: Path) -> None:
    x = voice(0.3, 24000, 150)
    soundfile.write(tmp_path / "stereo.wav", np.stack([x, 0.5 * x], 1), 24000, subtype="FLOAT")
    assert np.allclose(read_mono(tmp_path / "stereo.wav", 24000), 0.75 * x, atol=1e-6)


def test_short_files_are_repeated_or_skipped(tmp_path: Path) -> None:
    x = voice(0.05, 24000, 150)
    soundfile.write(tmp_path / "short.wav", x, 24000, subtype="FLOAT")
    files, _ = scan([tmp_path / "short.wav"], 24000, 256, tmp_path)
    item = crops(files, peak_db=(0.0, 0.0))[0]["audio"].numpy()
    n = len(x)
    assert item.shape == (4096,)
    assert np.allclose(item[:n], item[n : 2 * n])
    assert np.allclose(item[:n], x / np.abs(x).max(), atol=1e-6)


def test_bad_files_are_named_with_their_reason_and_left_out(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio", encoding="utf-8")
    (tmp_path / "empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), 24000)
    bad = np.zeros(9000, np.float32)
    bad[5] = np.nan
    soundfile.write(tmp_path / "nan.wav", bad, 24000, subtype="FLOAT")
    names = ["text.wav", "empty.wav", "none.wav", "missing.wav", "nan.wav"]
    files, troubles = scan([corpus / "voice0.wav", *(tmp_path / n for n in names)], 24000, 256, tmp_path / "cache", keep_decoded=True)
    assert [f.path.name for f in files] == ["voice0.wav"]
    assert [path.name for path, _ in troubles.bad] == names
    lines = troubles.lines("repeated")
    assert all("\n" not in line for line in lines)
    assert "no such file" in lines[3]


def test_a_file_that_breaks_its_promise_is_reported_once_and_replaced_always_by_the_same(corpus: Path, tmp_path: Path) -> None:
    bad = np.zeros(9000, np.float32)
    bad[5] = np.inf
    soundfile.write(tmp_path / "inf.wav", bad, 24000, subtype="FLOAT")
    files, troubles = scan([corpus / "voice0.wav", tmp_path / "inf.wav"], 24000, 256, tmp_path)
    assert not troubles.bad  # only the header was read
    said: list[str] = []
    items = AudioCrops(files, AudioDataConfig(crop_samples=4096), 24000, 256, 1, report=said.append)
    first = [items[g]["audio"] for g in range(8)]
    assert len(said) == 1
    assert "inf.wav" in said[0]
    assert all((items[g]["audio"] == first[g]).all() for g in range(8))
    only, _ = scan([tmp_path / "inf.wav"], 24000, 256, tmp_path)
    with pytest.raises(TrainingError, match="damaged"):
        crops(only)[0]


def test_a_broken_promise_of_every_length_draws_by_length(corpus: Path, tmp_path: Path) -> None:
    files = [AudioFile(Path("a"), 1000), AudioFile(Path("b"), 9000)]
    items = crops(files, order="length")
    share = np.mean([np.searchsorted(items.cumulative, u, side="right") == 1 for u in np.random.default_rng(0).random(2000)])
    assert share == pytest.approx(0.9, abs=0.03)


class TestPitch:
    @pytest.fixture(autouse=True)
    def _needs_pyworld(self) -> None:
        pytest.importorskip("pyworld", reason="pitch labels need the package pyworld")

    def test_labels_follow_a_known_pitch(self) -> None:
        t = np.arange(24000) / 24000
        f0 = 150 + 30 * np.sin(2 * np.pi * 2 * t)
        phase = 2 * np.pi * np.cumsum(f0) / 24000
        x = np.sum([np.sin(k * phase) / k for k in range(1, 15)], 0).astype(np.float32) * 0.1
        labels = pitch_labels(x, 24000, 256)
        assert labels.shape == (24000 // 256 + 1,)
        inner = slice(10, -10)
        truth = f0[::256][inner]
        assert (labels[inner] > 0).mean() > 0.95
        voiced = labels[inner] > 0
        assert np.median(np.abs(1200 * np.log2(labels[inner][voiced] / truth[voiced]))) < 20

    def test_crops_start_on_frames_so_that_labels_fit(self, corpus: Path, tmp_path: Path) -> None:
        files, _ = scan([corpus / "voice0.wav", corpus / "voice1.wav"], 24000, 256, tmp_path, keep_decoded=True, pitch=True)
        items = crops(files, pitch=True)
        for g in range(6):
            item = items[g]
            assert item["f0_hz"].shape == item["voiced"].shape == (4096 // 256 + 1,)
            again = fill_unvoiced(pitch_labels(np.tile(item["audio"].numpy(), 1), 24000, 256))[0]
            both = (item["voiced"].numpy() > 0)[4:-4]
            if both.sum() > 4:
                cents = 1200 * np.log2(again[4:-4][both] / item["f0_hz"].numpy()[4:-4][both])
                assert np.median(np.abs(cents)) < 60

    def test_labels_are_computed_once(self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        paths = [corpus / "voice0.wav"]
        first, _ = scan(paths, 24000, 256, tmp_path, pitch=True, keep_decoded=True)
        monkeypatch.setattr("wavespike.training.audio_data._prepare", lambda job: pytest.fail("computed again"))
        second, _ = scan(paths, 24000, 256, tmp_path, pitch=True, keep_decoded=True)
        assert first == second
        assert not list(tmp_path.glob("*.part"))


def test_pitch_of_unvoiced_frames_is_interpolated() -> None:
    f0, voiced = fill_unvoiced(np.array([0, 100, 0, 200, 0], np.float32))
    assert f0.tolist() == [100, 100, 150, 200, 200]
    assert voiced.tolist() == [0, 1, 0, 1, 0]
    assert fill_unvoiced(np.zeros(3, np.float32))[0].tolist() == [150, 150, 150]


def test_at_another_speed_the_audio_and_its_pitch_labels_move_together(tmp_path: Path) -> None:
    time = np.arange(24000) / 24000
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 200 * time), 24000)
    np.save(tmp_path / "tone.npy", np.full(24000 // 256 + 1, 200.0, np.float32))
    items = crops([AudioFile(tmp_path / "tone.wav", 24000, pitch=tmp_path / "tone.npy")], pitch=True, speed=(1.25, 1.25))
    heard = set()
    for index in range(8):
        item = items[index]
        spectrum = np.abs(np.fft.rfft(item["audio"].numpy() * np.hanning(4096), 1 << 16))
        peak_hz = spectrum.argmax() * 24000 / (1 << 16)
        assert item["audio"].shape == (4096,)
        assert item["f0_hz"].shape == (17,)
        assert np.allclose(item["f0_hz"].numpy(), peak_hz, rtol=0.01)
        heard.add(round(peak_hz / 10) * 10)
    assert heard == {200, 250}
