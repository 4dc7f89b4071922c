"""The memory that batches are built in: each block is used again once nothing refers to its last tensor.

A batch takes some megabytes. The C library gives blocks of that size back to the system at once, and every new batch
would pay for fresh pages: a fifth of the cost of building it.
"""

import math
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_NUMPY_TYPES = {
    torch.float32: np.float32,
    torch.int8: np.int8,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
}


class ReusedMemory:
    """Blocks of ordinary memory; a batch that somebody still holds, whole or in part, keeps its blocks to itself.

    Any number of threads may ask for them.

    >>> memory = ReusedMemory(most_blocks=2)
    >>> first = memory.empty("label", [3], torch.float32)
    >>> address = first.data_ptr()
    >>> memory.empty("label", [3], torch.float32).data_ptr() == address
    False
    >>> del first
    >>> memory.empty("label", [2], torch.float32).data_ptr() == address
    True

    Args:
        most_blocks: of each role; where more are held by others at once, the rest is freed as usual.
    """

    def __init__(self, most_blocks: int) -> None:
        self._most_blocks = most_blocks
        self._blocks: dict[str, list[_Block]] = {}
        # Held from finding a free block until it is lent.
        self._lock = threading.Lock()

    def empty(self, role: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a tensor of that shape with arbitrary values; `role` says what it is in the batch."""
        needed = math.prod(shape) * dtype.itemsize
        with self._lock:
            array = self._free_block(role, needed).array(needed, _NUMPY_TYPES[dtype])
        return torch.from_numpy(array).view(*shape)

    def _free_block(self, role: str, needed: int) -> "_Block":
        blocks = self._blocks.setdefault(role, [])
        free = [block for block in blocks if block.is_free]
        for block in free:
            if block.size >= needed:
                return block
        if free:
            blocks.remove(free[0])
        # A little more than now: lists make some batches larger than others.
        block = _Block(needed + needed // 8)
        if len(blocks) < self._most_blocks:
            blocks.append(block)
        return block


class PinnedMemory:
    """Page-locked memory, from which a copy to a GPU overlaps with computing.

    PyTorch keeps such memory and hands it out again once the copy from it is done, which only it can know.
    """

    def empty(self, role: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """See `ReusedMemory`; a tensor of that shape."""
        return torch.empty(*shape, dtype=dtype, pin_memory=True)


class _Block:
    def __init__(self, size: int) -> None:
        self.size = size
        self._memory = np.empty(size, np.uint8)
        # Weak: that it is gone is how a block knows that it is free.
        self._array: weakref.ref[npt.NDArray[Any]] | None = None

    @property
    def is_free(self) -> bool:
        # Tensors, their views and their numpy forms all keep alive the one array that `array` returned.
        return self._array is None or self._array() is None

    def array(self, size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        array = self._memory[:size].view(dtype)
        self._array = weakref.ref(array)
        return array
