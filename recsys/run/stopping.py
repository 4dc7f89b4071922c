"""How a run is asked to stop: the first signal is noted, and the step in hand ends before it is obeyed."""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from recsys.sharding.processes import gathered


class StopRequest:
    """Whether the process was asked to stop; calling it answers, `raise_if_asked` passes the question on."""

    def __init__(self) -> None:
        self._signal: int | None = None
        self._is_in_hand = True

    def __call__(self) -> bool:
        return self._signal is not None

    def agree(self) -> None:
        """Take the signal that any process of the run was sent for one of this process. Every process calls it."""
        sent = [number for number in gathered(self._signal) if number is not None]
        self._signal = sent[0] if sent else None

    def raise_if_asked(self) -> None:
        """End the command with the code of the signal that came, once what must be finished is."""
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal is not None:
            raise SystemExit(128 + self._signal)

    def obey_at_once(self) -> None:
        """Obey the signal that came, and from now on each as it comes: nothing is in hand that is not kept."""
        self._is_in_hand = False
        self.raise_if_asked()

    def note(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; a second one does not wait for the step in hand."""
        self.raise_if_asked()
        self._signal = number
        if not self._is_in_hand:
            self.raise_if_asked()


@contextmanager
def stoppable() -> Iterator[StopRequest]:
    """Within it SIGTERM and Ctrl-C are noted, not obeyed, so that the step in hand ends and a checkpoint stands.

    In another thread than the main one nothing is noted: there signals arrive in the main thread, as they do anyway.
    """
    request = StopRequest()
    # Python lets the main thread alone set handlers; a user's program may train in any.
    in_main_thread = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGINT) if in_main_thread else ()
    previous: Mapping[int, object] = {number: signal.signal(number, request.note) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
