"""What the loop asks of whatever feeds it."""

from collections.abc import Iterator
from typing import Protocol

from recsys.features.batch import Batch


class TrainingStream(Protocol):
    """Batches of one epoch after another; iterating yields what is left of the current epoch."""

    @property
    def epoch(self) -> int:
        """The epoch that iterating yields, from 0."""
        ...

    @property
    def wait_seconds(self) -> float:
        """How long callers have waited for a batch, over all epochs."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...
