"""What the documents say is what happens: their Python is run, their commands exist, their links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PAGES = [p for p in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def command_lines(page: Path) -> list[str]:
    """Lines of indented blocks, without their comments."""
    lines = re.findall(r"^    (\S.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [line.split("  #")[0].strip() for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's Python has run, with the files that its commands name."""
    import numpy as np
    import soundfile

    from wavespike.assets import SAMPLE
    from wavespike.signal.mel import MelConfig, log_mel

    folder = tmp_path_factory.mktemp("readme")
    for block in python_blocks(ROOT / "README.md"):
        done = subprocess.run([sys.executable, "-c", block], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    audio, _ = soundfile.read(SAMPLE, dtype="float32")
    shutil.copy(folder / "speech.wav", folder / "again.wav")  # what `resynth` writes
    np.save(folder / "mel.npy", log_mel(torch.from_numpy(audio), MelConfig()).numpy())
    return folder


def test_the_readmes_python_runs_and_writes_speech(workplace: Path) -> None:
    import soundfile

    (block,) = python_blocks(ROOT / "README.md")
    statements = [line for line in block.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(statements) <= 10
    audio, rate_hz = soundfile.read(workplace / "speech.wav")
    assert rate_hz == 24000
    assert 4.9 < audio.size / rate_hz < 5.1
    assert 0.01 < audio.std() < 0.5


@pytest.mark.parametrize("line", dict.fromkeys(line for line in command_lines(ROOT / "README.md") if line.startswith("wavespike ")))
def test_the_readmes_commands_run(line: str, workplace: Path) -> None:
    done = subprocess.run([sys.executable, "-m", *line.split()], cwd=workplace, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{line}: {done.stderr}"


def test_make_has_the_targets_that_are_named() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {word for page in PAGES for word in re.findall(r"(?:^    |`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)}
    assert {"demo", "test"} <= named <= targets


def test_the_first_screen_has_both_commands_a_picture_and_python() -> None:
    first = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:30])
    for part in ("make demo", "make test", "docs/images/demo.png", "```python"):
        assert part in first
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_extra_that_is_named_exists_and_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    places = [*PAGES, ROOT / "Makefile", *(ROOT / "src").rglob("*.py")]
    for place in places:
        for group in re.findall(r"wavespike\[([a-z,]+)\]|\"\.\[([a-z,]+)\]\"", place.read_text(encoding="utf-8")):
            for extra in "".join(group).split(","):
                assert extra in extras, f"{place.name} names the extra {extra!r}"
    pins = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    pinned = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    installed = {"test", "demo", "pesq", "pitch", "visqol"}
    requirements = list(project["dependencies"])
    while installed:
        for requirement in extras[installed.pop()]:
            inner = re.match(r"wavespike\[(.*)\]", requirement)
            if inner:
                installed |= set(inner[1].split(","))
            else:
                requirements.append(requirement)
    for requirement in requirements:
        name = re.split(r"[<>=!~\[; ]", requirement)[0]
        assert re.sub(r"[-_.]+", "-", name).lower() in pinned, f"{name} is installed by make and has no pin in constraints.txt"


def test_the_ten_line_model_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CONTRIBUTING's example builds, trains, saves and loads like any registered model."""
    import wavespike
    from wavespike.models import registry

    (block,) = python_blocks(ROOT / "CONTRIBUTING.md")
    (tmp_path / "gated_vocos.py").write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.MODEL_TYPES, "gated-vocos", "gated_vocos:GatedVocos")
    model = registry.build({"type": "gated-vocos", "backbone": {"type": "convnext", "dim": 16, "intermediate_dim": 32, "num_layers": 1}, "head": {"type": "istft", "dim": 16}})
    features = torch.randn(1, 100, 20)
    audio = model.decode(features)
    assert audio.shape == (1, 19 * 256)
    audio.square().mean().backward()
    gate = model.get_parameter("backbone.final_layer_norm.1.weight")
    assert gate.grad is not None
    assert float(gate.grad.abs().sum()) > 0
    wavespike.save(model, tmp_path / "saved")
    torch.testing.assert_close(wavespike.load(tmp_path / "saved").decode(features), model.eval().decode(features), atol=0, rtol=0)
