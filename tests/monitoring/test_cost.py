"""What a run costs: each figure against one worked out by hand, and absent where the machine does not tell."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pynvml
import pytest
import torch

from recsys.monitoring.cost import Cost, CostMeter, EnergyMeter

CPU = torch.device("cpu")
ONE = Cost(10.0, 20.0, 500, None, 30.0, "NVML")


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
    later = CostMeter(CPU, earlier=Cost(1000.0, 2000.0, 10**15, None, 5.0, "NVML")).read()
    assert later.wall_seconds >= 1000
    assert later.cpu_seconds >= 2000
    assert later.peak_memory_bytes == 10**15
    assert ONE + replace(ONE, peak_gpu_memory_bytes=7) == Cost(20.0, 40.0, 500, 7, 60.0, "NVML")


@pytest.mark.parametrize("unknown_first", [True, False])
def test_energy_that_is_known_for_one_part_alone_is_given_for_none(unknown_first: bool):
    unknown = replace(ONE, energy_joules=None, energy_source="absent: why")
    both = unknown + ONE if unknown_first else ONE + unknown
    assert both.energy_joules is None
    assert both.energy_source == "absent: why"
    assert "energy_joules" not in both.figures()


def test_a_run_on_the_cpu_says_why_its_energy_is_absent():
    cost = CostMeter(CPU).read()
    assert cost.energy_joules is None
    assert cost.energy_source == "absent: energy is read of NVIDIA GPUs alone"


@pytest.fixture
def two_gpus(monkeypatch):
    """Two GPUs whose counters stand at 1 and 2 joules and gain 4 with every reading."""
    millijoules = {"GPU-a": 1000, "GPU-b": 2000}

    def consumption(uuid: str) -> int:
        millijoules[uuid] += 4000
        return millijoules[uuid]

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="ab"[index]))
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", consumption)


def test_the_energy_of_the_gpus_that_are_seen_is_added_up(two_gpus):
    assert EnergyMeter(torch.device("cuda")).read() == (pytest.approx(8.0), "NVML")


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetTotalEnergyConsumption"])
def test_a_gpu_without_library_or_counter_says_so(two_gpus, monkeypatch, function: str):
    def refuse(*arguments: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, function, refuse)
    assert EnergyMeter(torch.device("cuda")).read() == (None, "absent: NVML says Not Supported")
