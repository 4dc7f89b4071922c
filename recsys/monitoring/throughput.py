"""How fast a run trains, and how much of that time it and its GPU spend waiting."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from recsys.monitoring.device_idle import DeviceIdle


class Throughput:
    """Rows per second and the shares of the time spent waiting, since they were last read.

    Time inside `paused` (validation, checkpoints, the consumer of a report) counts for none of them. Whoever pauses has
    waited for the device: what is queued then would run in time that is not counted.

    Args:
        rows, wait_seconds: what the run has counted already, where it goes on from a checkpoint.
        idle: measures the steps of the device.

    >>> clock = iter([0.0, 10.0, 13.0, 15.0]).__next__
    >>> throughput = Throughput(rows=0, wait_seconds=0.0, idle=DeviceIdle(None), clock=clock)
    >>> with throughput.paused():  # from second 10 to 13
    ...     pass
    >>> throughput.read(rows=600, wait_seconds=3.0)  # at second 15: 12 seconds of training
    (50.0, 0.25, None)
    """

    def __init__(
        self, rows: int, wait_seconds: float, idle: DeviceIdle, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clock, self._idle = clock, idle
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
            self._idle.interrupt()

    def seconds(self) -> float:
        """Return the seconds of training since the last reading."""
        return self._clock() - self._since

    def read(self, rows: int, wait_seconds: float) -> tuple[float, float, float | None]:
        """Return rows per second, the host's share of waiting for data and the device's idle share since last time.

        The shares are in [0, 1]; the last is None where nothing measures the device.

        Args:
            rows: trained on since the run began.
            wait_seconds: waited for data since the run began.
        """
        now = self._clock()
        elapsed = now - self._since
        trained, waited = rows - self._rows, wait_seconds - self._wait_seconds
        self._since, self._rows, self._wait_seconds = now, rows, wait_seconds
        idle_share = self._idle.read()
        if elapsed <= 0:  # a clock too coarse for one tiny step
            return 0.0, 0.0, idle_share
        return trained / elapsed, min(1.0, waited / elapsed), idle_share
