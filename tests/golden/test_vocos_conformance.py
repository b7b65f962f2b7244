"""Law: an upstream Vocos checkpoint gives here what it gives there (stored outputs of the original, random weights)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import wavespike
from wavespike.models.vocos import Vocos

FOLDER = Path(__file__).parent / "vocos"
CASES = sorted(p.name for p in FOLDER.iterdir())
MEL_CASES = [c for c in CASES if c.startswith("mel")]


def error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).detach().abs().max() / theirs.abs().max())


def case(name: str) -> tuple[Vocos, dict[str, Tensor]]:
    model = wavespike.load(FOLDER / name)
    assert isinstance(model, Vocos)
    return model, load_file(FOLDER / name / "io.safetensors")


@pytest.mark.parametrize("name", MEL_CASES)
def test_features_equal_the_original(name: str) -> None:
    model, io = case(name)
    assert error(model.features(io["audio_in"]), io["features"]) <= 1e-4


@pytest.mark.parametrize("name", MEL_CASES)
def test_hidden_frames_equal_the_original(name: str) -> None:
    model, io = case(name)
    assert error(model.backbone(io["features"]), io["hidden"]) <= 1e-4


@pytest.mark.parametrize("name", CASES)
def test_audio_from_features_equals_the_original(name: str) -> None:
    model, io = case(name)
    assert error(model.decode(io["features"], bandwidth_id=io.get("bandwidth_id")), io["audio_out"]) <= 1e-4


def test_codes_to_features_equals_the_original() -> None:
    model, io = case("encodec-adanorm")
    assert error(model.codes_to_features(io["codes"]), io["features"]) <= 1e-4
    assert error(model.codes_to_features(io["codes"][:, 0]), io["features"]) <= 1e-4


@pytest.mark.parametrize("name", CASES)
def test_streamed_audio_equals_the_original(name: str) -> None:
    model, io = case(name)
    features = io["features"]
    with model.stream(batch_size=features.shape[0], bandwidth_id=io.get("bandwidth_id")) as session:
        audio = torch.cat([*(session.push(chunk) for chunk in features.split(7, -1)), session.flush()], 1)
    assert error(audio, io["audio_out"]) <= 1e-4
