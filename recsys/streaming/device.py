"""Batches to the device, ahead of the step that needs them.

On a GPU the copy runs on a stream of its own while the step before it computes; on a CPU the batch is there already,
and the same calls hand it through.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from recsys.features.batch import Batch


@dataclass(frozen=True)
class SentBatch:
    """A batch that is on its way; `arrival` is set where the copy runs on a stream."""

    batch: Batch
    arrival: torch.cuda.Event | None


class DeviceCopy(Protocol):
    """How batches reach one kind of device."""

    pins: bool
    """Whether batches should be built in page-locked memory."""

    def send(self, batch: Batch) -> SentBatch:
        """Begin the copy, from any thread; does not wait for it."""
        ...

    def receive(self, sent: SentBatch) -> Batch:
        """Hand the batch to the caller's current stream, which waits for the copy; the caller itself does not."""
        ...


def copy_to(device: torch.device) -> DeviceCopy:
    """Return the way to a device."""
    return _StreamCopy(device) if device.type == "cuda" else _HandThrough(device)


class _HandThrough:
    pins = False

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def send(self, batch: Batch) -> SentBatch:
        return SentBatch(batch.to(self._device), None)

    def receive(self, sent: SentBatch) -> Batch:
        return sent.batch


class _StreamCopy:
    pins = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def send(self, batch: Batch) -> SentBatch:
        with torch.cuda.stream(self._stream):
            moved = batch.to(self._device, non_blocking=True)
            return SentBatch(moved, self._stream.record_event())

    def receive(self, sent: SentBatch) -> Batch:
        current = torch.cuda.current_stream(self._device)
        if sent.arrival is not None:
            current.wait_event(sent.arrival)
        # The memory belongs to the copy's stream, which would hand it out again while the step still reads it.
        sent.batch.record_stream(current)
        return sent.batch
