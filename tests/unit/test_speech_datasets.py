"""Readers: official splits, held-out speakers, bins that lose nothing, and messages for damaged or incomplete corpora."""

import numpy as np
import pytest
import soundfile

from wavespike.errors import ConfigError, TrainingError
from wavespike.training.speech_datasets import (
    Example,
    SpikeFile,
    bin_spikes,
    folders_of_classes,
    heidelberg_digits,
    hold_out_speakers,
    label_index,
    read_list,
    speech_commands,
    spoken_digits,
    write_spikes,
)


def wav(path, seconds=0.01):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(int(16000 * seconds) + 1), 16000)


def test_speech_commands_follow_their_lists(tmp_path):
    for word in ("yes", "no"):
        for speaker in ("a1", "b2", "c3"):
            wav(tmp_path / word / f"{speaker}_nohash_0.wav")
    wav(tmp_path / "_background_noise_" / "hum.wav")
    (tmp_path / "validation_list.txt").write_text("yes/a1_nohash_0.wav\nno/a1_nohash_0.wav\n")
    (tmp_path / "testing_list.txt").write_text("yes/b2_nohash_0.wav\nno/b2_nohash_0.wav\n")
    for split, speaker in (("train", "c3"), ("valid", "a1"), ("test", "b2")):
        found = speech_commands(tmp_path, split)
        assert sorted(e.label for e in found) == ["no", "yes"]
        assert {e.speaker for e in found} == {speaker}
    (tmp_path / "testing_list.txt").write_text("yes/gone_nohash_0.wav\n")
    with pytest.raises(TrainingError, match="gone_nohash_0"):
        speech_commands(tmp_path, "test")


def test_spoken_digits_test_on_the_official_takes(tmp_path):
    for take in (0, 4, 5, 9, 10, 49):
        wav(tmp_path / "recordings" / f"7_jackson_{take}.wav")
    takes = {s: [e.path.stem.split("_")[2] for e in spoken_digits(tmp_path, s)] for s in ("train", "valid", "test")}
    assert takes == {"test": ["0", "4"], "valid": ["5", "9"], "train": ["10", "49"]}


def test_heidelberg_digits_count_german_after_english_and_hold_out_speakers(tmp_path):
    names = [f"lang-{lang}_speaker-{s:02d}_trial-1_digit-3.flac" for lang in ("english", "german") for s in range(4)]
    for name in names:
        wav(tmp_path / name)
    (tmp_path / "train_filenames.txt").write_text("\n".join(names[:3] + names[4:7]))
    (tmp_path / "test_filenames.txt").write_text("\n".join([names[3], names[7]]))
    parts = {s: heidelberg_digits(tmp_path, s, fraction=0.34) for s in ("train", "valid", "test")}
    assert {e.label for e in parts["train"]} == {"3", "13"}
    assert not {e.speaker for e in parts["train"]} & {e.speaker for e in parts["valid"]}
    assert {e.speaker for e in parts["test"]} == {"03"}
    assert len(parts["train"]) + len(parts["valid"]) == 6


def test_held_out_speakers_are_seeded_and_never_shared(tmp_path):
    from pathlib import Path

    examples = [Example(Path(str(i)), "x", f"s{i % 10}") for i in range(50)]
    train, valid = (hold_out_speakers(examples, s, 0.2, seed=1) for s in ("train", "valid"))
    assert len(train) + len(valid) == 50
    assert len({e.speaker for e in valid}) == 2
    assert valid == hold_out_speakers(examples, "valid", 0.2, seed=1)
    assert any(valid != hold_out_speakers(examples, "valid", 0.2, seed=k) for k in range(2, 6))
    with pytest.raises(TrainingError, match="two speakers"):
        hold_out_speakers(examples[:1], "valid")


