"""MLflow's own server on loopback over a SQLite store, and the addresses of a study's chart pages on it."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from recsys.errors import BusyError, DataError, ServiceError, UsageError
from recsys.tracking.chart_views import study_views
from recsys.tracking.store import TrackingStore
from recsys.tracking.studies import find_study

_HOST = "127.0.0.1"
_START_SECONDS, _GRACE_SECONDS = 120.0, 10.0
_POLL_SECONDS = 0.3


def address_of(store: TrackingStore, port: int) -> str:
    """Where the store's pages are, or will be once `running_server` serves them."""
    return store.public_uri.rstrip("/") if store.is_server else f"http://{_HOST}:{port}"


def chart_pages(store: TrackingStore, base: str, wanted: str) -> dict[str, str]:
    """Return the addresses of a study's chart pages by name; none where no study is recorded and none is wanted.

    Args:
        base: the server's address.
        wanted: an id of a study, or its beginning; "" for the newest.

    Raises:
        DataError: the wanted study is not recorded.
    """
    try:
        study = find_study(store, wanted)
    except DataError:
        if wanted:
            raise
        return {}
    if study.own is None:
        # The prepared pages come with the verdict; until then there are only the runs themselves.
        return {study.ablation_id: f"{base}/#/experiments/{study.experiment_id}/runs"}
    views = study_views(study.ablation_id, (), {})
    return {view.name: view.address(base, study.experiment_id) for view in views}


@contextmanager
def running_server(store: TrackingStore, port: int) -> Iterator["UiServer"]:
    """Start MLflow's server, yield it when it listens, and end it with all its processes.

    Raises:
        UsageError: this user may not listen on the port.
        BusyError: another program listens there, or began to at the same time; names it.
        ServiceError: the server did not start.
    """
    _require_free(port)
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = UiServer(psutil.Popen(_command(store, port), env=environment), port)
    try:
        server.wait_until_up()
        yield server
    finally:
        server.end()


def _command(store: TrackingStore, port: int) -> list[str]:
    # One worker without job execution: two processes and 0.4 GB instead of fifteen and 2.5 GB.
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri, "--workers", "1"]
    return [*command, "--host", _HOST, "--port", str(port)]


class UiServer:
    """MLflow's server: a process that starts another one, which listens, and may outlive it."""

    def __init__(self, first: psutil.Popen, port: int) -> None:
        self._first, self._port = first, port
        self._address = f"http://{_HOST}:{port}"
        self._seen: dict[int, psutil.Process] = {first.pid: psutil.Process(first.pid)}

    def wait_until_up(self) -> None:
        """Return when one of its processes listens.

        Raises:
            BusyError: a process of another server listens there instead.
            ServiceError: it ended, or took longer than two minutes.
        """
        deadline = time.monotonic() + _START_SECONDS
        while not self._listens():
            if (other := _listener(self._port)) is not None and not self._listens():
                raise _busy(self._port, other)
            if self._first.poll() is not None or time.monotonic() > deadline:
                raise ServiceError(f"The MLflow server at {self._address} did not start; its output is above.")
            time.sleep(_POLL_SECONDS)

    def wait(self) -> None:
        """Return never: serve until this process is interrupted.

        Raises:
            ServiceError: the server ended.
        """
        # Not `Popen.wait`, which a Ctrl-C that reaches this process alone does not interrupt.
        while self._listens():
            time.sleep(1)
        raise ServiceError(f"The MLflow server at {self._address} has ended; its output is above. Start it again.")

    def end(self) -> None:
        """Terminate all its processes, and kill those that do not end in time."""
        processes = self._processes()
        for each in processes:
            with suppress(psutil.NoSuchProcess):
                each.terminate()
        for each in psutil.wait_procs(processes, timeout=_GRACE_SECONDS)[1]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self._first.wait()

    def _listens(self) -> bool:
        return any(_is_listening(each, self._port) for each in self._processes())

    def _processes(self) -> list[psutil.Process]:
        # A process whose parent has ended is no child of anybody here any more: those once seen are kept.
        with suppress(psutil.NoSuchProcess):
            self._seen |= {each.pid: each for each in self._seen[self._first.pid].children(recursive=True)}
        return [each for each in self._seen.values() if each.is_running()]


def _require_free(port: int) -> None:
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


def _listener(port: int) -> psutil.Process | None:
    """The process that listens on the port, as far as this user may know it."""
    return next((each for each in psutil.process_iter() if _is_listening(each, port)), None)


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
