"""Laws of the page on diffusion: its Python runs, its options are those of the code, its recipes exist."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from wavespike.models.registry import model_class
from wavespike.nn.diffusion import COSINE, SAMPLERS, SCHEDULES
from wavespike.signal.mel import MelConfig, log_mel

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "diffusion.md").read_text(encoding="utf-8")


def row(option: str) -> set[str]:
    """The quoted names of an option's row."""
    (line,) = re.findall(rf"^\| `{option}` \| (.*) \|$", PAGE, re.MULTILINE)
    return set(re.findall(r"`([\w-]+)`", line))


def test_the_tables_name_the_options_of_the_code() -> None:
    assert row("sampler") == set(SAMPLERS)
    assert row("schedule") == {COSINE, *SCHEDULES}
    hints = model_class("specgrad").config_class.__dataclass_fields__
    assert {"prior", "denoiser", "schedule", "sampler", "space", "source", "shallow"} <= set(hints)
    assert row("prior") == {"isotropic", "energy", "spectral"}
    assert row("denoiser") == {"frames", "diffwave", "wavegrad"}


def test_the_recipes_of_the_page_exist() -> None:
    named = re.findall(r"recipes/([\w/-]+\.yaml)", PAGE)
    assert named
    assert all((ROOT / "recipes" / name).is_file() for name in named)


def test_the_pages_python_runs() -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {"mel": log_mel(0.1 * torch.randn(1, 4096), MelConfig())}
    exec(block, names)
    audio = names["audio"]
    assert isinstance(audio, torch.Tensor)
    assert audio.shape == (1, 4096)
    assert bool(torch.isfinite(audio).all())
