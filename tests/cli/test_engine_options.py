"""`--engine` and `--measure` as a user gives them; the page about them runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from command import inside, refused, voice

import wavespike.cli.common as common
from wavespike.hub.load import save
from wavespike.models.spiking_vocos import SpikingVocos, SpikingVocosConfig
from wavespike.nn.heads import ISTFTHeadConfig
from wavespike.nn.spiking import SpikingConvNeXtConfig
from wavespike.runtime import engines

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.manual_seed(0)
    backbone = SpikingConvNeXtConfig(dim=32, intermediate_dim=48, num_layers=2, time_steps=2, expansion_init_std=0.4)
    save(SpikingVocos(SpikingVocosConfig(backbone=backbone, head=ISTFTHeadConfig(dim=32, mel_prior=True))), tmp_path / "model")
    soundfile.write(tmp_path / "speech.wav", voice(0.5).T, 24000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_engine_says_the_same(place: Path) -> None:
    pytest.importorskip("numba", reason="numba is not installed (extra: events)")
    for engine in ("dense", "events", "auto"):
        done = inside("resynth", "speech.wav", f"{engine}.wav", "--model", "model", "--engine", engine, "--sample-format", "float")
        assert (done.returncode, done.stderr) == (0, "")
    dense, fast, auto = (soundfile.read(f"{name}.wav")[0] for name in ("dense", "events", "auto"))
    assert np.abs(dense - fast).max() <= 1e-5 * np.abs(dense).max()
    assert np.array_equal(fast, auto)
    done = inside("resynth", "speech.wav", "int8.wav", "--model", "model", "--engine", "events", "--int8", "--sample-format", "float")
    assert done.returncode == 0
    assert not np.array_equal(soundfile.read("int8.wav")[0], fast)


def test_the_default_vocoder_with_a_compiled_head(place: Path) -> None:
    pytest.importorskip("numba", reason="numba is not installed (extra: events)")
    for engine in ("dense", "compiled"):
        done = inside("resynth", "speech.wav", f"{engine}.wav", "--engine", engine, "--sample-format", "float")
        assert (done.returncode, done.stderr) == (0, "")
    dense, fast = (soundfile.read(f"{name}.wav")[0] for name in ("dense", "compiled"))
    assert np.abs(dense - fast).max() <= 1e-4 * np.abs(dense).max()
    refused(inside("resynth", "speech.wav", "x.wav", "--model", "model", "--engine", "compiled"), 2, "source-filter head")


def test_the_command_line_knows_every_engine() -> None:
    assert common.ENGINES == engines.ENGINES


def test_what_an_engine_cannot_do_is_refused(place: Path) -> None:
    refused(inside("resynth", "speech.wav", "x.wav", "--model", "griffin-lim-24k", "--engine", "events"), 2, "spiking layers")
    refused(inside("resynth", "speech.wav", "x.wav", "--model", "model", "--engine", "dense", "--int8"), 2, "8-bit")
    refused(inside("resynth", "speech.wav", "x.wav", "--engine", "evnts"), 2, "engine")


def test_measured_energy_or_the_reason_why_not(place: Path) -> None:
    done = inside("energy", "model", "speech.wav", "--measure", "--repeats", "1", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    measured = json.loads(done.stdout)["measured"]
    assert "expected" in measured["reason"] if "reason" in measured else measured["model"]["gross_joules_per_second"] > 0


def test_the_python_of_the_page_runs() -> None:
    pytest.importorskip("numba", reason="numba is not installed (extra: events)")
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "events.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        exec(block, {})
