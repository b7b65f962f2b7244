"""What every benchmark shares: where it ran, and how its section gets into docs/benchmarks.md."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

from wavespike.metrics.machine import load_average
from wavespike.metrics.machine import machine as facts

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"


def machine() -> str:
    """Processor, cores, memory and versions in one line."""
    import torch

    m = facts()
    memory = "" if m["memory_gib"] is None else f"{m['memory_gib']} GiB"
    return f"{m['processor']} ({m['instructions']}), {m['cores']} cores, {memory}; {m['system']}, Python {m['python']}, torch {torch.__version__}"


def stamp(command: str) -> str:
    """Date, commit and machine, and the command that makes the section."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip() or "no commit"
    load = "" if load_average() is None else f", load {load_average():.1f} when it ended"
    return f"`{command}`, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, commit {commit}. {machine()}{load}."


def write_section(name: str, text: str, page: Path = PAGE, command: str = "make bench") -> None:
    """Replace the section between the markers of `name` in the page, or append it."""
    begin, end = f"<!-- {name}: made by {command}, do not edit -->", f"<!-- end of {name} -->"
    old = page.read_text(encoding="utf-8") if page.exists() else "# Benchmarks\n"
    old = old.replace(" No run has been recorded yet.", "")
    section = f"{begin}\n{text.strip()}\n{end}\n"
    if begin in old and end in old:
        head, rest = old.split(begin, 1)
        after = rest.split(end, 1)[1].lstrip("\n")
        new = head + section + ("\n" + after if after else "")
    else:
        new = old.rstrip("\n") + "\n\n" + section
    page.parent.mkdir(exist_ok=True)
    temporary = page.with_name(f".{page.name}.part")
    temporary.write_text(new, encoding="utf-8")
    temporary.replace(page)
