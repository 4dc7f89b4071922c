"""How much memory there is to compute in, read without claiming any of it."""

import os

import pynvml

from recsys.errors import UsageError
from recsys.sharding.processes import CPU, device_kind


def memory_bytes(wished: str) -> int:
    """Return the bytes of memory of what is computed on, the same from start to start of one machine.

    Of a GPU all of it, used or not, and of several the smallest one's. It is asked of the driver: torch would take some
    of the GPU in every process that asks.

    Args:
        wished: the device: "auto", "cpu" or "cuda".

    Raises:
        UsageError: a GPU is wished for where there is none, or its driver does not say.
    """
    if device_kind(wished) == CPU:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return min(int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles)
    except (pynvml.NVMLError, ValueError) as error:
        raise UsageError(
            f"How much memory the GPU has cannot be read: NVML says {error}. Set training.largest_batch or "
            "training.batch_size to a number of rows, such as 8192."
        ) from error
