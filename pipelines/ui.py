"""Serve MLflow on loopback over the recorded runs, and lead straight to a study's chart page."""

import argparse
import os
import socket
import subprocess
import sys
import time
import webbrowser
from dataclasses import replace

from pipelines.console import console, warn
from pipelines.recording import recorded_store
from recsys.config import RunConfig
from recsys.errors import BusyError, DataError, ServiceError, UsageError
from recsys.tracking.store import TrackingStore, require_answer
from recsys.tracking.studies import find_study
from recsys.tracking.views import study_views

_HOST = "127.0.0.1"
_START_SECONDS = 60.0
_SECONDS_BETWEEN_LOOKS = 0.3


def main(config: RunConfig, arguments: argparse.Namespace) -> int:
    """Print the addresses, and serve until interrupted; a server that runs already is only pointed to.

    Raises:
        DataError: nothing has been recorded yet, or no such study.
        UsageError: the port is no port.
        BusyError: another program listens on the port.
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
    return _serve(store, base, arguments.port, page if arguments.open else "")


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
        except OSError as error:
            raise BusyError(
                f"Port {port} of {_HOST} is taken ({error.strerror}), perhaps by another `recsys ui`. Open the address "
                f"above, or choose a free port, such as --port {port % 65535 + 1}."
            ) from error


def _serve(store: TrackingStore, base: str, port: str, page: str) -> int:
    # One worker without job execution: two processes and 0.4 GB instead of fifteen and 2.5 GB.
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri, "--workers", "1"]
    command += ["--host", _HOST, "--port", port]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with subprocess.Popen(command, env=environment) as server:
        try:
            if page:
                _open_once_up(server, replace(store, uri=base), page)
            # Not `wait`, which a Ctrl-C that reaches this process alone does not interrupt.
            while (code := server.poll()) is None:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            return code
        finally:
            server.terminate()


def _open_once_up(server: subprocess.Popen[bytes], served: TrackingStore, page: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            require_answer(served)
        except ServiceError:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        else:
            _open(page)
            return


def _open(page: str) -> None:
    if not webbrowser.open(page):
        warn(f"No browser could be started here; open {page} in one.")
