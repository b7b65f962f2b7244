"""Where figures were measured: processor, memory, versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "scipy", "soundfile", "soxr", "librosa", "pesq", "pystoi", "visqol-python", "ai-edge-litert", "speechmos", "onnxruntime", "pyworld",
            "transformers", "vocos")
"""What the figures may depend on."""


def versions() -> dict[str, str]:
    """Package -> version, of those that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores, memory in GiB, operating system, Python."""
    import torch

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text(encoding="utf-8", errors="replace").splitlines() if line.startswith("model name")]
        name = names[0] if names else name
    memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30) if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names else None
    return {"processor": name, "instructions": torch.backends.cpu.get_cpu_capability(), "cores": os.cpu_count(), "memory_gib": memory,
            "system": platform.system(), "python": platform.python_version()}


def load_average() -> float | None:
    """Processes that ran or waited in the last minute; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
