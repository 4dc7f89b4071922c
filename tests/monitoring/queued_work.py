"""A device's queue by hand: work takes the milliseconds that a test says, and is done when a test says so."""

from dataclasses import dataclass


@dataclass
class QueuedWork:
    """`queued` milliseconds of work lie before whatever comes next; the device has come as far as `done`."""

    queued: float = 0.0
    done: float = 0.0

    def compute(self, milliseconds: float) -> None:
        self.queued += milliseconds

    def catch_up(self) -> None:
        self.done = self.queued

    def new_event(self) -> "Mark":
        return Mark(self)


@dataclass
class Mark:
    """An event in the queue."""

    device: QueuedWork
    at: float | None = None

    def record(self) -> None:
        self.at = self.device.queued

    def query(self) -> bool:
        assert self.at is not None
        return self.at <= self.device.done

    def elapsed_time(self, end_event: "Mark") -> float:
        assert self.query()  # as torch raises where the device has not come by
        assert end_event.query()
        assert self.at is not None
        assert end_event.at is not None
        return end_event.at - self.at
