"""`wavespike classify` and `wavespike prepare`: right answers or one clear line, whatever the input."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from wavespike.hub.load import save
from wavespike.models.sparch import SpArch, SpArchConfig, SpikeInputConfig
from wavespike.signal.filterbank import FilterbankConfig


def wavespike(*words, stdin=None):
    done = subprocess.run([sys.executable, "-m", "wavespike", *map(str, words)], capture_output=True, input=stdin, timeout=240)
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("classify")
    torch.manual_seed(0)
    config = SpArchConfig(labels=("yes", "no", "maybe"), features=FilterbankConfig(sample_rate=8000), model_type="RadLIF", nb_hiddens=8)
    save(SpArch(config), root / "model")
    rng = np.random.default_rng(0)
    x = 0.2 * rng.standard_normal(8000)
    soundfile.write(root / "a.wav", x, 8000)
    soundfile.write(root / "stereo.wav", np.stack([x, 0.5 * x], 1), 8000)
    soundfile.write(root / "fast.flac", np.repeat(x, 2), 16000)
    soundfile.write(root / "silence.wav", np.zeros(8000), 8000)
    soundfile.write(root / "short.wav", x[:800], 8000)
    soundfile.write(root / "long.wav", np.tile(x, 60), 8000)
    (root / "broken.wav").write_bytes(b"RIFF0000WAVEno")
    (root / "list.txt").write_text("a.wav\tyes\tann\nshort.wav\tno\tbob\n")
    (root / "unlabelled.txt").write_text("a.wav\n")
    return root


def test_files_of_any_rate_length_and_channel_count_get_an_answer(folder):
    names = ["a.wav", "stereo.wav", "fast.flac", "silence.wav", "short.wav", "long.wav"]
    code, out, _ = wavespike("classify", *(folder / n for n in names), "--model", folder / "model", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["file"] for row in rows] == [str(folder / n) for n in names]
    assert all(set(row) == {"file", "label", "score"} and row["label"] in ("yes", "no", "maybe") and 0 <= row["score"] <= 1 for row in rows)


def test_a_broken_file_among_good_ones_is_named_and_the_rest_answered(folder):
    code, out, err = wavespike("classify", folder / "a.wav", folder / "broken.wav", "--model", folder / "model", "--json")
    assert code == 1
    assert len(json.loads(out)) == 1
    assert "broken.wav" in err


def test_windows_say_when(folder):
    code, out, _ = wavespike("classify", folder / "a.wav", "--model", folder / "model", "--window-s", 0.4, "--json")
    assert code == 0
    assert [row["start_s"] for row in json.loads(out)] == [0.0, 0.4, 0.8]


def test_a_stream_ends_with_the_answer_of_the_file(folder):
    pcm, _ = soundfile.read(folder / "a.wav", dtype="int16")
    code, out, _ = wavespike("classify", "--stream", "--model", folder / "model", "--json", "--every-s", 0.3, stdin=pcm.tobytes())
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["time_s"] for row in rows] == [0.3, 0.6, 0.9, 1.0, 1.0]
    _, offline, _ = wavespike("classify", folder / "a.wav", "--model", folder / "model", "--json")
    assert rows[-1]["final"]
    assert (rows[-1]["label"], rows[-1]["score"]) == (json.loads(offline)[0]["label"], pytest.approx(json.loads(offline)[0]["score"], abs=2e-4))


def test_a_labelled_list_gives_accuracy_with_its_interval(folder, tmp_path):
    code, out, _ = wavespike("classify", "--data", folder / "list.txt", "--model", folder / "model", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["examples"] == 2
    assert report["accuracy_95"][0] <= report["accuracy"] <= report["accuracy_95"][1]
    assert sum(map(sum, report["confusion"])) == 2
    assert report["energy_uj"] > 0


@pytest.mark.parametrize(("words", "code", "hint"), [
    ((), 2, "--stream"),
    (("a.wav", "--model", "griffin-lim-24k"), 2, "classifier"),
    (("gone.wav",), 1, "gone.wav"),
    (("broken.wav",), 1, "broken.wav"),
    (("a.wav", "--stream"), 2, "either"),
    (("a.wav", "--window-s", "-1"), 2, "window"),
    (("--data", "unlabelled.txt"), 1, "labels are missing"),
    (("a.wav", "--confusion", "c.png"), 2, "--data"),
    (("--data", "list.txt", "--raster", "r.png"), 2, "audio file"),
])
def test_misuse_is_one_line(folder, words, code, hint):
    words = [str(folder / w) if w.endswith((".wav", ".txt")) else w for w in words]
    model = [] if "--model" in words else ["--model", str(folder / "model")]
    got, _, err = wavespike("classify", *words, *model)
    assert got == code
    assert hint in err
    assert len(err.strip().splitlines()) == 1


def test_an_empty_stream_is_told(folder):
    code, _, err = wavespike("classify", "--stream", "--model", folder / "model", stdin=b"")
    assert code == 1
    assert "no samples" in err


def test_prepare_writes_the_layout_of_shd(folder, tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    code, out, _ = wavespike("prepare", "spikes", folder / "list.txt", tmp_path / "o.h5", "--channels", 30, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["examples"] == 2
    with h5py.File(tmp_path / "o.h5") as file:
        assert file["labels"][:].tolist() == [1, 0]  # sorted: no, yes
        assert [k.decode() for k in file["extra/keys"][:]] == ["no", "yes"]
        assert file["extra/speaker"][:].tolist() == [0, 1]
        assert sum(map(len, file["spikes/times"][:])) == report["spikes"] > 0
        assert max(file["spikes/times"][1]) < 0.1
    torch.manual_seed(0)
    save(SpArch(SpArchConfig(labels=("no", "yes"), features=SpikeInputConfig(units=30, bins=20), nb_hiddens=4)), tmp_path / "spiking")
    code, judged, _ = wavespike("classify", "--model", tmp_path / "spiking", "--data", tmp_path / "o.h5", "--json")
    assert code == 0
    assert json.loads(judged)["examples"] == 2
    again = wavespike("prepare", "spikes", folder / "list.txt", tmp_path / "p.h5", "--channels", 30, "--json")
    assert json.loads(again[1])["spikes"] == report["spikes"]
    code, _, err = wavespike("prepare", "spikes", folder / "unlabelled.txt", tmp_path / "q.h5")
    assert code == 1
    assert "labels are missing" in err
    assert not (tmp_path / "q.h5").exists()


def test_energy_counts_an_inference_of_a_recogniser(folder):
    code, out, err = wavespike("energy", folder / "model", folder / "stereo.wav", "--baseline", folder / "model", "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["complete"]["microjoules"] > 0
    assert report["complete"]["ratio"] == 1
    assert len(report["rates"]) == 2
    assert report["uncounted"] == {}
    code, out, _ = wavespike("energy", folder / "model", folder / "a.wav")
    assert code == 0
    assert "microjoules an inference" in out
    code, _, err = wavespike("energy", folder / "model", folder / "a.wav", "--baseline", "griffin-lim-24k")
    assert code == 2
    assert "classifier" in err
