"""Running out of memory, reported as such: where, with how many rows, how much had been taken, what to lower."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch

from recsys.errors import TrainingError

# Of what has no type of its own: the CPU's allocator, the driver's, and cuBLAS's.
_WORDS = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


@contextmanager
def out_of_memory_explained(where: str, lower: str, device: torch.device) -> Iterator[None]:
    """Within it, a lack of the GPU's or the machine's memory becomes a `TrainingError`; see `raise_explained`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise_explained(error, where, lower, device)


def raise_explained(error: Exception, where: str, lower: str, device: torch.device) -> NoReturn:
    """Raise the error, as a `TrainingError` where it is a lack of memory.

    Args:
        where: as in "in step 7 with 2048 rows in the batch".
        lower: the settings that would help.
        device: that computes.

    Raises:
        TrainingError: memory ran out; says where, how much had been taken, and what to lower.
    """
    if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not any(word in str(error) for word in _WORDS):
        raise error
    peak = ""
    if device.type == "cuda":
        peak = f" (peak so far {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB)"
    raise TrainingError(
        f"Out of memory {where}{peak}: lower {lower}. The last checkpoint is untouched. ({error})"
    ) from error
