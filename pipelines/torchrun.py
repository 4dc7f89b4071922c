"""A command in each of the processes that torchrun started: they meet first, one of them speaks, and all end together.

An error is recorded for torchrun, which shows the first one of the job. What a process meets because another one has
gone is not recorded.
"""

from collections.abc import Callable

from torch.distributed.elastic.multiprocessing.errors import record

from recsys.config import RunConfig
from recsys.run.streams import started
from recsys.sharding.lost_process import ending_after_the_cause
from recsys.sharding.processes import stop_processes

from . import output
from .console import be_silent


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
        with ending_after_the_cause(name, config.runtime.exchange_seconds, output.print_error):
            code = work(context.is_first)
        stop_processes()
        return code

    return record(joined)() or 0
