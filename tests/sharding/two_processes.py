"""Runs a test's function in two processes, or several, joined by gloo, and hands back what each of them returned.

They are forked from the server that studies fork their arms from, which has imported torch and all that a ranker needs:
a test pays for its work and for no start of Python.
"""

import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from recsys.sharding.processes import ProcessContext, start_processes, stop_processes
from recsys.study.workers import _processes_for

_TIMEOUT = timedelta(seconds=60)


def run_in_two(function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Call `function(context, *arguments)` in both processes; its result must be JSON-able.

    `function` stands at the top of its module, so that the new processes can import it.
    """
    return run_in_several(2, function, folder, *arguments)


def run_in_several(count: int, function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """The same in so many processes."""
    _start(count, _work, (count, function, str(folder), arguments))
    return [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(count)]


def start_in_two(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Call `function(rank, *arguments)` in two processes and wait for both; an error of either is raised here."""
    _start(2, function, arguments)


def _start(count: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    method = _processes_for("cpu").get_start_method()
    multiprocessing.start_processes(function, args=arguments, nprocs=count, start_method=method)


def _work(rank: int, count: int, function: Callable[..., Any], folder: str, arguments: tuple) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = dist.FileStore(str(Path(folder, "meeting-point")), count)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=_TIMEOUT)
    context: ProcessContext = start_processes("cpu")
    result = function(context, *arguments)
    Path(folder, f"result-{rank}.json").write_text(json.dumps(result))
    dist.barrier()
    stop_processes()
