"""What a piece of work costs: time, processor time, memory and, on NVIDIA GPUs, energy."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pynvml
import torch

from recsys.sharding.processes import gathered, local_rank

_PROCESS = Path("/proc/self")
_BYTES_PER_KIBIBYTE = 1024


@dataclass(frozen=True)
class Cost:
    """What was spent.

    Attributes:
        cpu_seconds: of all threads of the run's processes; next to others on one machine it is the figure to trust, as
            they slow the wall's clock and not this one.
        peak_memory_bytes: most that was resident at one time, libraries included; of several processes the sum.
        peak_gpu_memory_bytes: most that tensors took on a GPU; None without one.
        energy_joules: None where nothing can be read.
        energy_source: "NVML", or why it was not read.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    peak_gpu_memory_bytes: int | None
    energy_joules: float | None
    energy_source: str

    def __add__(self, later: "Cost") -> "Cost":
        """Both parts of a run that was broken off: what adds up is added, of peaks the higher one counts.

        >>> first = Cost(10.0, 20.0, 500, None, 30.0, "NVML")
        >>> both = first + Cost(1.0, 2.0, 700, None, 3.0, "NVML")
        >>> both.wall_seconds, both.peak_memory_bytes, both.energy_joules
        (11.0, 700, 33.0)
        """
        gpu = [part for part in (self.peak_gpu_memory_bytes, later.peak_gpu_memory_bytes) if part is not None]
        is_known = self.energy_joules is not None and later.energy_joules is not None
        return Cost(
            wall_seconds=self.wall_seconds + later.wall_seconds,
            cpu_seconds=self.cpu_seconds + later.cpu_seconds,
            peak_memory_bytes=max(self.peak_memory_bytes, later.peak_memory_bytes),
            peak_gpu_memory_bytes=max(gpu, default=None),
            # Half of the energy, given out for the whole, would make the broken run the thrifty one.
            energy_joules=(self.energy_joules or 0) + (later.energy_joules or 0) if is_known else None,
            energy_source=later.energy_source if self.energy_joules is not None else self.energy_source,
        )

    @classmethod
    def of_all(cls, costs: Sequence["Cost"], machines: Sequence["Cost"]) -> "Cost":
        """What processes spent that worked at the same time: each its own processor time and memory.

        Args:
            costs: of every process.
            machines: of one process of each machine, as a meter of energy reads all that its machine's GPUs drew.

        >>> one, other = Cost(10.0, 20.0, 500, None, 30.0, "NVML"), Cost(11.0, 2.0, 700, None, 31.0, "NVML")
        >>> both = Cost.of_all([one, other], machines=[other])
        >>> both.wall_seconds, both.cpu_seconds, both.peak_memory_bytes, both.energy_joules
        (11.0, 22.0, 1200, 31.0)
        """
        gpu = [cost.peak_gpu_memory_bytes for cost in costs if cost.peak_gpu_memory_bytes is not None]
        joules = [cost.energy_joules for cost in machines if cost.energy_joules is not None]
        return cls(
            wall_seconds=max(cost.wall_seconds for cost in costs),
            cpu_seconds=sum(cost.cpu_seconds for cost in costs),
            peak_memory_bytes=sum(cost.peak_memory_bytes for cost in costs),
            peak_gpu_memory_bytes=max(gpu, default=None),
            energy_joules=sum(joules) if len(joules) == len(machines) else None,
            energy_source=machines[0].energy_source,
        )

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values that `Cost(**document)` reads back."""
        return asdict(self)

    def figures(self) -> dict[str, float]:
        """The numbers that are known, by name."""
        return {name: float(value) for name, value in asdict(self).items() if isinstance(value, int | float)}


class CostMeter:
    """Counts what this process spends from the moment at which it is made.

    Making one lets the peaks of memory begin anew, so of two at one time only the later one's peaks are its own.

    Args:
        device: the one that is computed on.
        earlier: what earlier parts of the same work cost, in all processes; it is added to every reading.
    """

    def __init__(self, device: torch.device, earlier: Cost | None = None) -> None:
        self._device, self._earlier = device, earlier
        _forget_peak_memory()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._energy = EnergyMeter(device)
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Cost:
        """Return what was spent so far in all processes, earlier parts included. Every process calls it."""
        joules, source = self._energy.read()
        spent = Cost(
            wall_seconds=time.perf_counter() - self._wall,
            cpu_seconds=time.process_time() - self._cpu,
            peak_memory_bytes=peak_memory_bytes(),
            peak_gpu_memory_bytes=(
                torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else None
            ),
            energy_joules=joules,
            energy_source=source,
        )
        everyone = gathered((spent, local_rank() == 0))
        whole = Cost.of_all([cost for cost, _ in everyone], [cost for cost, is_one in everyone if is_one])
        return whole if self._earlier is None else self._earlier + whole


def peak_memory_bytes() -> int:
    """Most memory of this process that was resident at one time since it was last forgotten."""
    for line in (_PROCESS / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * _BYTES_PER_KIBIBYTE
    raise OSError("/proc/self/status has no line VmHWM.")


def _forget_peak_memory() -> None:
    try:
        (_PROCESS / "clear_refs").write_text("5")  # man 5 proc: resets VmHWM to what is resident now
    except OSError:
        return  # a kernel that was built without it: the peak is that of the whole process


class EnergyMeter:
    """Joules that the GPUs which this process sees drew since it was made, whoever used them.

    A CPU has no such meter here: its counters are of the whole machine, and hardly any lets a user read them.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = self._read()

    def read(self) -> tuple[float | None, str]:
        """Return the joules, or None, and what they were read from, or why they were not."""
        now = self._read()
        if isinstance(self._before, str) or isinstance(now, str):
            return None, f"absent: {self._before if isinstance(self._before, str) else now}"
        return now - self._before, "NVML"

    def _read(self) -> float | str:
        """Return the sum of the GPUs' counters, or why one cannot be read (those before Volta have none)."""
        if self._device.type != "cuda":
            return "energy is read of NVIDIA GPUs alone"
        try:
            pynvml.nvmlInit()
            uuids = [
                f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in range(torch.cuda.device_count())
            ]
            handles = [pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]
            return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles) / 1e3  # millijoules
        except pynvml.NVMLError as error:
            return f"NVML says {error}"
