"""Batches to the device, ahead of the step that needs them.

On a GPU the copy runs on a stream of its own while the step before it computes, and so does what makes a `Batch` of the
packed form there; on a CPU the rows are there already, and the same calls pass them through.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recsys.features.batch import Batch
from recsys.streaming.memory import PinnedMemory, ReusedMemory
from recsys.streaming.packed import PackedBatch

Preparation = Callable[[Batch], Callable[[], None]]
"""Begins work on a batch that is still to be handed out; what it returns ends that work right before."""


@dataclass(frozen=True)
class SentBatch:
    """A batch that is on its way.

    Attributes:
        arrival: set where the copy runs on a stream.
        end: ends what `DeviceCopy.begin` began.
    """

    batch: Batch
    arrival: torch.cuda.Event | None
    end: Callable[[], None] | None = None


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
        # Of its own, where no copy of a later batch comes in between.
        self._preparing = torch.cuda.Stream(device) if self.ships else None

    def send(self, packed: PackedBatch) -> SentBatch:
        """Begin the copy, from any thread; does not wait for it."""
        if self._stream is None:
            return SentBatch(packed.unpacked(self.memory.empty), None)
        with torch.cuda.stream(self._stream):
            return SentBatch(packed.to(self._device).unpacked(self._empty), self._stream.record_event())

    def begin(self, sent: SentBatch, prepare: Preparation) -> SentBatch:
        """Begin work on the batch once it has been copied, beside the step that computes; in the caller's thread."""
        self._hand_to(self._preparing, sent.batch, sent.arrival)
        with torch.cuda.stream(self._preparing):
            return replace(sent, end=prepare(sent.batch))

    def receive(self, sent: SentBatch) -> Batch:
        """Hand the batch to the caller's current stream, which waits for the copy; the caller itself does not."""
        arrival = sent.arrival
        if sent.end is not None:
            with torch.cuda.stream(self._preparing):
                sent.end()
                arrival = None if self._preparing is None else self._preparing.record_event()
        self._hand_to(None if arrival is None else torch.cuda.current_stream(self._device), sent.batch, arrival)
        return sent.batch

    def _empty(self, role: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device=self._device)

    @staticmethod
    def _hand_to(stream: torch.cuda.Stream | None, batch: Batch, arrival: torch.cuda.Event | None) -> None:
        if stream is not None and arrival is not None:
            stream.wait_event(arrival)
            # The memory belongs to another stream, which would give it out again while this one still reads it.
            batch.record_stream(stream)


def one_ahead(batches: Iterable[SentBatch]) -> Iterator[SentBatch]:
    """Yield the batches, each once the next one is there."""
    held: deque[SentBatch] = deque()
    for batch in batches:
        if held:
            yield held.popleft()
        held.append(batch)
    yield from held
