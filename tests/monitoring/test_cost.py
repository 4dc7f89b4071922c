"""What a run costs: each figure against one worked out by hand, and absent where the machine does not tell."""

import ctypes
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recsys.monitoring.cost import Cost, CostMeter, _PackageEnergy, nvml_meter

CPU = torch.device("cpu")
ONE = Cost(10.0, 20.0, 500, None, 30.0, "RAPL")


def packages(root: Path, *microjoules: int) -> Path:
    for number, value in enumerate(microjoules):
        for name in (f"intel-rapl:{number}", f"intel-rapl:{number}:0"):
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / "energy_uj").write_text(f"{value}\n")
            (root / name / "max_energy_range_uj").write_text("100000000\n")
    return root


def busy(path: Path, seconds: int) -> Path:
    path.write_text(f"cpu  {seconds * 100} 0 0 999999 5 0 0 0 0 0\ncpu0 1 1 1 1\n")
    return path


def test_processor_time_counts_work_and_not_waiting():
    meter = CostMeter(CPU)
    time.sleep(0.2)
    waited = meter.read()
    while time.process_time() - meter._cpu < waited.cpu_seconds + 0.2:
        pass
    worked = meter.read()
    assert waited.wall_seconds >= 0.2
    assert waited.cpu_seconds < 0.1
    assert worked.cpu_seconds - waited.cpu_seconds == pytest.approx(0.2, abs=0.1)


def test_the_memory_peak_is_that_since_the_meter_was_made():
    before = bytearray(200_000_000)
    del before
    meter = CostMeter(CPU)
    start = meter.read().peak_memory_bytes
    during = bytearray(100_000_000)
    del during
    assert meter.read().peak_memory_bytes - start == pytest.approx(100_000_000, rel=0.1)


def test_parts_of_a_broken_run_add_up_and_of_peaks_the_higher_one_stands():
    later = CostMeter(CPU, earlier=Cost(1000.0, 2000.0, 10**15, None, 5.0, "RAPL")).read()
    assert later.wall_seconds >= 1000
    assert later.cpu_seconds >= 2000
    assert later.peak_memory_bytes == 10**15
    assert ONE + replace(ONE, peak_gpu_memory_bytes=7) == Cost(20.0, 40.0, 500, 7, 60.0, "RAPL")


@pytest.mark.parametrize("unknown_first", [True, False])
def test_energy_that_is_known_for_one_part_alone_is_given_for_none(unknown_first: bool):
    unknown = replace(ONE, energy_joules=None, energy_source="absent: why")
    both = unknown + ONE if unknown_first else ONE + unknown
    assert both.energy_joules is None
    assert both.energy_source == "absent: why"
    assert "energy_joules" not in both.figures()


def test_a_process_is_given_its_share_of_what_the_packages_drew(tmp_path: Path):
    machine = busy(tmp_path / "stat", 50)
    meter = _PackageEnergy(packages(tmp_path, 10_000_000, 20_000_000), machine)
    packages(tmp_path, 40_000_000, 50_000_000)
    busy(machine, 150)
    # 30 J each, and a quarter of the 100 busy seconds; the parts of the packages count once, with them.
    assert meter.joules(cpu_seconds=25.0) == (pytest.approx(15.0), "")


def test_a_counter_that_started_anew_is_no_energy_gained(tmp_path: Path):
    machine = busy(tmp_path / "stat", 0)
    meter = _PackageEnergy(packages(tmp_path, 95_000_000), machine)
    packages(tmp_path, 5_000_000)
    busy(machine, 1)
    assert meter.joules(cpu_seconds=1.0) == (pytest.approx(10.0), "")


def test_a_machine_without_counters_says_so(tmp_path: Path):
    cost = CostMeter(CPU, powercap=tmp_path / "none").read()
    assert cost.energy_joules is None
    assert cost.energy_source == "absent: this machine shows no RAPL counters"


def test_counters_that_may_not_be_read_are_named_with_the_reason(tmp_path: Path):
    (packages(tmp_path, 1) / "intel-rapl:0" / "energy_uj").unlink()
    cost = CostMeter(CPU, powercap=tmp_path).read()
    assert cost.energy_source == "absent: RAPL counters cannot be read (No such file or directory)"


class FakeNvml:
    """Two GPUs whose counters stand at 1 and 2 joules and gain 4 with every reading."""

    def __init__(self, answer: int = 0) -> None:
        self._answer, self._millijoules = answer, {"GPU-a": 1000, "GPU-b": 2000}
        self._handles: dict[int, str] = {}

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle) -> int:  # noqa: N802
        number = len(self._handles) + 1
        handle._obj.value, self._handles[number] = number, uuid.decode()
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, value) -> int:  # noqa: N802
        name = self._handles[handle.value or 0]
        value._obj.value = self._millijoules[name]
        self._millijoules[name] += 4000
        return self._answer


def test_the_energy_of_the_gpus_that_are_seen_is_added_up():
    meter = nvml_meter(FakeNvml(), ["GPU-a", "GPU-b"])
    assert meter is not None
    assert meter.joules() == pytest.approx(8.0)


def test_a_gpu_without_a_counter_has_no_energy():
    meter = nvml_meter(FakeNvml(answer=3), ["GPU-a"])
    assert meter is not None
    assert meter.joules() is None
