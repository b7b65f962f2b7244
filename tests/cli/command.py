"""Runs wavespike as a user does (`wavespike`, a process) or in this process where many cases would each pay for loading torch (`inside`)."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np


def wavespike(*words: Any, timeout: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
    """The finished process of `wavespike WORDS`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.run([sys.executable, "-m", "wavespike", *map(str, words)], capture_output=True, text=True, timeout=timeout, env=environment, check=False, **options)


def inside(*words: Any) -> subprocess.CompletedProcess[str]:
    """The same command in this process: exit code and output of `wavespike.cli.main`. An exception that it lets through fails the test."""
    from wavespike.cli.main import main

    arguments = [str(w) for w in words]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(arguments)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def succeeded(*words: Any, **options: Any) -> str:
    """The standard output of a command that must succeed and say nothing on stderr."""
    result = wavespike(*words, **options)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return result.stdout


def refused(result: subprocess.CompletedProcess[str], code: int, says: str) -> None:
    """The law of errors: the exit code, one line on stderr that says so, nothing on stdout, no traceback."""
    lines = result.stderr.strip().splitlines()
    assert result.returncode == code, result.stderr
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("wavespike: ")
    assert re.search(says, lines[0]), lines[0]
    assert "unexpected" not in lines[0]
    assert result.stdout == ""


def files_in(folder: Path) -> list[str]:
    """All files below a folder, hidden ones too."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def voice(seconds: float = 0.5, rate: int = 24000, channels: int = 1, level: float = 0.1) -> np.ndarray:
    """Harmonics of 150 Hz, a little louder in each channel, [C, T]."""
    t = np.arange(round(seconds * rate)) / rate
    tone = sum(np.cos(2 * np.pi * 150 * k * t) / k for k in range(1, min(20, int(rate / 2 / 150)) + 1))
    return np.stack([level * (1 + c / channels) * tone for c in range(channels)]).astype(np.float32)
