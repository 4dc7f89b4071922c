"""How much of a GPU's time goes by between steps, while it waits for a batch or for the host."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch


class TimedEvent(Protocol):
    """What is asked of `torch.cuda.Event(enable_timing=True)`."""

    def record(self) -> None:
        """Put the event behind what is queued on the current stream."""
        ...

    def query(self) -> bool:
        """Whether the device has come by it; does not wait."""
        ...

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this event to a later one; the device has come by both."""
        ...


class _Step(NamedTuple):
    """One step on the device; `before` is the end of the one that it follows without an interruption."""

    before: TimedEvent | None
    began: TimedEvent
    ended: TimedEvent


class DeviceIdle:
    """The share of its time that the device stood idle between steps, by its own clock.

    Events are queued before and after a step's work. Between one step's last and the next one's first the device had
    nothing to do, be it for the copy of a batch, for the loader or for the host. Where it is faster than the host
    launches kernels it waits within a step too: that counts as work here. Nothing waits for the device.

    Args:
        new_event: makes an event; None where nothing is queued, as on a CPU, and nothing is measured.
    """

    def __init__(self, new_event: Callable[[], TimedEvent] | None) -> None:
        self._new_event = new_event
        self._before: TimedEvent | None = None
        self._steps: deque[_Step] = deque()  # that the device has not been seen to end
        self._idle = self._busy = 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Within it one step's work is queued, its batch having been handed to the current stream."""
        if self._new_event is None:
            yield
            return
        began, ended = self._new_event(), self._new_event()
        began.record()
        yield
        ended.record()
        self._steps.append(_Step(self._before, began, ended))
        self._before = ended
        self._add_up()

    def interrupt(self) -> None:
        """Do not count what goes by until the next step: the device does other work."""
        self._before = None

    def read(self) -> float | None:
        """Return the share, in [0, 1], of the steps that the device ended since the last reading; None for none."""
        self._add_up()
        idle, total = self._idle, self._idle + self._busy
        self._idle = self._busy = 0.0
        return idle / total if total else None

    def _add_up(self) -> None:
        while self._steps and self._steps[0].ended.query():
            before, began, ended = self._steps.popleft()
            self._busy += began.elapsed_time(ended)
            if before is not None:
                self._idle += before.elapsed_time(began)


def device_idle(device: torch.device) -> DeviceIdle:
    """Measure the current stream of a GPU; on a CPU nothing."""
    return DeviceIdle(partial(torch.cuda.Event, enable_timing=True) if device.type == "cuda" else None)
