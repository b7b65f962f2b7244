"""Laws of configurations: plain data and back is the identity, and what does not belong is refused with the nearest right name."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavespike.config import Config, from_dict, to_dict
from wavespike.errors import ConfigError
from wavespike.models.vocos import VocosConfig
from wavespike.signal.mel import MelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Small(Config):
    type_name: ClassVar[str] = "small"
    width: int = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Large(Config):
    type_name: ClassVar[str] = "large"
    depth: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole(Config):
    type_name: ClassVar[str] = "whole"
    part: Small | Large = Small()
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, str] = (1, "a")
    table: dict[str, float] = dataclasses.field(default_factory=dict)
    mode: Literal["fast", "exact"] = "fast"
    limit: float | None = None
    on: bool = False
    name: str = ""


wholes = st.builds(
    Whole, part=st.one_of(st.builds(Small, width=st.integers()), st.builds(Large, depth=st.floats(allow_nan=False))),
    sizes=st.lists(st.integers()).map(tuple), pair=st.tuples(st.integers(), st.text()), table=st.dictionaries(st.text(), st.floats(allow_nan=False)),
    mode=st.sampled_from(["fast", "exact"]), limit=st.none() | st.floats(allow_nan=False), on=st.booleans(), name=st.text())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(wholes)
def test_plain_data_and_back_is_the_identity(config: Whole) -> None:
    assert from_dict(Whole, json.loads(json.dumps(to_dict(config)))) == config


def test_the_configuration_of_a_model_survives_json() -> None:
    config = VocosConfig()
    assert from_dict(VocosConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(("data", "message"), [
    ({"sizs": [1]}, r"config\.sizs: unknown key; did you mean 'sizes'\?"),
    ({"part": {"type": "small", "widht": 2}}, r"config\.part\.widht: unknown key; did you mean 'width'\?"),
    ({"part": {"type": "smal"}}, r"config\.part\.type: expected one of .*did you mean 'small'\?"),
    ({"part": {"type": "large"}}, r"config\.part\.depth: this key is required"),
    ({"mode": "slow"}, r"config\.mode: expected one of 'fast', 'exact', got 'slow'"),
    ({"sizes": 3}, r"config\.sizes: expected a list, got 3"),
    ({"sizes": [1, "x"]}, r"config\.sizes\[1\]: expected int, got 'x'"),
    ({"pair": [1]}, r"config\.pair: expected 2 values, got 1"),
    ({"on": 1}, r"config\.on: expected bool, got 1"),
    ({"name": 4}, r"config\.name: expected str, got 4"),
    ({"limit": "far"}, r"config\.limit: expected float or NoneType, got 'far'"),
    ({"table": [1]}, r"config\.table: expected a mapping"),
    ({"type": "hole"}, r"config\.type: expected 'whole', got 'hole'"),
    ([1], r"config: expected a mapping for Whole, got list"),
])
def test_wrong_data_is_refused_with_its_path(data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Whole, data)


def test_true_is_no_number() -> None:
    with pytest.raises(ConfigError, match="expected int, got True"):
        from_dict(Small, {"width": True})


def test_numbers_as_yaml_1_1_reads_them_are_numbers() -> None:
    assert from_dict(Whole, {"limit": "1e-3"}).limit == 1e-3
    assert from_dict(Large, {"depth": 2}).depth == 2.0


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MelConfig().n_mels = 80  # type: ignore[misc]


def test_no_configuration_names_code_to_import() -> None:
    for key in ("class_path", "_target_", "init_args"):
        with pytest.raises(ConfigError, match="unknown key"):
            from_dict(MelConfig, {key: "os.system"})
