"""Laws of measured energy: counters that turn over, zones that are counted once, idle that is subtracted, and plain words where there is no counter."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from wavespike.errors import UsageError
from wavespike.metrics.measured_energy import Nvml, Rapl, counter_or_reason, measure


def zone(folder: Path, name: str, microjoules: int, span: int = 1000) -> Path:
    folder.mkdir(parents=True)
    for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", span)):
        (folder / file).write_text(f"{value}\n")
    return folder / "energy_uj"


def test_packages_and_memory_are_counted_once(tmp_path: Path) -> None:
    """Cores are inside their package, psys is around everything: neither is added."""
    package = tmp_path / "intel-rapl:0"
    zone(package, "package-0", 100)
    zone(package / "intel-rapl:0:0", "core", 7)
    zone(package / "intel-rapl:0:1", "dram", 20)
    zone(tmp_path / "intel-rapl:1", "package-1", 3)
    zone(tmp_path / "intel-rapl:2", "psys", 10_000)
    zone(tmp_path / "intel-rapl", "", 0)
    counter = Rapl(tmp_path)
    assert counter.joules() == pytest.approx(123e-6)
    assert counter.name == "RAPL package-0, dram, package-1"


def test_a_counter_that_turns_over_goes_on(tmp_path: Path) -> None:
    file = zone(tmp_path / "intel-rapl:0", "package-0", 900, span=1000)
    counter = Rapl(tmp_path)
    start = counter.joules()
    file.write_text("950\n")
    assert counter.joules() - start == pytest.approx(50e-6)
    file.write_text("30\n")
    assert counter.joules() - start == pytest.approx(130e-6)
    file.write_text("40\n")
    assert counter.joules() - start == pytest.approx(140e-6)


def test_no_counter_is_said_in_plain_words(tmp_path: Path) -> None:
    counter, reason = counter_or_reason("cpu", tmp_path / "absent")
    assert counter is None
    assert "found none" in reason
    zone(tmp_path / "intel-rapl:0", "package-0", 5)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("not a number")
    counter, reason = counter_or_reason("cpu", tmp_path)
    assert counter is None
    assert "energy_uj" in reason


class Machine:
    """10 W idle; a run takes half a second and 8 J on top."""

    name = "fake"

    def __init__(self) -> None:
        self.time = self.energy = 0.0
        self.runs = 0

    def joules(self) -> float:
        return self.energy

    def rest(self, seconds: float) -> None:
        self.time += seconds
        self.energy += 10 * seconds

    def run(self) -> None:
        self.runs += 1
        self.rest(0.5)
        self.energy += 8


def test_idle_power_is_subtracted() -> None:
    machine = Machine()
    found = measure(machine.run, 4.0, machine, repeats=3, busy_s=2.0, idle_s=1.0, clock=lambda: machine.time, rest=machine.rest)
    assert found.joules_per_second == pytest.approx((2.0, 2.0, 2.0))
    assert found.deviation == pytest.approx(0)
    assert found.gross_joules_per_second == pytest.approx((8 + 5) / 4)
    assert found.idle_watts == pytest.approx(10)
    assert found.times_real_time == pytest.approx(8)
    assert machine.runs == 1 + 3 * 4
    with pytest.raises(UsageError, match="repeats"):
        measure(machine.run, 4.0, machine, repeats=0)


def test_a_gpu_is_read_in_millijoules() -> None:
    library = SimpleNamespace(nvmlInit=lambda: None, nvmlDeviceGetHandleByIndex=lambda i: i, nvmlDeviceGetTotalEnergyConsumption=lambda d: 2500)
    assert Nvml(0, library).joules() == 2.5

    def refuse() -> None:
        raise RuntimeError("Driver Not Loaded")

    with pytest.raises(UsageError, match="Driver Not Loaded"):
        Nvml(0, SimpleNamespace(nvmlInit=refuse))