def test_folders_of_classes_need_examples(tmp_path):
    wav(tmp_path / "yes" / "ann_1.wav")
    wav(tmp_path / "no" / "ann_2.wav")
    assert [(e.label, e.speaker) for e in folders_of_classes(tmp_path)] == [("no", "ann"), ("yes", "ann")]
    (tmp_path / "maybe").mkdir()
    with pytest.raises(TrainingError, match="'maybe'"):
        folders_of_classes(tmp_path)


def test_lists_name_the_line_without_a_label(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a.wav\tyes\tann\nb.wav\n")
    with pytest.raises(TrainingError, match=r"list.txt:2.*labels are missing"):
        read_list(path)
    path.write_text("a.wav\tyes\tann\n\nb.wav\tno\n")
    assert [(e.path.name, e.label, e.speaker) for e in read_list(path)] == [("a.wav", "yes", "ann"), ("b.wav", "no", "")]
    with pytest.raises(TrainingError, match="check the path"):
        read_list(tmp_path / "gone.txt")


def test_unknown_labels_and_empty_classes_are_told(tmp_path):
    from pathlib import Path

    examples = [Example(Path("a"), "yes"), Example(Path("b"), "no")]
    assert label_index(examples, ["no", "yes"]) == [1, 0]
    with pytest.raises(TrainingError, match="did you mean 'yes'"):
        label_index([Example(Path("a"), "yess")], ["no", "yes"])
    with pytest.raises(ConfigError, match="'maybe'"):
        label_index(examples, ["no", "yes", "maybe"])
    assert label_index(examples, ["no", "yes", "maybe"], complete=False) == [1, 0]


def test_bins_start_at_zero_and_keep_the_edge():
    counts = bin_spikes(np.array([0.0, 0.0139, 0.014, 0.7, 1.3999, 1.4, 1.5]), np.array([0, 0, 0, 1, 1, 2, 2]), count=3)
    assert counts.shape == (3, 100)
    assert counts[0, 0] == 2  # the published bins leave bin 0 empty
    assert counts[0, 1] == 1
    assert counts[1, 50] == 1
    assert counts[1, 99] == 1
    assert counts[2, 99] == 2  # events at and beyond the end are kept
    assert counts.sum() == 7


def spikes(path, labels=(0, 1, 0, 1), speakers=(0, 0, 1, 2)):
    pytest.importorskip("h5py", reason="h5py is not installed")
    rng = np.random.default_rng(0)
    trains = [(np.sort(rng.random(20)), rng.integers(0, 8, 20)) for _ in labels]
    write_spikes(path, trains, labels, ["no", "yes"], speakers)
    return trains


def test_spike_files_survive_writing_and_reading(tmp_path):
    trains = spikes(tmp_path / "a.h5")
    file = SpikeFile(tmp_path / "a.h5", units=8)
    assert len(file) == 4
    assert file.keys == ("no", "yes")
    for i, (times, units) in enumerate(trains):
        counts, label = file.item(i)
        assert label == i % 2
        assert np.array_equal(counts.numpy(), bin_spikes(times.astype(np.float32), units, 8).numpy())
    train, valid = file.split("train", 0.3), file.split("valid", 0.3)
    assert sorted(train + valid) == [0, 1, 2, 3]
    assert not {int(file.speakers[i]) for i in train} & {int(file.speakers[i]) for i in valid}


def test_damaged_spike_files_are_told(tmp_path):
    spikes(tmp_path / "a.h5")
    with pytest.raises(TrainingError, match=r"units 0\.\.3"):
        SpikeFile(tmp_path / "a.h5", units=4)
    (tmp_path / "cut.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:700])
    with pytest.raises(TrainingError, match="damaged"):
        SpikeFile(tmp_path / "cut.h5")
    (tmp_path / "text.h5").write_text("not hdf5")
    with pytest.raises(TrainingError, match="damaged"):
        SpikeFile(tmp_path / "text.h5")
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.zeros(3)
    with pytest.raises(TrainingError, match="'spikes/times'"):
        SpikeFile(tmp_path / "other.h5")
    with pytest.raises(TrainingError, match="found nothing"):
        SpikeFile(tmp_path / "gone.h5")
