"""Batches to the device, ahead of the step that needs them.

On a GPU the copy runs on a stream of its own while the step before it computes; on a CPU the batch is there already,
and the same calls pass it through.
"""

from dataclasses import dataclass

import torch

from recsys.features.batch import Batch


@dataclass(frozen=True)
class SentBatch:
    """A batch that is on its way; `arrival` is set where the copy runs on a stream."""

    batch: Batch
    arrival: torch.cuda.Event | None


class DeviceCopy:
    """Copies batches to one device.

    Attributes:
        pins: whether batches should be built in page-locked memory, from which alone a copy runs beside the step.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.pins = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self.pins else None

    def send(self, batch: Batch) -> SentBatch:
        """Begin the copy, from any thread; does not wait for it."""
        if self._stream is None:
            return SentBatch(batch.to(self._device), None)
        with torch.cuda.stream(self._stream):
            return SentBatch(batch.to(self._device, non_blocking=True), self._stream.record_event())

    def receive(self, sent: SentBatch) -> Batch:
        """Hand the batch to the caller's current stream, which waits for the copy; the caller itself does not."""
        if sent.arrival is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(sent.arrival)
            # The memory belongs to the copy's stream, which would give it out again while the step still reads it.
            sent.batch.record_stream(current)
        return sent.batch
