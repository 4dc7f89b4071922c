"""Serve MLflow on loopback over the recorded runs, and lead straight to a study's chart page."""

import argparse
import os
import socket
import sys
import time
import webbrowser
from contextlib import suppress

import psutil

from recsys.config import RunConfig
from recsys.errors import BusyError, DataError, ServiceError, UsageError
from recsys.run.record import recorded_store
from recsys.tracking.chart_views import study_views
from recsys.tracking.store import TrackingStore
from recsys.tracking.studies import find_study

from .console import console, warn

_HOST = "127.0.0.1"
_START_SECONDS, _GRACE_SECONDS = 120.0, 10.0
_SECONDS_BETWEEN_LOOKS = 0.3


def main(config: RunConfig, arguments: argparse.Namespace) -> int:
    """Print the addresses, and serve until interrupted; a server that runs already is only pointed to.

    Raises:
        DataError: nothing has been recorded yet, or no such study.
        UsageError: the port is no port.
        BusyError: another program listens on the port; names it.
        ServiceError: the server did not start, or ended.
    """
    store = recorded_store(config)
    if not arguments.port.isdecimal() or not 0 < int(arguments.port) < 65536:
        raise UsageError(f"--port is {arguments.port!r}; expected a number from 1 to 65535.")
    base = store.public_uri.rstrip("/") if store.is_server else f"http://{_HOST}:{arguments.port}"
    console.print(f"MLflow: {base}{'' if store.is_server else '  (Ctrl-C ends it)'}", soft_wrap=True, markup=False)
    pages = _pages(store, base, arguments.study)
    for name, address in pages.items():
        console.print(f"{name}: {address}", soft_wrap=True, markup=False)
    page = next(iter(pages.values()), base)
    if store.is_server:
        if arguments.open:
            _open(page)
        return 0
    _refuse_taken_port(int(arguments.port))
    return _serve(store, base, int(arguments.port), page if arguments.open else "")


def _pages(store: TrackingStore, base: str, wanted: str) -> dict[str, str]:
    """The chart pages of the study, by their names; none where there is no study and none is wanted."""
    try:
        study = find_study(store, wanted)
    except DataError:
        if wanted:
            raise
        return {}
    views = study_views(study.ablation_id, (), {})
    if study.own is None:
        # The prepared pages come with the verdict; until then the runs themselves are to be seen.
        return {study.ablation_id: f"{base}/#/experiments/{study.experiment_id}/runs"}
    return {view.name: view.address(base, study.experiment_id) for view in views}


def _refuse_taken_port(port: int) -> None:
    with socket.socket() as probe:
        # As servers do it: a port that was closed a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except PermissionError as error:
            raise UsageError(
                f"--port {port} may not be used by you ({error.strerror}); expected 1024 or more."
            ) from error
        except OSError as error:
            raise _busy(port, _listener(port)) from error


def _busy(port: int, holder: psutil.Process | None) -> BusyError:
    by = f"by process {holder.pid} ({_named(holder)})" if holder else "by a program of another user"
    return BusyError(
        f"Port {port} of {_HOST} is taken {by}. Open http://{_HOST}:{port}, end that process, or choose a free port, "
        f"such as --port {port % 65535 + 1}."
    )


def _serve(store: TrackingStore, base: str, port: int, page: str) -> int:
    """Serve until interrupted.

    Raises:
        BusyError: another server, which was started at the same time, was first.
        ServiceError: the server did not start, or ended.
    """
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = _Server(psutil.Popen(_command(store, port), env=environment))
    try:
        _wait_until_up(server, base, port)
        if page:
            _open(page)
        # Not `wait`, which a Ctrl-C that reaches this process alone does not interrupt.
        while server.listens_on(port):
            time.sleep(1)
        raise ServiceError(f"The MLflow server at {base} has ended; what it said stands above. Start it again.")
    finally:
        server.end()


def _command(store: TrackingStore, port: int) -> list[str]:
    # One worker without job execution: two processes and 0.4 GB instead of fifteen and 2.5 GB.
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri, "--workers", "1"]
    return [*command, "--host", _HOST, "--port", str(port)]


class _Server:
    """MLflow's server: a process that starts another one, which listens, and may stay when it does so no more."""

    def __init__(self, first: psutil.Popen) -> None:
        self._first = first
        self._seen: dict[int, psutil.Process] = {first.pid: psutil.Process(first.pid)}

    def listens_on(self, port: int) -> bool:
        """Whether one of its processes does."""
        return any(_is_listening(each, port) for each in self._processes())

    @property
    def is_running(self) -> bool:
        """Whether the process that was started is there."""
        return self._first.poll() is None

    def end(self) -> None:
        """End every process of it, those that do not listen to a request by force."""
        processes = self._processes()
        for each in processes:
            with suppress(psutil.NoSuchProcess):
                each.terminate()
        for each in psutil.wait_procs(processes, timeout=_GRACE_SECONDS)[1]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self._first.wait()

    def _processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            self._seen |= {each.pid: each for each in self._seen[self._first.pid].children(recursive=True)}
        return [each for each in self._seen.values() if each.is_running()]


def _wait_until_up(server: _Server, base: str, port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not server.listens_on(port):
        if (other := _listener(port)) is not None and not server.listens_on(port):
            raise _busy(port, other)
        if not server.is_running or time.monotonic() > deadline:
            raise ServiceError(f"The MLflow server at {base} did not start; what it said stands above.")
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _listener(port: int) -> psutil.Process | None:
    """The process that listens on the port, as far as this user may know it."""
    for each in psutil.process_iter():
        if _is_listening(each, port):
            return each
    return None


def _is_listening(process: psutil.Process, port: int) -> bool:
    try:
        found = process.net_connections(kind="tcp4")
    except psutil.Error:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr in ((_HOST, port), ("0.0.0.0", port)) for each in found)


def _named(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:4]) or process.name()
    except psutil.Error:
        return "which has ended since"


def _open(page: str) -> None:
    if not webbrowser.open(page):
        warn(f"No browser could be started here; open {page} in one.")
