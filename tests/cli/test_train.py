"""The verbs train and resume as processes: killed and continued, two at a time, and wrong calls in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="training needs the package lightning")
pytest.importorskip("tensorboard", reason="training logs need the package tensorboard")

from safetensors.torch import load_file

from training_helpers import RECIPES, TINY, TINY_CONVNEXT, make_corpus, rows
from wavespike.cli.main import main

COMMAND = [sys.executable, "-W", "ignore", "-m", "wavespike"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
ENVIRONMENT.pop("WAVESPIKE_RUN", None)
VOCOS = str(RECIPES / "vocos.yaml")
SMALL = [*TINY, *TINY_CONVNEXT]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def wavespike(*words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=ENVIRONMENT, timeout=timeout, check=False)


def kill_at(words: Sequence[str], run: Path, step: int) -> None:
    """Start, and SIGKILL when the log has reached a step."""
    process = subprocess.Popen([*COMMAND, *words], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 200
        while not ((run / "log.jsonl").exists() and f'"step": {step},' in (run / "log.jsonl").read_text(encoding="utf-8")):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < end, "the run did not get there"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_killed_run_goes_on_as_if_it_had_not_been(corpus: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", VOCOS, *SMALL, *corpus, "trainer.steps=24", "trainer.validate_every=9", "trainer.checkpoint_every=4", "trainer.ema_decay=0.99"]
    assert main([*words, "--run", str(tmp_path / "whole"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": str(tmp_path / "whole"), "models": [str(tmp_path / "whole" / name) for name in ("best", "last")]}
    run = tmp_path / "killed"
    kill_at([*words, "--run", str(run)], run, 11)
    assert not (run / "last").exists()
    assert main(["resume", str(run)]) == 0
    (resumed,) = json.loads((run / "run.json").read_text())["resumed"]
    assert resumed["step"] in (9, 12, 16, 18, 20)  # the last checkpoint before the kill, whenever it came
    assert rows(run) == rows(tmp_path / "whole")  # every loss of every step, to the last bit
    assert rows(run, "valid") == rows(tmp_path / "whole", "valid")
    assert (run / "last" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "last" / "model.safetensors").read_bytes()


def test_two_processes_take_the_steps_of_one_with_twice_the_batch(corpus: list[str], tmp_path: Path) -> None:
    words = ["train", VOCOS, *SMALL, *corpus, "trainer.steps=3", "trainer.validate_every=2"]
    assert main([*words, "data.batch_size=4", "--run", str(tmp_path / "one")]) == 0
    two = wavespike(*words, "data.batch_size=2", "trainer.devices=2", "--run", str(tmp_path / "two"))
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("done;") == 1
    a, b = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("one", "two"))
    for name in a:
        assert float((a[name] - b[name]).abs().max()) < 2e-4, name  # three steps of Adam at 5e-4 move a weight by up to 1.5e-3
    for row, other in zip(rows(tmp_path / "one", "valid"), rows(tmp_path / "two", "valid"), strict=True):
        assert row["mel"] == pytest.approx(other["mel"], rel=1e-4)


@pytest.mark.parametrize(("words", "code", "says"), [
    (["train", "nowhere.yaml"], 2, "no such file"),
    (["train", VOCOS], 2, "data.train"),
    (["train", VOCOS, "data.train=nowhere.txt"], 1, "found nothing there"),
    (["train", VOCOS, "data.trian=x.txt"], 2, "did you mean 'train'"),
    (["train", VOCOS, "trainer.steps"], 2, "data.batch_size=4"),
    (["train", VOCOS, "model.backbone.type=resnet", "data.train=nowhere.txt", "model.backbone.num_layers=2"], 2, "num_blocks"),
    (["resume", "nowhere"], 2, "config.yaml"),
    (["resumee", "nowhere"], 2, "did you mean 'resume'"),
], ids=["recipe", "no-data", "missing-data", "key", "override", "model", "run", "verb"])
def test_wrong_calls_get_one_line_and_leave_no_run(words: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("wavespike: ")
    assert err.count("\n") == 1
    assert says in err
    assert not list(tmp_path.iterdir())


def test_a_model_that_does_not_learn_is_refused(corpus: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "gl.yaml"
    recipe.write_text("model: {type: griffin-lim}\ntask: {type: reconstruction, metrics: []}\ntrainer: {steps: 1, accelerator: cpu}\n", encoding="utf-8")
    assert main(["train", str(recipe), *corpus, "data.crop_samples=4096", "--run", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert "model that learns" in err


def test_a_folder_that_cannot_be_written_is_named(corpus: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert main(["train", VOCOS, *SMALL, *corpus, "--run", str(tmp_path / "file" / "run")]) == 1
    assert "choose another --run" in capsys.readouterr().err
