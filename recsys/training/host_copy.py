"""Numbers on their way from the device to the host."""

from collections.abc import Sequence

import torch
from torch import Tensor


class HostCopy:
    """Copies of some tensors, of any shapes, as they are once what is queued now has run; None stays None.

    Nobody waits for the device until `arrived`, and that waits for what was queued before the copy alone: what came
    behind it goes on computing.
    """

    def __init__(self, tensors: Sequence[Tensor | None]) -> None:
        # Into page-locked memory, where torch puts what it copies from a GPU without waiting.
        self._copies = [None if each is None else each.to("cpu", non_blocking=True, copy=True) for each in tensors]
        self._end = None
        if any(each is not None and each.is_cuda for each in tensors):
            self._end = torch.cuda.Event()
            self._end.record()

    def arrived(self) -> list[Tensor | None]:
        """Wait for the copies and return them, in order, each of its own shape."""
        if self._end is not None:
            self._end.synchronize()
        return self._copies
