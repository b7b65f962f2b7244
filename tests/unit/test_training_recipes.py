"""Laws of recipes: a recipe is the difference from its base, strictly, and comes back from its plain data."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="training needs the package lightning")

from training_helpers import RECIPES
from wavespike.errors import ConfigError, UsageError
from wavespike.training.config import OptimizerConfig, plain, train_config
from wavespike.training.recipe import apply_overrides, load_recipe, merge, read_recipe

ALL = sorted(RECIPES.glob("*.yaml"))
OURS = [p for p in ALL if p.stem in ("vocos", "vocos-imdct", "vocos-resnet", "vocos-encodec", "vocos-24k", "vocos-24k-prior")]


@pytest.mark.parametrize("path", OURS, ids=lambda p: p.stem)
def test_every_recipe_is_complete_and_comes_back_from_its_plain_data(path: Path) -> None:
    config = train_config(load_recipe(path))
    assert config.name == path.stem
    assert train_config(plain(config)) == config


def test_published_recipes_carry_the_published_values() -> None:
    config = train_config(load_recipe(RECIPES / "vocos.yaml"))
    assert (config.optimizer.learning_rate, config.optimizer.betas, config.optimizer.weight_decay) == (5e-4, (0.8, 0.9), 0.01)
    assert (config.data.batch_size, config.data.crop_samples, config.trainer.steps, config.trainer.seed) == (16, 16384, 1_000_000, 4444)  # type: ignore[attr-defined]
    assert (config.task.mel_weight, config.task.resolution_weight) == (45.0, 0.1)  # type: ignore[attr-defined]
    tokens = train_config(load_recipe(RECIPES / "vocos-encodec.yaml"))
    assert (tokens.task.resolution_weight, tokens.data.crop_samples) == (1.0, 24000)  # type: ignore[attr-defined]
    assert tokens.model.backbone.adanorm_num_embeddings == 4  # type: ignore[attr-defined]
    assert tokens.model.backbone.num_layers == 8  # type: ignore[attr-defined]


def test_a_change_of_type_replaces_and_anything_else_merges() -> None:
    base = {"head": {"type": "a", "x": 1, "y": 2}, "n": 1}
    assert merge(base, {"head": {"y": 3}}) == {"head": {"type": "a", "x": 1, "y": 3}, "n": 1}
    assert merge(base, {"head": {"type": "b", "z": 4}}) == {"head": {"type": "b", "z": 4}, "n": 1}
    assert base == {"head": {"type": "a", "x": 1, "y": 2}, "n": 1}


def test_overrides_may_come_in_any_order() -> None:
    base = {"head": {"type": "a", "x": 1}}
    for words in (["head.z=[1, 2]", "head.type=b"], ["head.type=b", "head.z=[1, 2]"]):
        assert apply_overrides(base, words) == {"head": {"type": "b", "z": [1, 2]}}


@pytest.mark.parametrize(("word", "says"), [
    ("task.mel_wight=1", "mel_weight"), ("data.batchsize=4", "batch_size"), ("trainer.step=4", "steps"), ("modl.dim=4", "model"),
    ("task.type=adverserial", "adversarial"), ("model.head.type=istf", "istft"), ("optimizer.name=sgd", "adamw"), ("trainer.steps=0", "1 or more"),
    ("data.batch_size=many", "int"), ("data.peak_db=[0, -6]", "lower first"), ("optimizer.learning_rate=-1", "above 0"),
    ("task.multi_resolution.bands=[0.5, 0.1]", "rising"), ("model.type=vocoss", "vocos"),
])
def test_unknown_and_wrong_values_are_refused_with_the_right_ones(word: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        train_config(load_recipe(RECIPES / "vocos.yaml", [word]))
    assert says in str(error.value)


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_recipe(tmp_path / "vocos.yaml")
    (tmp_path / "a.yaml").write_text("base: b.yaml\n", encoding="utf-8")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="circle"):
        read_recipe(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("[1, 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected YAML"):
        read_recipe(tmp_path / "c.yaml")
    (tmp_path / "d.yaml").write_text("- 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="mapping"):
        read_recipe(tmp_path / "d.yaml")
    with pytest.raises(UsageError, match=r"data\.batch_size=4"):
        load_recipe(RECIPES / "vocos.yaml", ["data.batch_size"])


def test_a_recipe_cannot_name_code_to_import(tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text("model: !!python/object/apply:os.system ['true']\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected YAML"):
        read_recipe(tmp_path / "evil.yaml")


def test_learning_rates_follow_their_equations() -> None:
    cosine = OptimizerConfig(learning_rate=1.0, warmup_steps=10, final_ratio=0.02)
    assert cosine.rate_at(0, 100) == pytest.approx(0.1)
    assert cosine.rate_at(50, 100) == pytest.approx(0.5)
    assert cosine.rate_at(100, 100) == pytest.approx(0.02)
    step = OptimizerConfig(learning_rate=1.0, schedule="step", decay=0.5, decay_steps=10)
    assert [step.rate_at(n, 100) for n in (0, 9, 10, 25)] == [1.0, 1.0, 0.5, 0.25]
    assert OptimizerConfig(learning_rate=1.0, schedule="exponential", decay=0.25, decay_steps=10).rate_at(5, 100) == pytest.approx(0.5)
    assert OptimizerConfig(learning_rate=2.0, schedule="constant").rate_at(99, 100) == 2.0
