"""Commands in processes of their own that die, stop or run out of disk at a chosen moment.

A server process imports everything once and forks for every command, so that a test of a kill costs the command and no
start of Python; what a study forks its arms from is such a fork as well. Pictures are not drawn: how they look is
tested elsewhere. It is run as `python -m tests.faults.commands`, with one JSON request a line, and so is one answer.
"""

import gc
import importlib
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import forkserver, util
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

from recsys.files import fingerprint_of, write_text_atomically
from tests.faults.disk_watch import let_watch
from tests.fresh_stores import copy_fresh_stores
from tests.pictures import draw_no_pictures

ROOT = Path(__file__).parents[2]
# What the tests' commands choose; a fork that composed them itself would read twenty files, twice for a study.
_CHOSEN = ("training_mode=end_to_end", "training_mode=frozen_tower", "training_mode=staged_tables_first")
# What a command imports when it first needs it; every fork would do so anew, for longer than its work takes.
_IMPORTED_LATE = ("mlflow.store.tracking.sqlalchemy_store", "alembic.command", "pyarrow.dataset", "mako.template")


@dataclass(frozen=True)
class Moment:
    """The `call`-th call of a function that a module knows by a name, and what happens to the process there.

    Attributes:
        function: "module:name", as the calling module knows it.
        then: before the call comes SIGKILL ("kill"), SIGTERM ("end") or SIGSTOP ("stop"), or SIGTERM to the process
            that started this one ("preempt"); or files may not grow from there ("full").
    """

    function: str
    call: int = 1
    then: str = "kill"


@dataclass(frozen=True)
class Ending:
    """How a command ended: its exit code (the negative signal where one killed it) and what it printed."""

    code: int
    printed: str


class Commands:
    """The server, from the side of a test; a context."""

    def __enter__(self) -> "Commands":
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.commands"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate()

    def start(self, words: Sequence[str], log: Path, moment: Moment | None = None, watch: Path | None = None) -> int:
        """Start a command; return its process id once it runs.

        Args:
            watch: the socket of a `DiskWatch` that is to see every write of it.
        """
        request = {"words": list(words), "log": str(log), "moment": asdict(moment) if moment else None}
        return int(self._ask(request | {"watch": str(watch) if watch else None})["pid"])

    def start_function(self, function: str, arguments: Sequence[Any], log: Path) -> int:
        """Call "module:name" with JSON-able arguments in a process of its own; return its id once it runs."""
        return int(self._ask({"function": function, "arguments": list(arguments), "log": str(log)})["pid"])

    def wait(self, pid: int, log: Path) -> Ending | None:
        """Wait until the command ends, or stops at its moment: then None."""
        answer = self._ask({"wait": pid})
        return None if answer["stopped"] else Ending(answer["code"], log.read_text())

    def run(self, words: Sequence[str], log: Path, moment: Moment | None = None) -> Ending:
        """Run a command to its end."""
        ending = self.wait(self.start(words, log, moment), log)
        assert ending is not None
        return ending

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer


def _serve() -> None:
    import torch
    from mlflow.utils import requirements_utils

    from recsys.config.compose import compose_config

    draw_no_pictures()
    # Reads the names of all installed packages, which takes as long as a small training.
    requirements_utils._init_modules_to_packages_map()
    for name in ("recsys.study.ablate", "pipelines.cli", "pipelines.daily", "pipelines.sync", *_IMPORTED_LATE):
        importlib.import_module(name)
    torch.set_num_threads(1)
    for choices in ([], *([each] for each in _CHOSEN)):
        compose_config(["experiment=smoke", *choices])
    # A fork's collections pass over what stands here already, and copy none of its pages.
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory() as folder:
        _remember_code_versions(Path(folder))
        copy_fresh_stores(Path(folder) / "tables.db")
        for line in sys.stdin:
            request = json.loads(line)
            answer = _waited(request["wait"]) if "wait" in request else {"pid": _forked(request)}
            print(json.dumps(answer), flush=True)
    # Else libraries take what is frozen for leaks, and say so at the end.
    gc.unfreeze()


def _remember_code_versions(folder: Path) -> None:
    """Let the first fork that reads all code for a key tell the others, which would take seconds for the same."""
    from recsys.run import result_keys

    read = result_keys._code_of

    def remembered(entries: tuple[str, ...]) -> str:
        place = folder / fingerprint_of(entries)
        if not place.exists():
            write_text_atomically(place, read(entries))
        return place.read_text()

    result_keys._code_of = remembered  # type: ignore[assignment]


def _waited(pid: int) -> dict[str, Any]:
    _, status = os.waitpid(pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        return {"stopped": True}
    return {"stopped": False, "code": os.waitstatus_to_exitcode(status)}


def _forked(request: dict[str, Any]) -> int:
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if child := os.fork():
        os.close(log)
        return child
    code = 70
    try:
        for stream in (1, 2):
            os.dup2(log, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = _called(request) if "function" in request else _commanded(request)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _called(request: dict[str, Any]) -> int:
    module, _, name = request["function"].partition(":")
    getattr(importlib.import_module(module), name)(*request["arguments"])
    return 0


def _commanded(request: dict[str, Any]) -> int:
    if request["words"][0] == "ablate":
        fork_the_server_of_arms()
    if request["words"][0] == "daily":
        fork_the_process_of_golden_rows()
    if request["moment"]:
        _set(Moment(**request["moment"]))
    if request["watch"]:
        let_watch(Path(request["watch"]))
    from pipelines.cli import main

    return main(request["words"])


def fork_the_server_of_arms() -> None:
    """Start the server of `multiprocessing` as a fork of this process, which has imported all that arms need."""

    def fork(_: object, words: Sequence[str], kept: Sequence[int]) -> int:
        if child := os.fork():
            return child
        # The server ends when no process has the other end of its pipe; what this one inherited counts.
        for number in set(map(int, os.listdir("/proc/self/fd"))) - {0, 1, 2, *kept}:
            with suppress(OSError):
                os.close(number)
        exec(words[-1], {})
        os._exit(0)

    original, util.spawnv_passfds = util.spawnv_passfds, fork
    forkserver.ensure_running()
    util.spawnv_passfds = original


def fork_the_process_of_golden_rows() -> None:
    """Score a night's golden rows in a fork where a fresh Python would import everything anew."""
    from recsys.nightly import golden_rows

    def run(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if not (child := os.fork()):
            code = 70
            try:
                _, _, _, module, *sys.argv[1:] = command
                runpy.run_module(module, run_name="__main__")
                code = 0
            except SystemExit as ended:
                code = int(ended.code or 0)
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        return subprocess.CompletedProcess(list(command), os.waitstatus_to_exitcode(status), "", "")

    golden_rows.subprocess = SimpleNamespace(  # type: ignore[assignment]
        run=run, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
    )


def _set(moment: Moment) -> None:
    module, _, name = moment.function.partition(":")
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for step in path:
        owner = getattr(owner, step)
    original, calls = getattr(owner, last), 0

    def watched(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == moment.call:
            _happen(moment.then)
        return original(*arguments, **options)

    setattr(owner, last, watched)


def _happen(then: str) -> None:
    if then == "full":
        # Python ignores the signal that comes with it, so a write fails as it does on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
    elif then == "preempt":
        os.kill(os.getppid(), signal.SIGTERM)
    else:
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "end": signal.SIGTERM, "stop": signal.SIGSTOP}[then])


if __name__ == "__main__":
    _serve()
