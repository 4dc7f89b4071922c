"""How busy the machine is, for the run page's "System metrics" tab.

MLflow has a monitor of its own, but it talks to the store directly and loses what it measured while a server is away.
These numbers go through the spool like all others.
"""

import sys

import psutil

_MEGABYTE = 1 << 20


class SystemSampler:
    """Measures this process, its machine, and the GPU that it computes on when the sampler is made, if any.

    >>> sorted(SystemSampler().sample())[:2]
    ['system/cpu_utilization_percentage', 'system/process_memory_megabytes']
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        # psutil reports the share since the previous call; the first one has nothing to compare with.
        psutil.cpu_percent()
        # Asked here, by the thread that computes: another one's current GPU is the machine's first. Only of a process
        # that computes on a GPU: importing torch to ask takes seconds, which commands that merely read runs would pay
        # as well, and asking for the memory of an unused GPU would claim some of it.
        self._torch = sys.modules.get("torch")
        is_used = self._torch is not None and self._torch.cuda.is_initialized()
        self._gpu = self._torch.cuda.current_device() if self._torch is not None and is_used else None

    def sample(self) -> dict[str, float]:
        """Return the readings since the last call, by metric name."""
        memory = psutil.virtual_memory()
        readings = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / _MEGABYTE,
            "system/system_memory_usage_percentage": memory.percent,
            "system/process_memory_megabytes": self._process.memory_info().rss / _MEGABYTE,
        }
        if self._torch is not None and self._gpu is not None:
            free, total = self._torch.cuda.mem_get_info(self._gpu)
            readings["system/gpu_memory_usage_megabytes"] = (total - free) / _MEGABYTE
        return readings
