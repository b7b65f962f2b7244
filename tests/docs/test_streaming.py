"""Laws of docs/streaming.md: its Python runs, and its table of delays is what the sessions say."""

from __future__ import annotations

import re
from pathlib import Path

import torch

import wavespike
from wavespike.models.registry import build

TEXT = (Path(__file__).parents[2] / "docs" / "streaming.md").read_text(encoding="utf-8")


def test_the_python_of_the_page_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    if "vocos-24k" not in wavespike.presets():
        code = code.replace("vocos-24k", "griffin-lim-24k")
    names: dict[str, object] = {}
    exec(code, names)
    audio, vocoder, features = names["audio"], names["vocoder"], names["features"]
    assert audio.shape == vocoder.decode(features).shape  # type: ignore[attr-defined]


def test_the_table_of_delays_is_what_the_sessions_say() -> None:
    encodec = {
        "type": "vocos",
        "features": {"type": "encodec"},
        "backbone": {"type": "convnext", "input_channels": 128, "dim": 8, "intermediate_dim": 8, "adanorm_num_embeddings": 4},
        "head": {"type": "istft", "dim": 8, "n_fft": 1280, "hop_length": 320, "padding": "same"},
    }
    small = {"type": "convnext", "dim": 8, "intermediate_dim": 8}  # the published eight layers, narrow: the delay does not depend on the width
    models = [
        ({"type": "vocos", "backbone": small, "head": {"type": "istft", "dim": 8}}, {}),
        (encodec, {"bandwidth_id": torch.tensor([0])}),
        ({"type": "vocos", "backbone": {**small, "causal": True}, "head": {"type": "istft", "dim": 8}}, {}),
        ({"type": "vocos", "features": {"type": "mel", "padding": "same"}, "backbone": {**small, "causal": True},
          "head": {"type": "istft", "dim": 8, "padding": "same"}}, {}),
        ({"type": "griffin-lim"}, {}),
    ]
    rows = re.findall(r"^\| .* \| (\d+) \| (\d+) \|$", TEXT, re.MULTILINE)
    delays = [build(config).stream(**condition).delay for config, condition in models]
    assert [(str(d), str(round(d / 24))) for d in delays] == rows
