"""A job of a study in several processes of this machine, which torch's elastic agent starts as torchrun would.

The agent runs in the job's own process, meets its processes at a free port, and ends all of them where one fails. What
that one failed with is the job's error. A signal that the job is sent reaches them, and each may keep its share of a
checkpoint.
"""

import logging
import secrets
import signal
import tempfile
from collections.abc import Callable
from types import FrameType
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from recsys.config import RunConfig
from recsys.errors import RecsysError
from recsys.machine_faults import machine_fault
from recsys.progress import Progress, silent
from recsys.run.streams import started
from recsys.sharding.lost_process import ending_after_the_cause
from recsys.sharding.processes import CUDA, device_kind, stop_processes

# Less than the caller of the job waits for it (`workers.py`): who does not end by then is killed.
_GRACE_SECONDS = 20
logger = logging.getLogger("recsys.study")  # into the job's log


def run_in_processes(
    config: RunConfig, name: str, work: Callable[..., None], arguments: tuple[Any, ...], progress: Progress
) -> None:
    """Call `work(*arguments, progress)` in `ablation.processes_per_arm` processes that have met; here where it is one.

    Args:
        name: of the job, for messages.
        work: a function of a module; its arguments and `progress` can be pickled. Only the first process reports.

    Raises:
        RecsysError: what the first process that failed did so with.
    """
    count = config.ablation.processes_per_arm
    if count == 1:
        work(*arguments, progress)
        return
    with tempfile.TemporaryDirectory() as folder:
        launch = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            run_id=secrets.token_hex(8),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # whichever port is free
            max_restarts=0,  # the study goes on where it was, when it is started again
            # This process has computed nothing, so that a fork of it is a fresh one; CUDA does not survive a fork.
            start_method="spawn" if device_kind(config.runtime.device) == CUDA else "fork",
            local_addr="localhost",
            shutdown_timeout=_GRACE_SECONDS,
        )
        try:
            elastic_launch(launch, _in_one)(config, name, work, arguments, progress)
        except ChildFailedError as error:
            raise _failure(*error.get_first_failure(), count) from None
        except SignalException as stop:
            if stop.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + stop.sigval) from None


def _in_one(
    config: RunConfig, name: str, work: Callable[..., None], arguments: tuple[Any, ...], progress: Progress
) -> None:
    """What each of the processes does."""
    # The agent's handlers came with the fork.
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        context = started(config)
        with ending_after_the_cause(name, config.runtime.exchange_seconds, logger.error):
            work(*arguments, progress if context.is_first else silent)
        stop_processes()
    except RecsysError:
        raise
    except Exception as error:
        if (fault := machine_fault(error)) is None:
            raise
        raise fault from error


def _failure(rank: int, failure: ProcessFailure, count: int) -> RecsysError:
    """The failure of one process, of the kind that it was raised as."""
    if isinstance(recorded := failure.error_file_data["message"], dict):
        name, _, says = str(recorded["message"]).partition(": ")
        known: list[type[RecsysError]] = [RecsysError, *RecsysError.__subclasses__()]
        kinds = {kind.__name__: kind for kind in known}
        return kinds[name](says) if name in kinds else RecsysError(str(recorded["message"]))
    how = f"signal {failure.signal_name()}" if failure.exitcode < 0 else f"exit code {failure.exitcode}"
    memory = "; the system ends a process in this way when memory runs out" * (failure.exitcode == -signal.SIGKILL)
    return RecsysError(f"its process {rank} of {count} ended by {how}{memory}")


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
