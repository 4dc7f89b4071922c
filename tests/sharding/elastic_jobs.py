"""torchrun's own agent over processes that are forked: launchers, restarts and signals as they are, no start of Python.

Its agent starts a function as well as a program. Forked from the server of `tests/faults/commands.py`, which has
imported all that a command needs, a job of two processes costs its work alone.
"""

import json
import os
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tests.faults.commands import Moment, _set


def launch(
    nodes: int, processes: int, endpoint: str, restarts: int, words: list[str], moments: list[dict], grace_seconds: int
) -> None:
    """Run a command in so many processes of this launcher, one of so many that meet at an endpoint.

    Args:
        moments: of some ranks, in the job's first start alone: "rank", and what happens as a `Moment`.
        grace_seconds: between SIGTERM and SIGKILL.
    """
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        run_id="job",
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        max_restarts=restarts,
        monitor_interval=0.1,
        start_method="fork",
        local_addr="localhost",
        shutdown_timeout=grace_seconds,
    )
    try:
        elastic_launch(config, _command)(json.dumps(words), json.dumps(moments))
    except ChildFailedError as error:
        for rank, failure in error.failures.items():
            print(f"FAILED rank {rank} exit {failure.exitcode} {failure.message}", flush=True)
        first, _ = error.get_first_failure()
        print(f"FIRST rank {first}", flush=True)
        sys.exit(1)


def _command(words: str, moments: str) -> None:
    for moment in json.loads(moments):
        if moment.pop("rank") == int(os.environ["RANK"]) and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            _set(Moment(**moment))
    from pipelines.cli import main

    code = 70
    try:
        code = main(json.loads(words))
    except SystemExit as ended:
        code = int(ended.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)
