"""Laws of training with spikes: every recipe takes steps, teachers must fit, regularisers pull the right way, ill layers and broken numbers are named."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

pytest.importorskip("lightning", reason="training needs the package lightning")
pytest.importorskip("tensorboard", reason="training logs need the package tensorboard")

import wavespike
from wavespike.config import to_dict
from wavespike.errors import ConfigError, TrainingError
from wavespike.hub.load import save
from wavespike.models.registry import build
from wavespike.models.spiking_vocos import SpikingVocos, SpikingVocosConfig
from wavespike.models.vocos import Vocos, VocosConfig
from wavespike.nn.convnext import ConvNeXtConfig
from wavespike.nn.heads import ISTFTHeadConfig, SourceFilterHeadConfig
from wavespike.signal.mel import MelConfig
from wavespike.training.config import TrainConfig, train_config
from wavespike.training.distillation import SpikeLossConfig, SpikingReconstructionTask, start_from
from wavespike.training.losses import anti_wrapped
from wavespike.training.recipe import load_recipe
from wavespike.training.registry import task_class
from wavespike.training.run import new_folder, start
from wavespike.training.spiking_losses import (
    FeatureAdapter,
    accumulate_ratio,
    aligned_pairs,
    feature_distillation,
    firing_rates,
    output_distillation,
    pitch_distillation,
    rate_regulariser,
    target_energy_regulariser,
)

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = ("model.backbone.dim=32", "model.head.dim=32", "model.backbone.intermediate_dim=48", "model.backbone.num_layers=2")
TINY = (*SMALL, "data.batch_size=2", "data.crop_samples=4096", "data.num_workers=0", "data.valid_files=1", "trainer.threads=1", "trainer.accelerator=cpu",
        "task.metrics=[]", "trainer.log_every=1", "trainer.steps=2")
LIGHT = ("task.multi_period.channels=[4,4]", "task.multi_period.periods=[2,3]", "task.multi_resolution.channels=4")
OURS = ("model.head.pitch_dim=16", "model.head.pitch_layers=1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for i in range(3):
        t = np.arange(14000) / 24000
        tone = sum(np.sin(2 * np.pi * (130 + 40 * i) * k * t) / k for k in range(1, 9))
        soundfile.write(folder / f"voice{i}.wav", (0.2 * tone + 0.01 * rng.standard_normal(t.size)).astype(np.float32), 24000)
    (folder / "train.txt").write_text("voice0.wav\nvoice1.wav\n")
    (folder / "valid.txt").write_text("voice2.wav\n")
    return [f"data.train={folder / 'train.txt'}", f"data.valid={folder / 'valid.txt'}"]


def dense(head: Any = None, dim: int = 32, layers: int = 2, features: MelConfig | None = None) -> Vocos:
    torch.manual_seed(0)
    return Vocos(VocosConfig(features=features or MelConfig(), backbone=ConvNeXtConfig(dim=dim, intermediate_dim=48, num_layers=layers),
                             head=head or ISTFTHeadConfig(dim=dim))).eval()


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("teachers")
    save(dense(), folder / "istft")
    save(dense(SourceFilterHeadConfig(dim=32, pitch_dim=16, pitch_layers=1, consistency_steps=4, momentum=0.0, learn_momentum=False)), folder / "source-filter")
    save(dense(features=MelConfig(f_max=8000.0)), folder / "other-mel")
    save(dense(features=MelConfig(sample_rate=22050)), folder / "other-rate")
    return {p.name: str(p) for p in folder.iterdir()}


def config_of(recipe: str, words: Sequence[str]) -> TrainConfig:
    return train_config(load_recipe(RECIPES / f"{recipe}.yaml", words))


def task_of(recipe: str, words: Sequence[str]) -> Any:
    config = config_of(recipe, words)
    return task_class(config.task.type_name)(build(to_dict(config.model)), config)


def train(folder: Path, recipe: str, words: Sequence[str]) -> tuple[Path, list[dict[str, Any]]]:
    config = config_of(recipe, words)
    run = start(config, new_folder(config.name, folder), report=lambda line: None)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return run, [line for line in lines if line["kind"] == "train"]


@pytest.mark.parametrize("recipe", ["vocos-spiking", "vocos-spiking-tsm", "vocos-spiking-distill", "vocos-spiking-tsm-distill"])
def test_published_recipes_train_two_steps(recipe: str, corpus: list[str], teachers: dict[str, str], tmp_path: Path) -> None:
    distil = recipe.endswith("distill")
    words = [*TINY, *LIGHT, *corpus, *([f"task.distillation.teacher={teachers['istft']}"] if distil else [])]
    run, rows = train(tmp_path / "run", recipe, words)
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert {f"rate/backbone.convnext.{i}.neuron{j}" for i in (0, 1) for j in (1, 2)} <= row.keys()
        assert ({"loss/feature", "loss/output"} <= row.keys()) == distil
    model = wavespike.load(str(run / "best"))
    assert isinstance(model, SpikingVocos)
    assert model.config.backbone.temporal_shift == ("tsm" in recipe)
    assert torch.isfinite(model(torch.randn(1, 4096) * 0.1)).all()


def test_our_recipe_learns_the_pitch_from_its_teacher_without_labels(corpus: list[str], teachers: dict[str, str], tmp_path: Path) -> None:
    run, rows = train(tmp_path / "run", "spiking-vocos-24k",
                      [*TINY, "model.head.dim=128", *corpus, "task.spikes.energy_weight=0.5", f"task.distillation.teacher={teachers['source-filter']}"])
    assert all({"loss/feature", "loss/output", "loss/pitch", "loss/rate", "loss/energy", "rate/backbone.readout"} <= row.keys() for row in rows)
    assert not list((run / "cache").glob("*.pitch.npy"))
    model = wavespike.load(str(run / "last"))
    assert isinstance(model, SpikingVocos)
    assert model.config.head.pitch == "hidden"
    assert torch.isfinite(model(torch.randn(1, 4096) * 0.1)).all()


def test_the_distilled_pitch_pulls_at_the_backbone_and_is_least_at_the_teachers() -> None:
    torch.manual_seed(0)
    logits, voicing = 3 * torch.randn(2, 5, 30), torch.randn(2, 5)
    least = pitch_distillation(logits, voicing, logits, voicing)
    for other in (logits + torch.randn_like(logits), logits.roll(1, -1)):
        assert pitch_distillation(other, voicing, logits, voicing) > least
    assert pitch_distillation(logits, voicing + 1, logits, voicing) > least
    moved = logits.clone()
    moved[0, 0] = 0
    unheard = voicing.clone()
    unheard[0, 0] = -30  # what the teacher does not hear need not be followed
    torch.testing.assert_close(pitch_distillation(moved, unheard, logits, unheard), pitch_distillation(logits, unheard, logits, unheard), atol=1e-6, rtol=0)


def test_a_pitch_network_from_the_teacher_can_be_kept(corpus: list[str], teachers: dict[str, str], tmp_path: Path) -> None:
    teacher = wavespike.load(teachers["source-filter"])
    own = ["model.head.pitch=network", *OURS, "model.backbone.readout=membrane", "task.distillation.pitch_weight=0", "task.distillation.freeze=[head.pitch.]"]
    run, _ = train(tmp_path / "run", "spiking-vocos-24k", [*TINY, *own, *corpus, f"task.distillation.teacher={teachers['source-filter']}"])
    state, before = wavespike.load(str(run / "last")).state_dict(), teacher.state_dict()
    pitch = [k for k in before if k.startswith("head.pitch.")]
    assert pitch
    assert all(torch.equal(state[k], before[k]) for k in pitch)
    assert not torch.equal(state["head.out.weight"], before["head.out.weight"])
    assert not any("teacher" in k for k in torch.load(run / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"])


@pytest.mark.parametrize(("teacher", "said"), [("other-mel", "f_max 8000.0 instead of None"), ("other-rate", "expected the student's 24000 Hz, got 22050 Hz"),
                                               ("source-filter", "expected the student's head"), (None, "expected a dense Vocos .* got none")])
def test_a_teacher_that_does_not_fit_is_refused(teacher: str | None, said: str, teachers: dict[str, str]) -> None:
    words = [] if teacher is None else [f"task.distillation.teacher={teachers[teacher]}"]
    with pytest.raises(ConfigError, match=said):
        task_of("vocos-spiking-distill", [*TINY, *LIGHT, "data.train=x", *words])


def test_a_spiking_teacher_and_a_dense_student_are_refused(tmp_path: Path) -> None:
    save(SpikingVocos(SpikingVocosConfig.twin_of(dense().config)), tmp_path / "spiking")
    with pytest.raises(ConfigError, match="expected a dense Vocos with a ConvNeXt backbone, got a SpikingVocos"):
        task_of("vocos-spiking-distill", [*TINY, *LIGHT, "data.train=x", f"task.distillation.teacher={tmp_path / 'spiking'}"])
    config = config_of("vocos-spiking", [*TINY, *LIGHT, "data.train=x"])
    with pytest.raises(ConfigError, match="expected a spiking-vocos model, got Vocos"):
        task_class(config.task.type_name)(dense(), config)


def test_the_distilled_phase_has_a_gradient_where_the_original_had_none() -> None:
    torch.manual_seed(0)
    phase, target = (3 * torch.randn(2, 9, 7)).requires_grad_(), 3 * torch.randn(2, 9, 7)
    magnitude = torch.rand(2, 9, 7) + 0.1
    output_distillation(magnitude, phase, magnitude, target, 0.05).backward()
    assert phase.grad is not None
    assert float((phase.grad != 0).float().mean()) > 0.5
    numeric = torch.autograd.gradcheck(lambda p: anti_wrapped(p).sum(), (torch.tensor([0.3, -2.0, 4.0, 7.1], dtype=torch.float64, requires_grad=True),))
    assert numeric


def test_alignments_say_which_layers_meet() -> None:
    assert aligned_pairs("aligned", True, 3, 3) == [("output", 0, 0), ("output", 1, 1), ("output", 2, 2)]
    assert aligned_pairs("aligned", True, 2, 8) == [("output", 0, 3), ("output", 1, 7)]
    assert aligned_pairs("published", True, 3, 3) == [("mixed", 1, 0), ("mixed", 2, 1)]  # the last output is never supervised
    assert aligned_pairs("published", False, 3, 3) == [("output", 0, 0), ("output", 1, 1), ("output", 2, 2)]
    with pytest.raises(ConfigError, match="as many student as teacher blocks"):
        aligned_pairs("published", True, 2, 3)


@pytest.mark.parametrize("alignment", ["aligned", "published"])
def test_aligned_supervises_the_last_block_and_published_does_not(alignment: Any) -> None:
    torch.manual_seed(0)
    outputs = [torch.randn(4, 1, 8, 5, requires_grad=True) for _ in range(3)]
    mixed = [torch.randn(4, 1, 8, 5, requires_grad=True) for _ in range(3)]
    adapters = nn.ModuleList(FeatureAdapter(8) for _ in range(3))
    feature_distillation(adapters, outputs, mixed, [torch.randn(1, 8, 5) for _ in range(3)], alignment, True).backward()
    assert [u.grad is not None for u in outputs] == [alignment == "aligned"] * 3
    assert [a.conv1x1.weight.grad is not None for a in adapters] == [alignment == "aligned", True, True]  # type: ignore[union-attr]


def test_regularisers_are_zero_in_the_band_and_pull_towards_it() -> None:
    rates = torch.tensor([0.005, 0.1, 0.7], requires_grad=True)
    value = rate_regulariser(list(rates), 0.01, 0.5)
    assert float(value.detach()) == pytest.approx(0.005 + 0.2)
    value.backward()
    assert rates.grad.tolist() == [-1.0, 0.0, 1.0]  # type: ignore[union-attr]
    assert float(rate_regulariser([torch.tensor(0.7)], 0.0, 0.5, [3.0])) == pytest.approx(0.6)
    named = {"a": torch.tensor(0.2), "b": torch.tensor(0.1)}
    sites, fan = {"a": 10, "b": 30}, {"a": 30, "b": 10}
    assert float(accumulate_ratio(named, sites, fan)) == pytest.approx(0.15)
    assert float(target_energy_regulariser(named, sites, fan, 0.1)) == pytest.approx(0.05)
    assert float(target_energy_regulariser(named, sites, fan, 0.2)) == 0.0
    with pytest.raises(ConfigError, match="fmin"):
        rate_regulariser(named, 0.5, 0.1)


def test_following_the_rate_regulariser_alone_thins_the_spikes_out() -> None:
    torch.manual_seed(0)
    model = SpikingVocos(SpikingVocosConfig.twin_of(dense().config, expansion_init_std=0.4))
    features, optimizer = torch.randn(1, 100, 20), torch.optim.Adam(model.parameters(), 1e-2)
    means = []
    for _ in range(15):
        with firing_rates(model) as rates:
            model.backbone(features)
        loss = rate_regulariser(rates, 0.0, 0.02)
        means.append(float(torch.stack(list(rates.values())).mean().detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert means[-1] < 0.6 * means[0]


def test_the_ramp_of_the_regularisers() -> None:
    c = SpikeLossConfig(start_step=10, ramp_steps=4, layer_weights={"neuron2": 2.0, "convnext.0": 3.0})
    assert [c.ramp(n) for n in (0, 9, 10, 11, 13, 50)] == [0, 0, 0.25, 0.5, 1, 1]
    assert c.layer_weight("backbone.convnext.0.neuron2") == 6.0


def test_a_silent_layer_is_reported_once_after_some_patience() -> None:
    words = [*TINY, *LIGHT, "data.train=x", "task.spikes.patience_steps=3"]
    task = task_of("vocos-spiking", words)
    with torch.no_grad():
        task.model.backbone.blocks[1].pwconv1.weight.zero_()
        task.model.backbone.blocks[1].pwconv1.bias.fill_(-5)
    batch = {"audio": torch.randn(1, 2048) * 0.1}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(6):
            task.loss("generator", batch)
    said = [str(w.message) for w in caught if "convnext.1.neuron2" in str(w.message)]
    assert len(said) == 1
    assert "silent" in said[0]


def test_a_broken_layer_stops_training_by_name(teachers: dict[str, str], corpus: list[str], tmp_path: Path) -> None:
    words = [*TINY, *LIGHT, *corpus]
    config = config_of("vocos-spiking", words)
    model = build(to_dict(config.model))
    assert isinstance(model, SpikingVocos)
    with torch.no_grad():
        model.backbone.blocks[1].dwconv.weight[0, 0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"convnext\.1\.dwconv"):
        start(config, new_folder("run", tmp_path / "run"), model=model, report=lambda line: None)


def test_weights_to_start_from_are_not_replaced_by_the_teachers(teachers: dict[str, str]) -> None:
    words = [*SMALL, "model.head.dim=128", f"task.distillation.teacher={teachers['source-filter']}"]
    for more, same in (([], True), (["init=somewhere"], False)):
        config = config_of("spiking-vocos-24k", [*words, *more])
        torch.manual_seed(1)
        model: Any = build(to_dict(config.model))
        task = task_class(config.task.type_name)(model, config)
        assert torch.equal(model.backbone.embed.weight, task._teacher[0].backbone.embed.weight) == same


def test_starting_from_a_teacher_copies_all_but_the_blocks() -> None:
    teacher = dense()
    student = SpikingVocos(SpikingVocosConfig.twin_of(teacher.config, initial_norm=True))
    names = start_from(student, teacher)
    assert {n.split(".")[1] for n in names if n.startswith("backbone")} == {"embed", "norm", "final_layer_norm"}
    assert torch.equal(student.head.out.weight, teacher.head.out.weight)
    assert SpikingReconstructionTask.config_class.type_name == "spiking-reconstruction"
