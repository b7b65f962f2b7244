"""Laws of docs/spiking.md: its Python runs in order, its command lines parse, its options and recipes exist."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser

from wavespike.cli.main import VERBS
from wavespike.nn.spiking import SpikingConvNeXtConfig

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "spiking.md").read_text(encoding="utf-8")


def test_the_python_of_the_page_runs_in_order() -> None:
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(code, "docs/spiking.md", "exec"), names)
    assert bool(torch.isfinite(names["audio"]).all())
    assert 0 < names["report"].published.ratio < 1


@pytest.mark.parametrize("line", [line.split("#")[0] for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines() if line.startswith("wavespike ")])
def test_every_command_line_parses(line: str) -> None:
    _, verb, *words = shlex.split(line)
    assert verb in VERBS
    parser = ArgumentParser(exit_on_error=False)
    importlib.import_module(f"wavespike.cli.{verb}").add_arguments(parser)
    parser.parse_args(words)


def test_every_option_and_recipe_of_the_page_exists() -> None:
    fields = {f.name for f in dataclasses.fields(SpikingConvNeXtConfig)}
    table = TEXT.split("| option of the backbone")[1].split("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named <= fields
    assert fields - named == {"input_channels", "dim", "intermediate_dim", "num_layers", "layer_scale_init_value"}
    for name in ("vocos-spiking", "vocos-spiking-tsm", "vocos-spiking-distill", "vocos-spiking-tsm-distill", "spiking-vocos-24k"):
        assert (ROOT / "recipes" / f"{name}.yaml").is_file()
