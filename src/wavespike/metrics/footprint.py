"""Peak memory of a system, in a process of its own: `python -m wavespike.metrics.footprint NAME AUDIO SECONDS [CONDITION]` prints it in MiB.

What is counted: the largest resident set while the system is loaded and makes speech, less what Python with its packages takes before.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from wavespike.errors import AudioError


def peak_memory_mb(name: str, audio: Path, seconds: float, condition: dict[str, list[int]] | None = None, timeout_s: float = 600) -> float:
    """MiB that the system of `name` needs at most for the first `seconds` of the file, on one thread. Raises AudioError when the process fails."""
    words = [sys.executable, "-m", "wavespike.metrics.footprint", name, str(audio), str(seconds), json.dumps(condition or {})]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout_s, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return float(done.stdout.split()[-1])
    except (subprocess.TimeoutExpired, IndexError, ValueError) as error:
        raise AudioError(f"{name}: expected its memory to be measured in a process of its own, which failed ({type(error).__name__}); run it alone") from error


def resident_mb(peak: bool) -> float:
    """Resident memory of this process, now or at most."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage also counts the parent's memory at the fork
        key = "VmHWM" if peak else "VmRSS"
        return float(next(line for line in status.read_text().splitlines() if line.startswith(key)).split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)


def main(words: list[str]) -> None:
    name, path, seconds, condition = words
    import torch

    from wavespike.metrics.systems import open_system
    from wavespike.signal.files import read

    torch.set_num_threads(1)
    samples, rate_hz = read(path)
    audio = samples.mean(0)[: round(float(seconds) * rate_hz)]
    chosen: dict[str, Any] = {k: torch.tensor(v) for k, v in json.loads(condition).items()}
    torch.nn.functional.conv1d(torch.ones(1, 1, 8), torch.ones(1, 1, 3))  # the libraries' own set-up is not the system's
    torch.fft.rfft(torch.ones(1024))
    before = resident_mb(peak=False)
    system = open_system(name, chosen)
    system.make(audio, rate_hz, Path(path))
    print(max(0.0, resident_mb(peak=True) - before))


if __name__ == "__main__":
    main(sys.argv[1:])
