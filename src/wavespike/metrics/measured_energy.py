"""Energy measured by the machine's own counters: RAPL of the processor (Linux powercap), NVML of a GPU.

Equation: E = (E_end - E_start) - P_idle (t_end - t_start), P_idle the power in a rest just before, repeated; joules a second of audio with their spread.
A counter sees everything that its chip does: measure on a quiet machine. Where there is no counter, `counter_or_reason` says why in plain words.
"""

from __future__ import annotations

import dataclasses
import importlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from wavespike.errors import UsageError

POWERCAP = Path("/sys/class/powercap")


class Counter(Protocol):
    """A counter of energy: `name`, and joules since any fixed moment."""

    name: str

    def joules(self) -> float: ...


@dataclasses.dataclass
class Zone:
    """One powercap zone: a file of microjoules that starts again at zero after `range_uj`."""

    file: Path
    name: str
    range_uj: int
    last_uj: int = 0
    turns: int = 0

    def microjoules(self) -> int:
        """Since the first reading's own zero, turns of the counter included (read more often than it turns: once in minutes)."""
        now = int(self.file.read_text())
        if now < self.last_uj:
            self.turns += 1
        self.last_uj = now
        return now + self.turns * self.range_uj


class Rapl:
    """The packages and their memory as RAPL counts them (package zones, and the `dram` zones beside them)."""

    def __init__(self, root: Path = POWERCAP):
        found: list[Zone] = []
        reasons: list[str] = []
        packages = [p for p in sorted(root.glob("*-rapl:*")) if p.name.count(":") == 1] if root.is_dir() else []
        for zone in (z for p in packages for z in [p, *sorted(p.glob("*-rapl:*:*"))]):
            try:
                name = (zone / "name").read_text().strip()
                if not name.startswith("package") and name != "dram":
                    continue  # core and uncore are inside the package, psys is around it
                span = int((zone / "max_energy_range_uj").read_text())
                found.append(Zone(zone / "energy_uj", name, span))
                found[-1].microjoules()
            except (OSError, ValueError) as error:
                reasons.append(f"{zone / 'energy_uj'}: {getattr(error, 'strerror', None) or error}")
                if found and found[-1].file == zone / "energy_uj":
                    found.pop()
        if not any(z.name.startswith("package") for z in found):
            if reasons:
                raise UsageError(f"expected readable energy counters, got {reasons[0]}; since 2020 only root may read them: sudo chmod o+r {root}/*/energy_uj")
            raise UsageError(f"expected energy counters of the processor below {root}, found none: the processor has none, or the kernel or this virtual machine hides them")
        self.zones = found
        self.name = "RAPL " + ", ".join(z.name for z in found)

    def joules(self) -> float:
        return sum(z.microjoules() for z in self.zones) * 1e-6


class Nvml:
    """Total energy of a GPU since its driver was loaded (NVML, through the package nvidia-ml-py)."""

    def __init__(self, index: int = 0, library: Any = None):
        try:
            self._nvml = library or importlib.import_module("pynvml")
        except ImportError as error:
            raise UsageError("expected the package nvidia-ml-py to read a GPU's counter, which is not installed; run: pip install nvidia-ml-py") from error
        try:
            self._nvml.nvmlInit()
            self._device = self._nvml.nvmlDeviceGetHandleByIndex(index)
            self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device)
        except Exception as error:  # NVML has its own unrelated type
            raise UsageError(f"expected a GPU {index} with an energy counter, got {error}; counters exist from Volta on") from error
        self.name = f"NVML GPU {index}"

    def joules(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device)) * 1e-3


def counter_or_reason(device: str = "cpu", root: Path = POWERCAP) -> tuple[Counter | None, str]:
    """The counter of the device that computes, or None and why there is none."""
    try:
        counter: Counter = Nvml() if device.startswith("cuda") else Rapl(root)
    except UsageError as error:
        return None, str(error)
    return counter, counter.name


@dataclasses.dataclass(frozen=True)
class Measured:
    """Joules a second of audio above idle: each repeat's. `idle_watts` was subtracted, `gross_joules_per_second` has it in."""

    counter: str
    joules_per_second: tuple[float, ...]
    gross_joules_per_second: float
    idle_watts: float
    times_real_time: float

    @property
    def mean(self) -> float:
        return statistics.fmean(self.joules_per_second)

    @property
    def deviation(self) -> float:
        """Standard deviation over the repeats."""
        return statistics.stdev(self.joules_per_second) if len(self.joules_per_second) > 1 else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "mean": self.mean, "deviation": self.deviation}


def measure(run: Callable[[], object], audio_s: float, counter: Counter, *, repeats: int = 5, busy_s: float = 2.0, idle_s: float = 1.0,
            clock: Callable[[], float] = time.perf_counter, rest: Callable[[float], None] = time.sleep) -> Measured:
    """`run` handles `audio_s` seconds of audio. Each repeat rests `idle_s`, then runs again and again for at least `busy_s`."""
    if repeats < 1 or audio_s <= 0:
        raise UsageError(f"expected repeats >= 1 and audio longer than nothing, got {repeats} and {audio_s:g} s")
    run()  # warm
    net, gross, idle, speed = [], [], [], []
    for _ in range(repeats):
        start, energy = clock(), counter.joules()
        rest(idle_s)
        watts = (counter.joules() - energy) / (clock() - start)
        calls, start, energy = 0, clock(), counter.joules()
        while calls == 0 or clock() - start < busy_s:
            run()
            calls += 1
        seconds, joules = clock() - start, counter.joules() - energy
        heard_s = calls * audio_s
        idle.append(watts)
        gross.append(joules / heard_s)
        net.append((joules - watts * seconds) / heard_s)
        speed.append(heard_s / seconds)
    return Measured(counter.name, tuple(net), statistics.fmean(gross), statistics.fmean(idle), statistics.median(speed))
