"""Laws of eval and compare: models, codecs at bitrates and peers stand in one table, the report is complete and resumable, what is wrong is said in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command import files_in, inside, refused, voice, wavespike

from wavespike.hub.load import save
from wavespike.models.vocos import Vocos, VocosConfig
from wavespike.nn.convnext import ConvNeXtConfig
from wavespike.nn.heads import ISTFTHeadConfig
from wavespike.signal.files import write
from wavespike.signal.resample import resample


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = Vocos(VocosConfig(backbone=ConvNeXtConfig(dim=16, intermediate_dim=32, num_layers=1), head=ISTFTHeadConfig(dim=16)))
    return save(model, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(3):
        write(folder / f"{i}.wav", voice(0.4, level=0.05 * (i + 1)), 24000)
    return folder


def test_a_report_is_written_whole_and_found_again(data: Path, tiny: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(data, theirs)
    write(theirs / "1.wav", resample(voice(0.4, level=0.1), 24000, 16000), 16000)
    words = ["eval", "--model", tiny, "griffin-lim-24k", "--model", f"files:{theirs}", "--data", data, "--report", tmp_path / "report", "--metrics", "mel_l1", "lsd",
             "--report-files", 1, "--report-audio", "flac", "--json"]
    first = inside(*words)
    assert first.returncode == 0, first.stderr
    assert "resampled from 16000 to 24000 Hz" in first.stderr
    report = json.loads(first.stdout)
    assert list(report["models"]) == [str(tiny), "griffin-lim-24k", f"files:{theirs}"]
    assert Path(report.pop("report")) == tmp_path / "report" / "index.html"
    assert [name for name in files_in(tmp_path / "report") if not name.startswith("cache")] == ["index.html", "results.json"]
    html = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert html.count("data:audio/flac") == 4  # the original and three systems of one file
    for name in ("griffin-lim-24k", "theirs", "lsd"):
        assert name in html
    tiny_row = report["models"][str(tiny)]
    assert tiny_row["energy"]["millijoules_per_second"] > 0
    assert tiny_row["peak_memory_mb"] > 0
    assert report["against"] == str(tiny)
    against_tiny = report["models"]["griffin-lim-24k"]["differences"]["lsd"]
    assert against_tiny["mean"] == pytest.approx(report["models"]["griffin-lim-24k"]["metrics"]["means"]["lsd"] - tiny_row["metrics"]["means"]["lsd"])
    assert against_tiny["interval"][0] <= against_tiny["mean"] <= against_tiny["interval"][1]
    assert (against_tiny["items"], against_tiny["verdict"]) == (3, "")  # three files are too few to say
    low, high = tiny_row["metrics"]["intervals"]["lsd"]
    assert low <= tiny_row["metrics"]["means"]["lsd"] <= high
    again = json.loads(inside(*words).stdout)
    again.pop("report")
    assert again == report  # speed too: everything was found again
    mended = inside("eval", "--model", tiny, "--data", data, "--metrics", "lsd", "--cache", tmp_path / "report" / "cache", "--costs", "--json")
    assert json.loads(mended.stdout)["models"][str(tiny)]["metrics"]["means"]["lsd"] == tiny_row["metrics"]["means"]["lsd"]


def test_the_table_marks_what_the_files_tell_from_the_chosen_system(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "six"
    folder.mkdir()
    for i in range(6):
        write(folder / f"{i}.wav", voice(0.3, level=0.05 * (i + 1)), 24000)
    said = inside("eval", "--model", tiny, "griffin-lim-24k", "--against", "griffin-lim-24k", "--data", folder, "--metrics", "mel_l1").stdout
    row = next(line for line in said.splitlines() if "mel L1" in line)
    assert row.count(" - ") == 1
    assert "- worse than griffin-lim-24k on the same files" in said


def test_a_bad_file_is_named_and_the_rest_stands_in_the_report(data: Path, tiny: Path, tmp_path: Path) -> None:
    (data / "bad.wav").write_text("no audio")
    result = inside("eval", "--model", tiny, "--data", data, "--metrics", "mel_l1", "--report", tmp_path / "report", "--report-files", 0)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "bad.wav" in result.stderr
    assert "mel L1" in result.stdout
    assert "1 file could not be used" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("words", "says"), [
    (["--model", "opus:1"], "6 to 256"), (["--model", "files:nowhere"], "expected a folder"), (["--model", "radlif-commands-16k"], "got a classifier"),
    (["--model", "griffin-lim-24k@6"], "expected a codec before '@KBPS'"), (["--processes", "0"], "at least 1"), (["--against", "opus:12"], "expected one of the systems to judge"), (["--seed", "-1"], "at least 0"),
    (["--report-files", "-1"], "at least 0"), (["--report-audio", "wav"], "report-audio"), (["--metrics", "visqul"], "did you mean 'visqol'")])
def test_a_wrong_call_is_refused_before_anything_is_computed(data: Path, words: list[str], says: str, tmp_path: Path) -> None:
    refused(inside("eval", "--data", data, *words), 2, says)


def test_an_empty_list_and_a_report_that_cannot_be_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    refused(inside("eval", "--data", tmp_path / "empty.txt"), 1, "got an empty one")
    refused(inside("eval", "--data", data, "--report", data / "0.wav"), 1, "expected a folder that can be written")


def test_a_metric_that_is_not_installed_is_named_with_its_pip_line(data: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "visqol" else find(name, *rest))
    result = inside("eval", "--model", tiny, "--data", data, "--limit", 1, "--metrics", "visqol", "utmos", "mel_l1")
    assert result.returncode == 0
    assert "ViSQOL was not computed: pip install 'wavespike[visqol]'" in result.stdout
    assert "UTMOS was not computed: UTMOS needs weights from a hub: set WAVESPIKE_UTMOS" in result.stdout


# ---- compare -----------------------------------------------------------------------------------------------------------------------------------------


def test_compare_scores_two_files_and_draws_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib not installed")
    x = voice(1.0)
    write(tmp_path / "a.wav", x, 24000)
    write(tmp_path / "b.wav", x, 24000)
    result = inside("compare", tmp_path / "a.wav", tmp_path / "b.wav", "--out", tmp_path / "c.png", "--metrics", "mel_l1", "lsd", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report["scores"] == {"mel_l1": 0.0, "lsd": 0.0}
    assert report["notes"] == []
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_compare_aligns_resamples_and_says_so(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib not installed")
    rng = np.random.default_rng(0)
    x = np.convolve(rng.normal(size=48000) * np.repeat(rng.uniform(size=16), 3000), np.ones(8) / 8, "same")[None].astype(np.float32) * 0.3
    write(tmp_path / "a.wav", x, 24000)
    write(tmp_path / "b.wav", np.pad(resample(x, 24000, 16000), ((0, 0), (1600, 0))), 16000)
    result = inside("compare", tmp_path / "a.wav", tmp_path / "b.wav", "--out", tmp_path / "c.png", "--metrics", "lsd", "si_sdr")
    assert result.returncode == 0, result.stderr
    for text in ("was resampled from 16000 to 24000 Hz", "was moved by -100.0 ms", "LSD", "SI-SDR", "c.png"):
        assert text in result.stdout, text


def test_compare_refuses_strangers_and_bad_names(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", voice(1.0), 24000)
    write(tmp_path / "b.wav", voice(0.2), 24000)
    refused(inside("compare", tmp_path / "a.wav", tmp_path / "b.wav", "--metrics", "lsd", "--out", tmp_path / "c.png"), 1, "do they belong together")
    refused(inside("compare", tmp_path / "a.wav", tmp_path / "none.wav"), 1, "found nothing")
    refused(inside("compare", tmp_path / "a.wav", tmp_path / "b.wav", "--metrics", "x"), 2, "expected a metric")
    refused(inside("compare", tmp_path / "a.wav", tmp_path / "b.wav", "--out", tmp_path / "no" / "c.png"), 1, "create it first")
    assert files_in(tmp_path) == ["a.wav", "b.wav"]


def test_help_of_both_answers_at_once() -> None:
    for verb in ("eval", "compare"):
        assert f"wavespike {verb}" in wavespike(verb, "--help").stdout
