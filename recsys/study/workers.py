"""Jobs in processes of their own, several at once: their progress, how they end, how they are stopped.

Every job gets a process that is forked from a server which has imported everything and run nothing, so that it
starts at once, from the same state whatever ran before it, and with a peak of memory of its own. Where a GPU
computes it is spawned instead: fbgemm asks for GPUs as it is imported, and CUDA does not survive a fork. A job that
fails is noted and the others go on. When the caller is stopped, each gets its signal and time to keep a checkpoint;
when the caller dies, they stop by themselves.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from recsys.errors import RecsysError
from recsys.machine_faults import machine_fault
from recsys.progress import Progress, silent
from recsys.sharding.processes import CUDA, device_kind, gpus

_PRELOADED = ["recsys.study.arm", "recsys.study.tuning", "mlflow.store.tracking.sqlalchemy_store"]
_SAFE_PATH, _VISIBLE = "PYTHONSAFEPATH", "CUDA_VISIBLE_DEVICES"
_GRACE_SECONDS = 25.0
_OUR_BUG = 70


@dataclass(frozen=True)
class Job:
    """A function to call in a process of its own.

    Attributes:
        work: a function of a module; it is called with `arguments`, all of which can be pickled, and a `Progress`.
        log: file for what it prints; a traceback too.
    """

    name: str
    work: Callable[..., None]
    arguments: tuple[Any, ...]
    log: Path


@dataclass(frozen=True)
class Failure:
    """A job that did not end well: its exit code and the message for the user."""

    name: str
    exit_code: int
    message: str


@dataclass
class _Running:
    job: Job
    process: ForkServerProcess | SpawnProcess
    pipe: Connection
    gpu: str | None
    outcome: tuple[Any, ...] | None = None


def run_side_by_side(
    jobs: Sequence[Job], processes: int, progress: Progress, label: str, device: str, per_job: int = 1
) -> list[Failure]:
    """Run all jobs, `processes` at a time, in the order given; return those that failed.

    Args:
        label: under which `progress` gets the number of jobs that have ended; the jobs report under their own.
        device: that the jobs compute on, as `device_kind` takes it.
        per_job: how many processes a job starts for itself, each on a GPU of its own where there are GPUs.

    Raises:
        KeyboardInterrupt, ...: whatever stops the caller stops the jobs first.
        UsageError: there is no such device.
    """
    context = _processes_for(device_kind(device))
    waiting, running, failures = list(jobs), list[_Running](), list[Failure]()
    divided = _gpus(processes, gpus(device), per_job)
    with _stopping(running):
        while waiting or running:
            progress(label, len(jobs) - len(waiting) - len(running), len(jobs))
            while waiting and len(running) < processes:
                running.append(_started(context, waiting.pop(0), _least_used(divided, running)))
            wait([source for each in running for source in (each.pipe, each.process.sentinel)])
            for each in running:
                _receive(each, progress)
            for each in [each for each in running if each.process.exitcode is not None]:
                _receive(each, progress)
                running.remove(each)
                each.pipe.close()
                if (failure := _failure(each)) is not None:
                    failures.append(failure)
    progress(label, len(jobs), len(jobs))
    return failures


def _processes_for(kind: str) -> ForkServerContext | SpawnContext:
    """How to start processes that compute on a kind of device; they look for modules where this process does."""
    if kind == CUDA:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with _environment_of_a_start(None):
        forkserver.ensure_running()
    return context


@contextmanager
def _environment_of_a_start(gpu: str | None) -> Iterator[None]:
    """Within it, a Python that starts finds its modules where this one does, and sees that GPU alone if one is given.

    The driver reads which GPUs it may see once, and fbgemm makes it do so as it is imported.
    """
    wanted = {} if gpu is None else {_VISIBLE: gpu}
    if not {"", os.getcwd()} & set(sys.path):
        # Python would put the working folder first, and a user's own `random.py` in the place of the library's.
        wanted[_SAFE_PATH] = "1"
    before, main = {name: os.environ.get(name) for name in wanted}, sys.modules["__main__"]
    os.environ.update(wanted)
    # A child would run the caller's script again up to the call that started it. It needs nothing of it: what a job
    # takes is in modules.
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def free_processes(threads: int, jobs: int, device: str, per_job: int = 1) -> int:
    """How many jobs to run at once where the configuration does not say: a GPU each, or as many as there are cores for.

    Args:
        threads: that each job computes with.
        device, per_job: as for `run_side_by_side`.
    """
    room = gpus(device) // per_job if gpus(device) else len(os.sched_getaffinity(0)) // threads
    return max(1, min(room, jobs))


def _gpus(processes: int, found: int, per_job: int) -> list[str]:
    """The GPUs to divide among the jobs, as many for each as it has processes; none where one job may have them all."""
    if processes == 1 or found < 2:
        return []
    visible = os.environ.get(_VISIBLE)
    each = visible.split(",") if visible else [str(number) for number in range(found)]
    return [",".join(each[start : start + per_job]) for start in range(0, found - per_job + 1, per_job)]


def _least_used(gpus: Sequence[str], running: Sequence[_Running]) -> str | None:
    used = [each.gpu for each in running]
    return min(gpus, key=used.count, default=None)


def _started(context: ForkServerContext | SpawnContext, job: Job, gpu: str | None) -> _Running:
    ours, theirs = context.Pipe()
    process = context.Process(target=_in_child, args=(theirs, job), name=job.name)
    with _environment_of_a_start(gpu):
        process.start()
    theirs.close()
    return _Running(job, process, ours, gpu)


def _receive(each: _Running, progress: Progress) -> None:
    """Pass on the progress that the job has reported, and keep how it ended."""
    with suppress(EOFError, ConnectionResetError):
        while each.pipe.poll():
            kind, *words = each.pipe.recv()
            if kind == "progress":
                progress(*words)
            else:
                each.outcome = (kind, *words)


def _failure(each: _Running) -> Failure | None:
    match each.outcome:
        case ("finished",):
            return None
        case ("failed", code, message):
            return Failure(each.job.name, code, message)
    code = each.process.exitcode or 0
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    memory = "; the system ends a process in this way when memory runs out" if code == -signal.SIGKILL else ""
    return Failure(each.job.name, _OUR_BUG, f"its process ended by {how}{memory}")


@contextmanager
def _stopping(running: list[_Running]) -> Iterator[None]:
    """Leave no process behind, whatever ends the block; each may finish its step and keep a checkpoint."""
    try:
        yield
    except BaseException as stop:
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM
        for each in running:
            with suppress(OSError):
                each.pipe.send(int(number))
        _await(running, time.monotonic() + _GRACE_SECONDS)
        raise
    finally:
        for each in running:
            each.process.kill()
            each.process.join()


def _await(running: Sequence[_Running], deadline: float) -> None:
    while alive := [each for each in running if each.process.exitcode is None]:
        if time.monotonic() > deadline:
            return
        wait([each.process.sentinel for each in alive], timeout=0.1)
        for each in alive:
            _receive(each, silent)  # a full pipe would hold up the one who ends


def _in_child(pipe: Connection, job: Job) -> None:
    # Ctrl-C in a terminal reaches every process of the group, and the caller passes it on: once is enough.
    os.setsid()
    job.log.parent.mkdir(parents=True, exist_ok=True)
    log = job.log.open("a", buffering=1)
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    sys.stdout = sys.stderr = log
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_forward_signal, args=(pipe,), daemon=True).start()
    try:
        job.work(*job.arguments, partial(_send, pipe, "progress"))  # a job of several processes passes it on
        _send(pipe, "finished")
    except RecsysError as error:
        _send(pipe, "failed", error.exit_code, str(error))
    except Exception as error:
        traceback.print_exc()
        fault = machine_fault(error)
        code, message = (fault.exit_code, str(fault)) if fault else (_OUR_BUG, f"{type(error).__name__}: {error}")
        _send(pipe, "failed", code, message)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _send(pipe: Connection, *words: Any) -> None:
    with suppress(OSError):  # a caller that died no longer listens; `_forward_signal` ends the work
        pipe.send(words)


def _forward_signal(pipe: Connection) -> None:
    """Pass the caller's signal on to this process; its death counts as SIGTERM."""
    try:
        number = pipe.recv()
    except (EOFError, OSError):
        number = signal.SIGTERM
    os.kill(os.getpid(), number)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
