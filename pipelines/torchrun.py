"""A command in each of the processes that torchrun started: they meet first, one of them speaks, and all end together.

An error is recorded for torchrun, which shows the first one of the job. What a process meets because another one has
gone is not recorded, and it waits a moment before it ends: the one that went is what has to be shown.
"""

import sys
import time
from collections.abc import Callable

from torch.distributed.elastic.multiprocessing.errors import record

from recsys.config import RunConfig
from recsys.machine_faults import is_lost_process
from recsys.run.streams import started
from recsys.sharding.processes import stop_processes

from . import output
from .console import be_silent

# torchrun looks ten times a second which of its processes has ended.
_SECONDS_FOR_THE_CAUSE = 3.0
_LOST = 69


def together(config: RunConfig, work: Callable[[bool], int], name: str) -> int:
    """Join the processes of the job, do the work, and return its exit code.

    Args:
        work: takes whether this process is the first, the one that prints.
        name: of the command, for messages.

    Raises:
        ServiceError: the other processes cannot be reached.
    """

    def joined() -> int:
        context = started(config)
        if not context.is_first:
            be_silent()
        try:
            code = work(context.is_first)
        except Exception as error:
            if context.world_size == 1 or not is_lost_process(error):
                raise
            says = str(error).splitlines()[0]
            output.print_error(
                f"{name}: process {context.rank} of {context.world_size} lost another one, which ended or did not "
                f"answer within {config.runtime.exchange_seconds} s (`runtime.exchange_seconds`); its own message says "
                f"why. {says}"
            )
            time.sleep(_SECONDS_FOR_THE_CAUSE)
            sys.exit(_LOST)
        stop_processes()
        return code

    return record(joined)() or 0
