"""The Python of docs/recognition.md runs, its recipes exist and build, and its bundled models keep what their cards say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import wavespike
from wavespike.models.registry import build
from wavespike.training.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "recognition.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
def test_the_python_runs(block):
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes" / "sparch").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_build_their_models(recipe):
    data = read_recipe(recipe)
    data["model"]["nb_hiddens"] = 4
    model = build(data["model"])
    assert len(model.labels) >= 10
    assert f"recipes/sparch/{recipe.name}" in PAGE or recipe.stem in ("ssc", "hd", "sc", "digits-8k")


@pytest.mark.parametrize("name", ["radlif-commands-16k", "adlif-digits-8k"])
def test_bundled_recognisers_answer_and_spike_sparsely(name):
    if name not in wavespike.presets():
        pytest.skip(f"the preset {name} is not in this checkout")
    model = wavespike.load(name)
    t = torch.arange(model.sample_rate) / model.sample_rate
    buzz = 0.2 * torch.sign(torch.sin(2 * torch.pi * 130 * t))[None]
    with torch.inference_mode():
        logits, rates = model.scores(model.features(buzz))
    assert logits.shape == (1, len(model.labels))
    assert 0.001 < rates.mean() < 0.2
    card = (ROOT / "src" / "wavespike" / "hub" / "presets" / name / "README.md").read_text(encoding="utf-8")
    assert f"{model.parameter_count():,} parameters" in card


def test_silence_is_no_word():
    if "radlif-commands-16k" not in wavespike.presets():
        pytest.skip("the preset radlif-commands-16k is not in this checkout")
    model = wavespike.load("radlif-commands-16k")
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        logits = model(1e-3 * torch.randn(4, 16000, generator=generator))
    assert {model.labels[int(i)] for i in logits.argmax(1)} <= {"_silence_", "_unknown_"}
