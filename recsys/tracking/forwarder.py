"""A thread that sends a living run's spool while training goes on, whatever becomes of the tracking server."""

import logging
import threading
import time

from recsys.tracking.delivery import Delivery
from recsys.tracking.spool import Spool, discard_files
from recsys.tracking.store import TrackingStore
from recsys.tracking.system_metrics import SystemSampler

# A chart that is watched is this far behind; each delivery is a request or more.
_SECONDS_BETWEEN_DELIVERIES = 2.0
# Of one processor: deliveries that take more come less often, down to one in so many seconds. What a store asks per
# delivery is saved that way; what it asks per number remains.
_SHARE_FOR_DELIVERY = 0.0025
_LONGEST_BETWEEN_DELIVERIES = 30.0
_SECONDS_BETWEEN_SAMPLES = 10.0
# After a failure, doubled at each further one: a server that restarts is found soon, one that is away all night costs
# little.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 2.0, 60.0

logger = logging.getLogger("recsys.tracking")


class Forwarder(threading.Thread):
    """Sends one run's lines every few seconds, less often where that takes more than its share of the processor.

    After a failure it pauses, longer each time up to a minute.

    Args:
        spool: of the living run; its lock is held by the caller.
        system_metrics: whether to sample the machine every 10 seconds.
    """

    def __init__(self, spool: Spool, store: TrackingStore, system_metrics: bool) -> None:
        # A daemon: training that has ended must be able to leave while a request hangs; the spool has it all.
        super().__init__(name=f"forward {spool.spool_id}", daemon=True)
        self._spool = spool
        self._store = store
        self._sampler = SystemSampler() if system_metrics else None
        # Samples have steps of their own; a resumed run goes on behind the last, or its samples would be dropped.
        self._samples = spool.highest_step("system/cpu_utilization_percentage") + 1
        self._next_sample = time.monotonic() + 1.0
        self._delivery: Delivery | None = None
        self._is_offline = False
        self._due_at = 0.0
        self._pause = _SHORTEST_PAUSE
        self._wake = threading.Event()
        self._is_ending = False
        self._all_sent = False

    @property
    def run_id(self) -> str | None:
        """The run's id in the store; None until the store has answered once."""
        return self._delivery.run_id if self._delivery else None

    def run(self) -> None:
        """Deliver until `finish` is called, and then once more."""
        while not self._is_ending:
            self._sample_if_due()
            if time.monotonic() >= self._due_at:
                self._deliver()
            self._wake.wait(_SECONDS_BETWEEN_DELIVERIES)
        self._all_sent = self._deliver()

    def finish(self, patience_seconds: float) -> bool:
        """Send what is left, wait for it at most so long, and return whether all of it was sent."""
        # In this order: the thread looks at the flag each time it wakes.
        self._is_ending = True
        self._wake.set()
        self.join(patience_seconds)
        if self._all_sent:
            discard_files(self._spool.folder)
        else:
            logger.warning(
                "tracking offline, the run's rest waits in %s; send it with `recsys sync`", self._spool.folder
            )
        return self._all_sent

    def _sample_if_due(self) -> None:
        if self._sampler and time.monotonic() >= self._next_sample:
            self._spool.write_metrics(self._samples, self._sampler.sample())
            self._samples += 1
            self._next_sample = time.monotonic() + _SECONDS_BETWEEN_SAMPLES

    def _deliver(self) -> bool:
        try:
            if self._delivery is None:
                self._delivery = Delivery(self._spool.folder, self._store, self._store.open())
            # This thread's processor time: what waiting for the server takes costs training nothing.
            began = time.thread_time()
            self._delivery.drain()
            taken = time.thread_time() - began
        except Exception as error:
            # Of whatever kind: the lines are safe in the spool, and no trouble with tracking may end this thread.
            self._note_failure(error)
            return False
        if self._is_offline:
            logger.warning("tracking is back at %s; everything spooled was sent", self._store.public_uri)
        self._is_offline, self._pause = False, _SHORTEST_PAUSE
        self._due_at = time.monotonic() + min(taken / _SHARE_FOR_DELIVERY, _LONGEST_BETWEEN_DELIVERIES)
        return True

    def _note_failure(self, error: Exception) -> None:
        if not self._is_offline:
            logger.warning("tracking offline, spooling to %s (%s)", self._spool.folder, str(error).split("\n")[0])
        self._is_offline = True
        self._due_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        if self._store.is_server:
            # The next attempt begins with the quick probe, not with a client's long patience.
            self._delivery = None
