"""The pages on codecs are held to the code: their commands parse, their recipes exist, their Python runs, the released names are all there."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser

import wavespike
from wavespike.cli.main import VERBS
from wavespike.hub.importers.audiodec import RELEASED

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "codec.md").read_text(encoding="utf-8")
CASES = ROOT / "tests" / "golden" / "audiodec"
LINES = [part.split("#")[0].split(">")[0].strip() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines() for part in line.split("|")]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("wavespike")])
def test_every_command_line_parses(line):
    _, verb, *words = shlex.split(line)
    assert verb in VERBS
    parser = ArgumentParser(exit_on_error=False)
    importlib.import_module(f"wavespike.cli.{verb}").add_arguments(parser)
    parser.parse_args(words)


def test_every_recipe_of_codecs_is_on_the_page_and_every_released_name():
    for recipe in (ROOT / "recipes" / "codec").glob("*.yaml"):
        short = recipe.stem.replace("vocoder-", "").replace("-vctk-48k", "")
        assert recipe.stem in PAGE or f"-{short}" in PAGE, recipe.stem
    for name, (encoder, _) in RELEASED.items():
        assert name in PAGE
        assert str(Path(encoder).parent) in PAGE


def test_the_python_of_the_page_runs(monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    real = wavespike.load
    monkeypatch.setattr(wavespike, "load", lambda source, decoder=None: real(CASES / "symAD", decoder=None if decoder is None else CASES / "vocoder_v1"), raising=False)
    names = {"audio": torch.randn(1, 1, 3000) * 0.1, "chunk": torch.randn(8, 1, 600) * 0.1}
    exec(code, names)
    assert names["audio"].shape == (8, 1, 600)
