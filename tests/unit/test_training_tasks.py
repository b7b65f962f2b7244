"""Laws of tasks and runs: a step is one update of the model, a run can be repeated, continued, and stops before it spoils its weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason="training needs the package lightning")
pytest.importorskip("tensorboard", reason="training logs need the package tensorboard")

import yaml
from safetensors.torch import load_file

import wavespike
from training_helpers import RECIPES, TINY, TINY_CONVNEXT, TINY_OURS, make_corpus, rows
from wavespike.errors import CheckpointError, ConfigError, OutputError, TrainingError, UsageError
from wavespike.training.config import train_config
from wavespike.training.recipe import load_recipe
from wavespike.training.run import new_folder, read_config, resume, start
from wavespike.training.task import first_non_finite, mean_figures, micro_batches

SIZE = {"vocos": (*TINY, *TINY_CONVNEXT), "vocos-imdct": (*TINY, *TINY_CONVNEXT), "vocos-resnet": (*TINY, "model.backbone.num_blocks=1")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def train(folder: Path, recipe: str, words: Sequence[str], report: Any = lambda line: None, model: Any = None) -> Path:
    config = train_config(load_recipe(RECIPES / f"{recipe}.yaml", words))
    return start(config, new_folder(config.name, folder), report=report, model=model)


@pytest.mark.parametrize("recipe", sorted(SIZE))
def test_published_recipes_train_two_steps(recipe: str, corpus: list[str], tmp_path: Path) -> None:
    run = train(tmp_path / "run", recipe, [*SIZE[recipe], *corpus, "trainer.steps=2"])
    assert [row["step"] for row in rows(run)] == [1, 2]
    for name in ("discriminator/period", "discriminator/resolution", "generator/mel", "generator/period", "generator/matching_resolution"):
        assert all(name in row for row in rows(run))
    model = wavespike.load(str(run / "best"))
    assert torch.isfinite(model(torch.randn(1, 4096) * 0.1)).all()


def test_the_encodec_recipe_trains_two_steps_with_a_condition_an_item(corpus: list[str], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="EnCodec needs the package transformers")
    from wavespike.training.run import build_model

    words = [*TINY, *TINY_CONVNEXT, *corpus, "trainer.steps=2", "data.crop_samples=3200", "data.valid_samples=3200", "data.valid_files=1",
             "model.features.codebook_size=16", "model.features.codebook_dim=8", "model.backbone.input_channels=8"]
    config = train_config(load_recipe(RECIPES / "vocos-encodec.yaml", words))
    tiny = transformers.EncodecConfig(num_filters=2, hidden_size=8, codebook_size=16, codebook_dim=8, num_lstm_layers=1,
                                      target_bandwidths=[1.5, 3.0, 6.0, 12.0])
    model = build_model(config, fresh=False)
    model.feature_extractor.attach(transformers.EncodecModel(tiny))  # type: ignore[union-attr, operator]
    run = start(config, new_folder(config.name, tmp_path / "run"), model=model, report=lambda line: None)
    figures = rows(run, "valid")[-1]
    assert {"mel", "mel@0", "mel@1", "mel@2", "mel@3"} <= figures.keys()  # not the lowest bandwidth alone
    assert figures["mel"] == pytest.approx(sum(figures[f"mel@{k}"] for k in range(4)) / 4)


def test_our_recipe_trains_with_pitch_labels_alignment_and_a_light_discriminator(corpus: list[str], tmp_path: Path) -> None:
    pytest.importorskip("pyworld", reason="pitch labels need the package pyworld")
    light = "task.discriminator={type: multi-resolution, windows: [256, 128], channels: 4, bands: [0, 1]}"
    words = [*TINY_OURS, *corpus, "trainer.steps=3", light, "task.discriminator_from=2", "task.align_source=true", "task.phase_weight=1"]
    run = train(tmp_path / "run", "vocos-24k", words)
    done = rows(run)
    assert all({"spectral", "pitch", "voicing", "phase"} <= row.keys() for row in done)
    assert ["adversarial" in row for row in done] == [False, False, True]
    assert (run / "cache").is_dir()
    assert wavespike.load(str(run / "best")).decode(torch.randn(1, 100, 12)).shape == (1, 11 * 256)


def test_the_objective_without_labels_serves_every_vocoder(corpus: list[str], tmp_path: Path) -> None:
    words = [*TINY_OURS, *corpus, "trainer.steps=30", "trainer.validate_every=30", "data.batch_size=4", "optimizer.warmup_steps=0", "optimizer.learning_rate=3e-3"]
    words = [w for w in words if not w.startswith("model.head.pitch")]
    run = train(tmp_path / "run", "vocos-24k-prior", words)
    losses = [row["loss/model"] for row in rows(run)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])  # it learns
    assert not (run / "cache").exists() or not list((run / "cache").glob("*.pitch.npy"))


def test_a_run_folder_says_what_was_done(corpus: list[str], tmp_path: Path) -> None:
    said: list[str] = []
    words = [*SIZE["vocos"], *corpus, "trainer.steps=5", "trainer.validate_every=1", "trainer.keep_best=2", "trainer.ema_decay=0.9"]
    run = train(tmp_path / "run", "vocos", words, said.append)
    assert read_config(run) == train_config(load_recipe(RECIPES / "vocos.yaml", words))
    facts = json.loads((run / "run.json").read_text())
    assert facts["seed"] == 4444
    assert {"commit", "machine", "versions", "command", "started"} <= facts.keys()
    kept = sorted((run / "checkpoints").glob("step-*.ckpt"))
    scores = {row["step"]: row["mel"] for row in rows(run, "valid")}
    assert sorted(scores) == [1, 2, 3, 4, 5]
    best = sorted(scores, key=lambda s: scores[s])[:2]
    assert sorted(int(p.name[5:13]) for p in kept) == sorted(best)
    config = json.loads((run / "best" / "config.json").read_text())
    assert config["training"]["step"] == best[0]
    assert config["training"]["validation"]["mel"] == pytest.approx(scores[best[0]])
    assert "## Metrics" in (run / "best" / "README.md").read_text()
    assert list((run / "tensorboard").glob("events*"))
    # a checkpoint holds nothing that unpickling would execute; what is exported is the moving average
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["wavespike"]["steps_done"] == 5
    exported = load_file(run / "last" / "model.safetensors")
    assert all(torch.equal(value, state["state_dict"][f"average.{name}"]) for name, value in exported.items())
    assert any(not torch.equal(value, state["state_dict"][f"model.{name}"]) for name, value in exported.items())
    assert not list(run.rglob("*.part"))
    with pytest.raises(UsageError, match="wavespike resume"):
        new_folder("vocos", run)


def test_tensorboard_has_figures_audio_and_pictures(corpus: list[str], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tmp_path / "run", "vocos", [*SIZE["vocos"], *corpus, "trainer.steps=2", "trainer.validate_every=1"])
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"audio": 0, "images": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    assert [e.step for e in events.Scalars("train/loss/generator")] == [1, 2]
    assert {"0/output", "0/original"} <= set(tags["audio"])
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return
    assert "0/spectrogram" in tags["images"]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(corpus: list[str], tmp_path: Path) -> None:
    words = [*SIZE["vocos"], *corpus, "trainer.steps=2"]
    one, two = (train(tmp_path / name, "vocos", words) for name in "ab")
    other = train(tmp_path / "c", "vocos", [*words, "trainer.seed=1"])
    workers = train(tmp_path / "d", "vocos", [*words, "data.num_workers=2"])
    assert rows(one) == rows(two) == rows(workers)
    assert rows(one) != rows(other)


def test_a_run_in_two_parts_equals_the_unbroken_one(corpus: list[str], tmp_path: Path) -> None:
    words = [*SIZE["vocos"], *corpus, "trainer.steps=6", "trainer.validate_every=4", "trainer.checkpoint_every=2", "trainer.ema_decay=0.9"]
    whole = train(tmp_path / "whole", "vocos", words)

    class Power(Exception):
        pass

    def cut(line: str) -> None:
        if line.startswith("step 4/"):  # after the update, before the validation and the checkpoint of step 4
            raise Power

    with pytest.raises(Power):
        train(tmp_path / "cut", "vocos", words, cut)
    said: list[str] = []
    resume(tmp_path / "cut", report=said.append)
    assert any("resumed at step 2 of 6" in line for line in said)
    assert rows(tmp_path / "cut") == rows(whole)
    assert rows(tmp_path / "cut", "valid") == rows(whole, "valid")
    assert (tmp_path / "cut" / "last" / "model.safetensors").read_bytes() == (whole / "last" / "model.safetensors").read_bytes()


def test_a_finished_run_says_so_and_goes_on_when_more_steps_are_asked_for(corpus: list[str], tmp_path: Path) -> None:
    run = train(tmp_path / "run", "vocos", [*SIZE["vocos"], *corpus, "trainer.steps=2"])
    said: list[str] = []
    assert resume(run, report=said.append) == run
    assert "already at step 2 of 2" in said[0]
    data = yaml.safe_load((run / "config.yaml").read_text())
    data["trainer"]["steps"] = 3
    (run / "config.yaml").write_text(yaml.safe_dump(data))
    resume(run, report=said.append)
    assert [row["step"] for row in rows(run)] == [1, 2, 3]


def test_micro_batches_add_up_to_the_large_batch(corpus: list[str], tmp_path: Path) -> None:
    words = [*SIZE["vocos"], *corpus, "trainer.steps=3"]
    whole = rows(train(tmp_path / "a", "vocos", [*words, "data.batch_size=4"]))
    parts = rows(train(tmp_path / "b", "vocos", [*words, "data.batch_size=2", "trainer.accumulate=2"]))
    for a, b in zip(whole, parts, strict=True):
        for name in ("generator/mel", "loss/discriminator", "gradient_norm/generator"):
            assert a[name] == pytest.approx(b[name], rel=2e-3)
    pieces = micro_batches({"x": torch.arange(6), "y": torch.arange(6) * 2}, 3)
    assert [p["x"].tolist() for p in pieces] == [[0, 1], [2, 3], [4, 5]]


def test_pretraining_leaves_the_discriminators_alone_and_steps_are_the_generators(corpus: list[str], tmp_path: Path) -> None:
    words = [*SIZE["vocos"], *corpus, "trainer.steps=4", "task.pretrain_mel_steps=2", "task.mel_weight_decay=true"]
    done = rows(train(tmp_path / "run", "vocos", words))
    assert [row["step"] for row in done] == [1, 2, 3, 4]
    assert ["discriminator/period" in row for row in done] == [False, False, True, True]
    weights = [row["generator/total"] / row["generator/mel"] for row in done[:2]]
    assert weights == pytest.approx([45.0, 45.0])


def test_bfloat16_discriminators_judge_nearly_the_same(corpus: list[str], tmp_path: Path) -> None:
    words = [*SIZE["vocos"], corpus[0], "trainer.steps=2"]
    full = rows(train(tmp_path / "full", "vocos", words))
    half = rows(train(tmp_path / "half", "vocos", [*words, "trainer.precision=bf16-mixed"]))
    assert full[0]["generator/mel"] == half[0]["generator/mel"]  # spectra and losses stay in float32
    assert full[0]["loss/discriminator"] != half[0]["loss/discriminator"]
    assert full[0]["loss/discriminator"] == pytest.approx(half[0]["loss/discriminator"], rel=0.02)


def test_a_crop_that_is_no_multiple_of_the_hop_trains(corpus: list[str], tmp_path: Path) -> None:
    run = train(tmp_path / "run", "vocos", [*SIZE["vocos"], *corpus, "trainer.steps=1", "data.crop_samples=4000"])
    assert rows(run)


class TestNotANumber:
    def test_training_stops_names_the_layer_and_keeps_the_checkpoint(self, corpus: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from wavespike.nn.convnext import ConvNeXtBlock

        words = [*SIZE["vocos"], *corpus, "trainer.steps=6", "trainer.checkpoint_every=1"]
        calls = {"n": 0}
        forward = ConvNeXtBlock.forward

        def poisoned(self: ConvNeXtBlock, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
            calls["n"] += 1
            out = forward(self, x, condition)
            return out * torch.nan if calls["n"] > 6 else out  # two calls a step: the discriminator's and the generator's

        monkeypatch.setattr(ConvNeXtBlock, "forward", poisoned)
        with pytest.raises(TrainingError) as error:
            train(tmp_path / "run", "vocos", words)
        assert "step 4" in str(error.value)
        assert "model.backbone.convnext.0 (ConvNeXtBlock)" in str(error.value)
        assert "\n" not in str(error.value)
        state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
        assert state["wavespike"]["steps_done"] == 3
        assert all(torch.isfinite(v).all() for v in state["state_dict"].values() if v.is_floating_point())

    def test_an_exploding_gradient_names_its_parameter(self, corpus: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from wavespike.training import adversarial

        original = adversarial.mel_loss
        monkeypatch.setattr(adversarial, "mel_loss", lambda a, b, c: original(a, b, c) + (a - a.detach()).abs().sum().sqrt())
        with pytest.raises(TrainingError, match=r"gradient of parameter model\."):
            train(tmp_path / "run", "vocos", [*SIZE["vocos"], *corpus, "trainer.steps=2"])

    def test_the_first_layer_is_found(self) -> None:
        layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.ReLU())
        with torch.no_grad():
            layers[1].weight.fill_(torch.inf)
        assert first_non_finite(layers, lambda: layers(torch.ones(1, 2))) == "layer 1 (Linear)"
        assert "every layer's output is finite" in first_non_finite(layers[0], lambda: torch.ones(1) / 0)


def test_failed_figures_are_left_out_and_counted() -> None:
    means = mean_figures([{"mel": 1.0, "pesq": None}, {"mel": 3.0, "pesq": 2.0}, {"mel": float("nan"), "pesq": 4.0}])
    assert means == {"mel": 2.0, "mel_failed": 1.0, "pesq": 3.0, "pesq_failed": 1.0}
    assert mean_figures([{"pesq": None}]) == {"pesq_failed": 1.0}


def test_silence_has_no_pitch_and_is_not_averaged_in(tmp_path: Path) -> None:
    pytest.importorskip("librosa", reason="pitch needs the package librosa")
    import numpy as np
    import soundfile

    from training_helpers import voice

    words = make_corpus(tmp_path / "corpus", seconds=1.0)
    soundfile.write(tmp_path / "corpus" / "silence.wav", np.zeros(24000), 24000)
    soundfile.write(tmp_path / "corpus" / "voiced.wav", voice(1.0, 24000, 150), 24000)
    (tmp_path / "corpus" / "valid.txt").write_text("silence.wav\nvoiced.wav\n", encoding="utf-8")
    size = [w for w in SIZE["vocos"] if not w.startswith("task.metrics")]
    run = train(tmp_path / "run", "vocos", [*size, *words, "trainer.steps=1", "task.metrics=[pitch_rmse_cents, vuv_f1]"])
    figures = rows(run, "valid")[0]
    assert figures["pitch_rmse_cents_failed"] >= 1
    assert figures["mel"] > 0


def test_checkpoints_follow_the_chosen_figure(corpus: list[str], tmp_path: Path) -> None:
    pytest.importorskip("pystoi", reason="STOI needs the package pystoi")
    words = [*(w for w in SIZE["vocos"] if not w.startswith("task.metrics")), *corpus, "trainer.steps=3", "trainer.validate_every=1", "trainer.keep_best=1"]
    run = train(tmp_path / "run", "vocos", [*words, "task.metrics=[stoi]", "trainer.monitor=stoi"])
    scores = {row["step"]: row["stoi"] for row in rows(run, "valid")}
    (kept,) = (run / "checkpoints").glob("step-*.ckpt")
    assert int(kept.name[5:13]) == max(scores, key=lambda s: scores[s])  # higher is better
    with pytest.raises(TrainingError, match="did you mean 'mel'"):
        train(tmp_path / "other", "vocos", [*SIZE["vocos"], *corpus, "trainer.steps=1", "trainer.monitor=mell"])


def test_init_starts_from_a_run(corpus: list[str], tmp_path: Path) -> None:
    words = [*SIZE["vocos"], *corpus, "trainer.steps=1"]
    first = train(tmp_path / "a", "vocos", words)
    second = train(tmp_path / "b", "vocos", [*words, f"init={first}", "optimizer.learning_rate=1e-12"])
    before, after = load_file(first / "best" / "model.safetensors"), load_file(second / "last" / "model.safetensors")
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_configurations_that_make_no_sense_are_refused(corpus: list[str], tmp_path: Path) -> None:
    for words, says in (
        (["task.multi_period=null", "task.multi_resolution=null"], "reconstruction"),
        (["data.train=null"], "data.train"),
        (["trainer.devices=0"], "1 or more"),
    ):
        with pytest.raises(ConfigError, match=says):
            train(tmp_path / says[:4], "vocos", [*corpus, *words, "trainer.steps=1", *TINY_CONVNEXT, "model.backbone.dim=16", "model.head.dim=16"])
    (tmp_path / "bad.txt").write_text("missing.wav\n", encoding="utf-8")
    with pytest.raises(TrainingError, match="none of 1"):
        train(tmp_path / "bad", "vocos", [*SIZE["vocos"], f"data.train={tmp_path / 'bad.txt'}", "trainer.steps=1"])
    with pytest.raises(UsageError, match=r"config\.yaml"):
        resume(tmp_path)


def test_a_damaged_run_is_an_error_of_one_line(corpus: list[str], tmp_path: Path) -> None:
    run = train(tmp_path / "run", "vocos", [*SIZE["vocos"], *corpus, "trainer.steps=1"])
    data = yaml.safe_load((run / "config.yaml").read_text())
    data["trainer"]["steps"] = 2
    (run / "config.yaml").write_text(yaml.safe_dump(data))
    (run / "checkpoints" / "last.ckpt").write_bytes((run / "checkpoints" / "last.ckpt").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        resume(run, report=lambda line: None)


def test_a_full_disk_is_an_error_of_one_line_and_the_last_checkpoint_stays(corpus: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning.pytorch as L

    original, calls = L.Trainer.save_checkpoint, []

    def full(self: L.Trainer, path: Path, *rest: Any) -> None:
        calls.append(path)
        if len(calls) == 3:
            Path(path).write_bytes(b"half a check")
            raise OSError(28, "No space left on device")
        original(self, path, *rest)

    monkeypatch.setattr(L.Trainer, "save_checkpoint", full)
    words = [*SIZE["vocos"], corpus[0], "trainer.steps=4", "trainer.checkpoint_every=1"]
    with pytest.raises(OutputError, match="No space left"):
        train(tmp_path / "run", "vocos", words)
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["wavespike"]["steps_done"] == 2
    assert not list((tmp_path / "run").rglob("*.part"))
    monkeypatch.undo()
    resume(tmp_path / "run", report=lambda line: None)
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]


def test_the_report_of_a_bad_file_comes_once(corpus: list[str], tmp_path: Path) -> None:
    folder = Path(corpus[0].partition("=")[2]).parent
    (tmp_path / "train.txt").write_text(f"{folder / 'voice0.wav'}\n{folder / 'nowhere.wav'}\n", encoding="utf-8")
    said: list[str] = []
    train(tmp_path / "run", "vocos", [*SIZE["vocos"], f"data.train={tmp_path / 'train.txt'}", "trainer.steps=2"], said.append)
    assert sum("nowhere.wav" in line for line in said) == 1
    assert dataclasses.is_dataclass(read_config(tmp_path / "run"))


def test_the_aligned_source_is_in_phase_with_the_target() -> None:
    import math

    from wavespike.training.alignment import aligned_pulses, measured_phase

    rate, hop, frames = 24000, 256, 41
    n = torch.arange((frames - 1) * hop)
    step = 2 * math.pi * 150.0 / rate
    for first in (0.0, 1.0, 3.0, 5.0):
        phase = step * n + first
        audio = torch.stack([torch.cos(k * phase) / k for k in range(1, 8)]).sum(0)[None] * 0.2
        labels, voiced = torch.full((1, frames), 151.0), torch.ones(1, frames)  # labels are a little wrong, as labels are
        found, pitch = measured_phase(audio, labels, voiced, hop, rate)
        truth = step * hop * torch.arange(frames, dtype=torch.float64) + first
        error = torch.remainder(found[0] - truth + math.pi, 2 * math.pi) - math.pi
        assert float(error[3:-3].abs().max()) < 0.1
        assert float((pitch[:, 3:-3] - 150).abs().max()) < 0.5
        pulses = aligned_pulses(audio, labels, voiced, hop, rate)
        assert pulses.shape == audio.shape
        inner = slice(4 * hop, -4 * hop)
        from_peak = (torch.remainder(phase[inner] + math.pi, 2 * math.pi) - math.pi).abs()
        at_peak = pulses[0, inner][from_peak < 0.6 * step]
        assert float(at_peak.mean()) > 5 * float(pulses[0, inner].std())  # pulses stand where the target's do
