"""Made speech-like data and small recipes for the tests of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
TINY = ("task.multi_period.channels=[4,4]", "task.multi_period.periods=[2,3]", "task.multi_resolution.channels=4", "data.num_workers=0", "data.batch_size=2",
        "data.crop_samples=4096", "model.backbone.dim=16", "model.head.dim=16", "trainer.threads=1", "trainer.accelerator=cpu", "task.metrics=[]",
        "trainer.log_every=1")
TINY_CONVNEXT = ("model.backbone.intermediate_dim=32", "model.backbone.num_layers=1")
TINY_OURS = ("task.metrics=[]", "data.batch_size=2", "model.backbone.dim=16", "model.head.dim=16", "model.head.pitch_dim=16", "model.head.pitch_layers=1",
             "trainer.threads=1", "trainer.accelerator=cpu", "trainer.log_every=1", "data.crop_samples=4096", *TINY_CONVNEXT)


def voice(seconds: float, rate: int, pitch_hz: float, seed: int = 0) -> np.ndarray[Any, Any]:
    """Eleven harmonics of a wavering pitch, and some noise: [T] float32."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(pitch_hz + 20 * np.sin(6 * t)) / rate
    tone = sum(np.sin(k * phase) / k for k in range(1, 12))
    return (0.2 * tone * (0.6 + 0.4 * np.sin(9 * t)) + 0.01 * rng.standard_normal(t.size)).astype(np.float32)


def make_corpus(folder: Path, files: int = 4, seconds: float = 0.5, rates: tuple[int, ...] = (24000, 16000)) -> list[str]:
    """Audio, train.txt and valid.txt in a folder -> the overrides that use them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for i in range(files + 1):
        rate = rates[i % len(rates)]
        names.append(f"voice{i}.wav")
        soundfile.write(folder / names[-1], voice(seconds + 0.05 * i, rate, 120 + 40 * i, i), rate)
    (folder / "train.txt").write_text("".join(f"{n}\tsome text\n" for n in names[:-1]), encoding="utf-8")
    (folder / "valid.txt").write_text(f"{names[-1]}\n", encoding="utf-8")
    return [f"data.train={folder / 'train.txt'}", f"data.valid={folder / 'valid.txt'}"]


def rows(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    """The figures of a run by step, without those that measure time."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k != "steps_per_second"} for line in lines if line["kind"] == kind]
