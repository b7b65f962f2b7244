"""`wavespike energy` and `wavespike spikes` as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import wavespike as package
from wavespike.cli.main import main
from wavespike.hub.load import save
from wavespike.models.spiking_vocos import SpikingVocos, SpikingVocosConfig
from wavespike.models.vocos import Vocos
from wavespike.nn.heads import ISTFTHeadConfig
from wavespike.nn.spiking import SpikingConvNeXtConfig


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spiking")
    torch.manual_seed(0)
    backbone = SpikingConvNeXtConfig(dim=32, intermediate_dim=48, num_layers=2, temporal_shift=True, expansion_init_std=0.4)
    model = SpikingVocos(SpikingVocosConfig(backbone=backbone, head=ISTFTHeadConfig(dim=32)))
    save(model, folder / "model", card="made for a test")
    save(Vocos(model.config.dense_twin()), folder / "dense")
    t = np.arange(16000) / 16000
    stereo = np.stack([np.sin(2 * np.pi * 200 * t), np.sin(2 * np.pi * 300 * t)], 1) * 0.2
    soundfile.write(folder / "speech.wav", stereo, 16000)
    return folder


def wavespike(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(package.__file__).parents[1])}
    return subprocess.run([sys.executable, "-m", "wavespike", *words], cwd=place, capture_output=True, text=True, timeout=120, env=environment, check=False)


def test_energy_as_json_and_as_a_table(place: Path) -> None:
    done = wavespike(place, "energy", "model", "speech.wav", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert facts["baseline"] == "dense twin"
    assert 0 < facts["published"]["ratio"] < 1
    assert 0 < facts["complete"]["ratio"] < 2
    assert facts["layers"]
    assert len(facts["rates"]) == 4
    assert facts["uncounted"] == {}


def test_energy_as_a_table_and_a_picture(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(place)
    assert main(("energy", "model", "speech.wav", "--baseline", "dense", "--technology", "7nm", "--memory", "--out", "energy.png")) == 0
    out = capsys.readouterr().out
    assert "published accounting: ratio" in out
    assert "memory traffic included" in out
    assert (place / "energy.png").stat().st_size > 10_000


def test_energy_of_a_dense_model_has_no_published_ratio(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(place)
    assert main(("energy", "dense", "speech.wav", "--json")) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["published"] is None
    assert facts["complete"]["ratio"] is None
    assert facts["operations"]["acs"] == 0


def test_spikes_draws_a_picture_and_a_page_and_prints_rates(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    done = wavespike(place, "spikes", "model", "speech.wav", "--out", "spikes.png", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["layers"]) == 4
    assert (place / "spikes.png").read_bytes()[:4] == b"\x89PNG"
    pytest.importorskip("plotly", reason="interactive pages need the package plotly")
    monkeypatch.chdir(place)
    assert main(("spikes", "model", "speech.wav", "--out", "spikes.html", "--layers", "0", "convnext.1", "--sample", "1", "--threshold", "0.25")) == 0
    assert "backbone.convnext.0.neuron1" in capsys.readouterr().out
    assert "scatter3d" in (place / "spikes.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("words", "code", "said"), [
    (("energy", "model", "speech.wav", "--technology", "45mn"), 2, "did you mean '45nm'"),
    (("energy", "model", "nothing.wav"), 1, "nothing.wav"),
    (("energy", "modle", "speech.wav"), 2, "modle"),
    (("spikes", "dense", "speech.wav"), 2, "expected a model with spiking layers, got Vocos"),
    (("spikes", "model", "speech.wav", "--out", "spikes.txt"), 2, ".png, .svg, .pdf or .html"),
    (("spikes", "model", "speech.wav", "--out", "spikes.png", "--threshold", "0"), 2, "threshold"),
    (("spikes", "model", "speech.wav", "--out", "spikes.png", "--layers", "nonsense"), 2, "expected layers of"),
    (("spikes", "model", "speech.wav", "--out", "nowhere/spikes.png"), 1, "nowhere"),
])
def test_wrong_calls_end_in_one_line(words: tuple[str, ...], code: int, said: str, place: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(place)
    assert main(words) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
