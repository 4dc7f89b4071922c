"""How busy the machine is, for the run page's "System metrics" tab.

MLflow has a monitor of its own, but it talks to the store directly and loses what it measured while a server is away.
These numbers go through the spool like all others.
"""

import sys

import psutil

_MEGABYTE = 1 << 20


class SystemSampler:
    """Measures this process and its machine.

    >>> sorted(SystemSampler().sample())[:2]
    ['system/cpu_utilization_percentage', 'system/process_memory_megabytes']
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        # psutil reports the share since the previous call; the first one has nothing to compare with.
        psutil.cpu_percent()

    def sample(self) -> dict[str, float]:
        """Return the readings since the last call, by metric name."""
        memory = psutil.virtual_memory()
        readings = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / _MEGABYTE,
            "system/system_memory_usage_percentage": memory.percent,
            "system/process_memory_megabytes": self._process.memory_info().rss / _MEGABYTE,
        }
        # Only of a process that computes on a GPU: importing torch to ask takes seconds, which commands that merely
        # read runs would pay as well, and asking for the memory of an unused GPU would claim some of it.
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
            free, total = torch.cuda.mem_get_info()
            readings["system/gpu_memory_usage_megabytes"] = (total - free) / _MEGABYTE
        return readings
