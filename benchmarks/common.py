"""What every benchmark shares: where it ran, and how its section gets into docs/benchmarks.md."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"


def machine() -> str:
    """Processor, cores, memory and versions in one line."""
    import torch

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        name = names[0] if names else name
    flags = torch.backends.cpu.get_cpu_capability()
    memory = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB" if hasattr(os, "sysconf") else ""
    return f"{name} ({flags}), {os.cpu_count()} cores, {memory}; {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"


def peak_memory_mb() -> float:
    """Peak resident memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage also counts the parent's memory at the fork
        return float(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)


def stamp(command: str) -> str:
    """Date, commit and machine, and the command that makes the section."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip() or "no commit"
    load = f", load {os.getloadavg()[0]:.1f} when it ended" if hasattr(os, "getloadavg") else ""
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
