"""What a process does that has lost another one of its job: it says so, and lets the launcher see the other end first.

The one that went is what has to be shown: what the others met because of it is no error of theirs.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from recsys.machine_faults import is_lost_process
from recsys.sharding.first_process import processes, rank

# torchrun looks ten times a second which of its processes has ended.
_SECONDS_FOR_THE_CAUSE = 3.0
_LOST = 69


@contextmanager
def ending_after_the_cause(name: str, exchange_seconds: int, say: Callable[[str], None]) -> Iterator[None]:
    """Within it, what is met because another process has gone or is silent is said, and this one ends with 69.

    Args:
        name: of what is done, for the message.
        exchange_seconds: how long processes wait for one another.
    """
    try:
        yield
    except Exception as error:
        if processes() == 1 or not is_lost_process(error):
            raise
        says = str(error).splitlines()[0]
        say(
            f"{name}: process {rank()} of {processes()} lost another one, which ended or did not answer within "
            f"{exchange_seconds} s (`runtime.exchange_seconds`); its own message says why. {says}"
        )
        time.sleep(_SECONDS_FOR_THE_CAUSE)
        sys.exit(_LOST)
