"""Laws of sampling options: the same seed gives the same file, wrong values are told in one line before any work, other models refuse them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import inside, refused, voice

from wavespike.hub.load import load, save
from wavespike.models.registry import build
from wavespike.signal.files import read, write

MEL = {"type": "mel", "n_fft": 256, "hop_length": 64, "n_mels": 20}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small diffusion model and speech."""
    folder = tmp_path_factory.mktemp("diffusion")
    torch.manual_seed(0)
    backbone = {"type": "convnext", "input_channels": 8, "dim": 8, "intermediate_dim": 16, "num_layers": 1}
    model = build({"type": "specgrad", "features": MEL, "denoiser": {"type": "frames", "backbone": backbone}, "steps": 4,
                   "source": {"type": "excitation", "pitch_dim": 8, "pitch_layers": 1}})
    save(model, folder / "model", card="# model\n")
    write(folder / "in.wav", voice(0.7), 24000)
    return folder


def test_resynth_repeats_itself_with_the_seed(place: Path, tmp_path: Path) -> None:
    for name, words in (("a", ["--seed", 3]), ("b", ["--seed", 3]), ("c", ["--seed", 4]), ("d", ["--seed", 3, "--steps", 2, "--sampler", "dpm2"])):
        result = inside("resynth", place / "in.wav", tmp_path / f"{name}.wav", "--model", place / "model", *words)
        assert (result.returncode, result.stderr) == (0, "")
    a, b, c, d = (read(tmp_path / f"{name}.wav")[0] for name in "abcd")
    assert a.shape == (1, int(0.7 * 24000))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert not np.array_equal(a, d)


def test_vocode_writes_what_decode_computes(place: Path, tmp_path: Path) -> None:
    model = load(place / "model")
    features = model.features(torch.from_numpy(voice(0.5)))  # type: ignore[operator]
    np.save(tmp_path / "mel.npy", features[0].numpy())
    result = inside("vocode", tmp_path / "mel.npy", tmp_path / "out.wav", "--model", place / "model", "--steps", 5, "--seed", 2, "--sample-format", "float")
    assert (result.returncode, result.stderr) == (0, "")
    want = model.decode(features, steps=5, seed=2)  # type: ignore[operator]
    assert np.allclose(read(tmp_path / "out.wav")[0], want.numpy(), atol=1e-5)


def test_eval_gives_the_options_to_the_models_that_sample(place: Path) -> None:
    result = inside("eval", "--data", place / "in.wav", "--model", place / "model", "griffin-lim-24k", "--steps", 2, "--metrics", "mel_l1", "--json")
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["models"]) == 2


@pytest.mark.parametrize(("words", "says"), [
    (["--steps", "0"], r"--steps: expected 1\.\.1000"), (["--steps", "1001"], r"--steps: expected 1\.\.1000"), (["--sampler", "ddp"], "did you mean 'ddpm'"),
], ids=str)
def test_wrong_values_are_told_in_one_line_and_nothing_is_written(place: Path, tmp_path: Path, words: list[str], says: str) -> None:
    refused(inside("resynth", place / "in.wav", tmp_path / "out.wav", "--model", place / "model", *words), 2, says)
    assert list(tmp_path.iterdir()) == []


def test_models_that_do_not_sample_refuse_the_options(place: Path, tmp_path: Path) -> None:
    refused(inside("resynth", place / "in.wav", tmp_path / "out.wav", "--model", "griffin-lim-24k", "--steps", "3"), 2, "expected a diffusion model")
    refused(inside("eval", "--data", place / "in.wav", "--model", "griffin-lim-24k", "--steps", "3"), 2, "expected a diffusion model among")


def test_a_mel_of_another_convention_names_both(place: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "mel.npy", np.zeros((80, 9), np.float32))
    refused(inside("vocode", tmp_path / "mel.npy", tmp_path / "out.wav", "--model", place / "model"), 1, r"20 htk bands.*got 80 bands.*'hifigan'")


def test_one_frame_is_too_few_for_a_file_and_said_so(place: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "mel.npy", np.zeros((20, 1), np.float32))
    refused(inside("vocode", tmp_path / "mel.npy", tmp_path / "out.wav", "--model", place / "model"), 1, "at least one sample")
    assert not (tmp_path / "out.wav").exists()
