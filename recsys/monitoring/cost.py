"""What a piece of work costs: time, processor time, memory and, where the machine tells, energy.

Energy is read from two meters. RAPL (`/sys/class/powercap`) counts what the processor packages draw, for all programs
together; of that the process is given its share of the machine's busy processor time, idle power included. NVML counts
what each GPU draws, whoever uses it; it is read only for the GPUs that this process sees. Many machines, and nearly all
containers, let nobody but root read RAPL: then the energy is absent, and `energy_source` says why.
"""

import ctypes
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")
_PROCESS = Path("/proc/self")
_MACHINE = Path("/proc/stat")
_BUSY_COLUMNS = (0, 1, 2, 5, 6)  # of the line `cpu` in /proc/stat: not idle, waiting for a disk, or taken by others
_BYTES_PER_KIBIBYTE = 1024


@dataclass(frozen=True)
class Cost:
    """What was spent.

    Attributes:
        cpu_seconds: of all threads of this process; next to others on one machine it is the figure to trust, as they
            slow the wall's clock and not this one.
        peak_memory_bytes: most that was resident at one time, libraries included.
        peak_gpu_memory_bytes: most that tensors took on the GPU; None without one.
        energy_joules: None where nothing can be read.
        energy_source: which meters were read, or why none was.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    peak_gpu_memory_bytes: int | None
    energy_joules: float | None
    energy_source: str

    def __add__(self, later: "Cost") -> "Cost":
        """Both parts of a run that was broken off: what adds up is added, of peaks the higher one stands.

        >>> first = Cost(10.0, 20.0, 500, None, 30.0, "RAPL")
        >>> both = first + Cost(1.0, 2.0, 700, None, 3.0, "RAPL")
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

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values that `Cost(**document)` reads back."""
        return asdict(self)

    def figures(self) -> dict[str, float]:
        """The numbers that are known, by name."""
        return {name: float(value) for name, value in asdict(self).items() if isinstance(value, int | float)}


class EnergyMeter:
    """Joules since it was made, of one kind of meter."""

    def __init__(self, name: str, read: Callable[[], float | None]) -> None:
        self.name = name
        self._read = read
        self._before = read()

    def joules(self) -> float | None:
        """Return the energy since the start; None where it cannot be read."""
        now = self._read()
        return None if now is None or self._before is None else now - self._before


class CostMeter:
    """Counts what this process spends from the moment at which it is made.

    Making one lets the peaks of memory begin anew, so of two at one time only the later one's peaks are its own.

    Args:
        earlier: what earlier parts of the same work cost; it is added to every reading.
        device: the one that is computed on.
    """

    def __init__(self, device: torch.device, earlier: Cost | None = None, powercap: Path = POWERCAP) -> None:
        self._device, self._earlier = device, earlier
        _forget_peak_memory()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._package = _PackageEnergy(powercap)
        self._gpu = _gpu_meter() if device.type == "cuda" else None
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Cost:
        """Return what was spent so far, earlier parts included."""
        joules, source = self._energy()
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
        return spent if self._earlier is None else self._earlier + spent

    def _energy(self) -> tuple[float | None, str]:
        package, why_not = self._package.joules(time.process_time() - self._cpu)
        found = {} if package is None else {"RAPL, by share of processor time": package}
        if self._gpu is not None and (gpu := self._gpu.joules()) is not None:
            found[self._gpu.name] = gpu
        return (sum(found.values()), " and ".join(found)) if found else (None, f"absent: {why_not}")


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


class _PackageEnergy:
    """What the processor packages draw, and this process's share of it.

    Args:
        powercap: its folders `intel-rapl:<n>` are the packages (AMD's have the same name); those below are parts of
            them.
    """

    def __init__(self, powercap: Path, machine: Path = _MACHINE) -> None:
        self._packages = sorted(path for path in powercap.glob("intel-rapl:*") if path.name.count(":") == 1)
        self._machine = machine
        self._before, self._why_not = self._read()
        self._busy = _busy_seconds(machine)

    def joules(self, cpu_seconds: float) -> tuple[float | None, str]:
        """Return the share of a process that has spent `cpu_seconds` since the start, or None and why."""
        now, why_not = self._read()
        if now is None or self._before is None:
            return None, why_not or self._why_not
        drawn = sum(
            # The counter starts anew from 0 above its range, in hours at least.
            after - before if after >= before else after - before + highest
            for (before, highest), (after, _) in zip(self._before, now, strict=True)
        )
        busy = _busy_seconds(self._machine) - self._busy
        return drawn * min(1.0, cpu_seconds / busy if busy > 0 else 1.0), ""

    def _read(self) -> tuple[list[tuple[float, float]] | None, str]:
        """Every package's joules and where they start anew."""
        if not self._packages:
            return None, "this machine shows no RAPL counters"
        try:
            return [(_microjoules(p, "energy_uj"), _microjoules(p, "max_energy_range_uj")) for p in self._packages], ""
        except OSError as error:
            return None, f"RAPL counters cannot be read ({error.strerror})"


def _microjoules(package: Path, name: str) -> float:
    return int((package / name).read_text()) / 1e6


def _busy_seconds(machine: Path) -> float:
    """Processor seconds of all programs since the machine started."""
    columns = [int(value) for value in machine.read_text().splitlines()[0].split()[1:]]
    return sum(columns[column] for column in _BUSY_COLUMNS) / os.sysconf("SC_CLK_TCK")


def _gpu_meter() -> EnergyMeter | None:
    """A meter of the GPUs that this process sees; None without NVIDIA's library."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    names = [f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in range(torch.cuda.device_count())]
    return nvml_meter(library, names)


def nvml_meter(library: Any, uuids: Sequence[str]) -> EnergyMeter | None:
    """A meter of some GPUs; None where one of them has no counter (those before Volta).

    Args:
        library: NVIDIA's libnvidia-ml, or what answers like it.
    """
    if library.nvmlInit_v2() != 0:
        return None
    handles: Mapping[str, ctypes.c_void_p] = {uuid: ctypes.c_void_p() for uuid in uuids}
    for uuid, handle in handles.items():
        if library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)) != 0:
            return None

    def joules() -> float | None:
        total = 0.0
        for handle in handles.values():
            millijoules = ctypes.c_ulonglong()
            if library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)) != 0:
                return None
            total += millijoules.value / 1e3
        return total

    return EnergyMeter("NVML", joules)
