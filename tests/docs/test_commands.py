"""Laws of the documentation: every command line in it parses, every verb and metric that exists is in it, and its Python runs."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from wavespike.cli.main import VERBS
from wavespike.metrics.panel import METRICS

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = (DOCS / "commands.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", COMMANDS, re.DOTALL) for line in block.splitlines() if line.startswith("wavespike ")]


@pytest.mark.parametrize("line", LINES)
def test_every_command_line_of_the_documentation_parses(line: str) -> None:
    _, verb, *words = shlex.split(line)
    assert verb in VERBS
    parser = ArgumentParser(exit_on_error=False)
    importlib.import_module(f"wavespike.cli.{verb}").add_arguments(parser)
    parser.parse_args(words)


@pytest.mark.parametrize("verb", ["models", "show", "resynth", "vocode", "eval", "compare", "doctor"])
def test_every_verb_of_the_page_exists_and_is_explained(verb: str) -> None:
    assert verb in VERBS
    assert re.search(rf"^\| `{verb}[ `]", COMMANDS, re.MULTILINE)


def test_the_table_of_metrics_is_the_one_in_the_code() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", (DOCS / "metrics.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert list(table) == list(METRICS)
    for name, metric in METRICS.items():
        for fact in (metric.label, metric.better, f"{metric.rate_hz / 1000:g} kHz", metric.source, metric.extra or "core"):
            assert fact in table[name], f"{name}: {fact}"


def test_the_python_of_the_metrics_page_runs() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    _, code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    t = np.arange(48000) / 24000
    tone = (0.1 * np.cos(2 * np.pi * 200 * t)).astype(np.float32)
    names: dict[str, object] = {"reference": tone, "estimate": tone}
    exec(code, names)
    assert names["report"].means()["mel_l1"] == 0.0  # type: ignore[attr-defined]


def test_the_metric_of_ones_own_of_the_metrics_page_joins_the_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    from wavespike.metrics import panel

    monkeypatch.setattr(panel, "METRICS", dict(panel.METRICS))
    monkeypatch.setattr(panel, "_REGISTERED", {})
    code, _ = re.findall(r"```python\n(.*?)```", (DOCS / "metrics.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    names["join"]()  # type: ignore[operator]
    noise = np.random.default_rng(0).normal(size=48000).astype(np.float32) * 0.1
    row = panel.Panel(["level_db"]).score(panel.Pair("a", noise, noise / 2, 24000))
    assert row.scores["level_db"] == pytest.approx(20 * np.log10(2), abs=1e-3)
