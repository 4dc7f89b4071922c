"""Batches to the device, ahead of the step that needs them.

On a GPU the copy runs on a stream of its own while the step before it computes, and so does what makes a `Batch` of the
packed form there; on a CPU the rows are there already, and the same calls pass them through.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.features.batch import Batch
from recsys.streaming.memory import PinnedMemory, ReusedMemory
from recsys.streaming.packed import PackedBatch


@dataclass(frozen=True)
class SentBatch:
    """A batch that is on its way; `arrival` is set where the copy runs on a stream."""

    batch: Batch
    arrival: torch.cuda.Event | None


class DeviceCopy:
    """Copies batches to one device.

    Args:
        most_blocks: of ordinary memory kept for batches that go no further; see `ReusedMemory`.

    Attributes:
        ships: whether the device has a memory of its own.
        memory: what batches should be built in: page-locked where they are shipped, since only from there a copy runs
            beside the step.
    """

    def __init__(self, device: torch.device, most_blocks: int) -> None:
        self._device = device
        self.ships = device.type == "cuda"
        self.memory = PinnedMemory() if self.ships else ReusedMemory(most_blocks)
        self._stream = torch.cuda.Stream(device) if self.ships else None

    def send(self, packed: PackedBatch) -> SentBatch:
        """Begin the copy, from any thread; does not wait for it."""
        if self._stream is None:
            return SentBatch(packed.unpacked(self.memory.empty), None)
        with torch.cuda.stream(self._stream):
            return SentBatch(packed.to(self._device).unpacked(self._empty), self._stream.record_event())

    def receive(self, sent: SentBatch) -> Batch:
        """Hand the batch to the caller's current stream, which waits for the copy; the caller itself does not."""
        if sent.arrival is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(sent.arrival)
            # The memory belongs to the copy's stream, which would give it out again while the step still reads it.
            sent.batch.record_stream(current)
        return sent.batch

    def _empty(self, role: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device=self._device)
