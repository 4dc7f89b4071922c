"""What the loop and its snapshots ask of whatever feeds them."""

from collections.abc import Iterator
from typing import Any, Protocol

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

    def state_dict(self) -> dict[str, Any]:
        """Return how far the stream was consumed; plain JSON."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state_dict` was taken."""
