"""How fast a run trains, and how much of that time it spends waiting for data."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Throughput:
    """Rows per second and the share of the time spent waiting, since it was last read.

    Time inside `paused` (validation, checkpoints, the consumer of a report) counts for neither.

    Args:
        rows, wait_seconds: what the run has counted already, where it goes on from a checkpoint.

    >>> clock = iter([0.0, 10.0, 13.0, 15.0]).__next__
    >>> throughput = Throughput(rows=0, wait_seconds=0.0, clock=clock)
    >>> with throughput.paused():  # from second 10 to 13
    ...     pass
    >>> throughput.read(rows=600, wait_seconds=3.0)  # at second 15: 12 seconds of training
    (50.0, 0.25)
    """

    def __init__(self, rows: int, wait_seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._since = clock()
        self._rows = rows
        self._wait_seconds = wait_seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time until the end of the block."""
        began = self._clock()
        try:
            yield
        finally:
            self._since += self._clock() - began

    def read(self, rows: int, wait_seconds: float) -> tuple[float, float]:
        """Return rows per second and the waiting share in [0, 1] since the last reading.

        Args:
            rows: trained on since the run began.
            wait_seconds: waited for data since the run began.
        """
        now = self._clock()
        elapsed = now - self._since
        trained, waited = rows - self._rows, wait_seconds - self._wait_seconds
        self._since, self._rows, self._wait_seconds = now, rows, wait_seconds
        if elapsed <= 0:  # a clock too coarse for one tiny step
            return 0.0, 0.0
        return trained / elapsed, min(1.0, waited / elapsed)
