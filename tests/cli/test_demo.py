"""`wavespike demo` on the bundled speech: it writes what it names and scores what came out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("pystoi")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def demo(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "wavespike", "demo", *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)


def test_it_writes_speech_and_a_picture_and_scores_them(tmp_path: Path) -> None:
    import soundfile

    done = demo("--model", "griffin-lim-24k", "--out", str(tmp_path / "new" / "folder"), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    audio, rate_hz = soundfile.read(report["files"]["result"])
    assert rate_hz == 24000
    assert abs(audio.size / rate_hz - 5.03) < 0.02
    assert Path(report["files"]["picture"]).read_bytes().startswith(b"\x89PNG")
    assert report["quality"]["stoi"] > 0.95
    assert report["original_itself"]["stoi"] > 0.999
    assert report["times_real_time"] > 1
    for name, reason in report["not_scored"].items():
        assert name not in report["quality"]
        assert reason
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["demo.png", "original.wav", "result.wav"]


@pytest.mark.parametrize(("words", "code", "says"), [
    (("--model", "griffin-lim-24"), 2, "did you mean 'griffin-lim-24k'?"),
    (("--model", "griffin-lim-24k", "--input", "missing.wav"), 1, "missing.wav: expected"),
    (("--model", "griffin-lim-24k", "--out", "/dev/null/x"), 1, "expected a folder that can be written"),
])
def test_it_fails_in_one_line(words: tuple[str, ...], code: int, says: str, tmp_path: Path) -> None:
    done = demo("--out", str(tmp_path), *words)
    assert done.returncode == code
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
