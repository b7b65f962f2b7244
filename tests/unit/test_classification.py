"""The classification task: learns, keeps SpArch's rules, resumes as if it had not stopped."""

import json

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("lightning", reason="lightning is not installed")

from wavespike.errors import ConfigError, TrainingError
from wavespike.hub.load import load
from wavespike.models.sparch import SpArch
from wavespike.training.classification import Plateau, rate_penalty
from wavespike.training.config import train_config
from wavespike.training.run import new_folder, resume, start


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(24):
        hz = (300, 900, 2200)[i % 3]
        n = 1600 + 80 * (i % 4)
        x = 0.3 * np.sin(2 * np.pi * hz * (1 + 0.03 * rng.standard_normal()) * np.arange(n) / 8000) + 0.01 * rng.standard_normal(n)
        soundfile.write(root / f"{i}.wav", x, 8000)
        rows.append(f"{i}.wav\t{('low', 'mid', 'high')[i % 3]}\ts{i // 6}")
    (root / "train.txt").write_text("\n".join(rows[:18]))
    (root / "valid.txt").write_text("\n".join(rows[18:]))
    return root


def recipe(root, steps=12, **changes):
    data = {
        "name": "t",
        "model": {"type": "sparch", "labels": ["low", "mid", "high"], "features": {"type": "kaldi-fbank", "sample_rate": 8000}, "model_type": "adLIF",
                  "nb_hiddens": 24, "nb_layers": 3},
        "task": {"type": "classification", "use_regularizers": True},
        "data": {"type": "labelled-speech", "dataset_name": "lists", "data_folder": str(root), "train": "train.txt", "valid": "valid.txt", "batch_size": 9,
                 "use_augm": True},
        "optimizer": {"name": "adam", "learning_rate": 0.01, "schedule": "constant"},
        "trainer": {"steps": steps, "validate_every": 6, "checkpoint_every": 6, "accelerator": "cpu", "seed": 3},
    }
    for key, value in changes.items():
        part, name = key.split("__")
        data[part][name] = value
    return train_config(data)


def test_three_tones_are_learned_and_the_best_model_loads(corpus, tmp_path):
    folder = start(recipe(corpus, 60, data__use_augm=False, trainer__validate_every=20), new_folder("t", tmp_path / "run"), report=lambda line: None)
    model = load(folder / "best")
    assert isinstance(model, SpArch)
    right = 0
    for line in (corpus / "valid.txt").read_text().splitlines():
        name, label, _ = line.split("\t")
        audio = torch.from_numpy(soundfile.read(corpus / name, dtype="float32")[0])[None]
        right += model.labels[int(model(audio).argmax())] == label
    assert right >= 5  # of 6; chance is 2


def test_a_resumed_run_equals_an_unbroken_one(corpus, tmp_path):
    whole = start(recipe(corpus), new_folder("t", tmp_path / "whole"), report=lambda line: None)
    half = start(recipe(corpus, 6), new_folder("t", tmp_path / "half"), report=lambda line: None)
    text = (half / "config.yaml").read_text()
    (half / "config.yaml").write_text(text.replace("steps: 6\n", "steps: 12\n", 1))
    resume(half, report=lambda line: None)
    a, b = load(whole / "last").state_dict(), load(half / "last").state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_the_plateau_rule_is_that_of_pytorch():
    values = [0.1, 0.2, 0.2, 0.15, 0.19, 0.3, 0.3, 0.3, 0.3, 0.31, 0.2, 0.2, 0.2, 0.2]
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.7, patience=1)
    ours = Plateau(0.7, 1)
    for value in values:
        reference.step(value)
        ours.update(value)
        assert ours.scale == pytest.approx(optimizer.param_groups[0]["lr"])
    assert ours.scale < 0.5


def test_rates_are_penalised_outside_their_range_only():
    assert rate_penalty(torch.tensor([0.01, 0.2, 0.5]), 0.01, 0.5) == 0
    assert rate_penalty(torch.tensor([0.0, 0.7]), 0.01, 0.5).item() == pytest.approx(0.21)


def test_spike_files_train_and_hold_out_speakers(tmp_path):
    pytest.importorskip("h5py", reason="h5py is not installed")
    from wavespike.training.speech_datasets import write_spikes

    rng = np.random.default_rng(0)
    trains = [(np.sort(rng.random(30)), rng.integers(0, 10, 30) // 2 + 5 * (i % 2)) for i in range(12)]
    write_spikes(tmp_path / "shd_train.h5", trains, [i % 2 for i in range(12)], ["a", "b"], [i // 4 for i in range(12)])
    config = recipe(tmp_path, 4, model__labels=["a", "b"], model__features={"type": "spikes", "units": 10, "bins": 20}, data__dataset_name="shd",
                    data__train=None, data__valid=None, data__use_augm=False)
    folder = start(config, new_folder("t", tmp_path / "run"), report=lambda line: None)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert any("accuracy" in json.dumps(row) for row in rows)


@pytest.mark.parametrize("kind", ["RadLIF", "GRU"])
def test_a_batch_of_one_trains(corpus, tmp_path, kind):
    folder = start(recipe(corpus, 6, data__batch_size=1, model__model_type=kind), new_folder("t", tmp_path / "run"), report=lambda line: None)
    for value in load(folder / "last").state_dict().values():
        assert bool(value.isfinite().all())


def test_misfits_are_told(corpus, tmp_path):
    with pytest.raises(TrainingError, match="'high'"):
        start(recipe(corpus, model__labels=["low", "mid"]), new_folder("t", tmp_path / "a"), report=lambda line: None)
    with pytest.raises(ConfigError, match="'rare'"):
        start(recipe(corpus, model__labels=["low", "mid", "high", "rare"]), new_folder("t", tmp_path / "b"), report=lambda line: None)
    with pytest.raises(ConfigError, match="spikes"):
        start(recipe(corpus, data__dataset_name="shd"), new_folder("t", tmp_path / "c"), report=lambda line: None)
    with pytest.raises(ConfigError, match="reg_fmin"):
        recipe(corpus, task__reg_fmin=0.9)
