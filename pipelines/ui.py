"""Serve MLflow on loopback over the recorded runs."""

import argparse
import os
import subprocess
import sys

from pipelines.console import console
from recsys.config import RunConfig
from recsys.errors import DataError, UsageError
from recsys.tracking.history import newest_study
from recsys.tracking.store import TrackingStore
from recsys.tracking.views import study_views


def main(config: RunConfig, arguments: argparse.Namespace) -> int:
    """Print the address and serve until interrupted.

    Raises:
        DataError: nothing has been recorded yet.
        UsageError: runs are recorded on a server, which has pages of its own; or the port is no port.
    """
    store = TrackingStore.in_folder(config.runtime.runs, config.tracking.experiment, config.tracking.uri)
    if store.is_server:
        raise UsageError(f"Runs are recorded on {store.public_uri}; open that address in a browser.")
    if not store.database.is_file():
        raise DataError(f"No runs are recorded in {config.runtime.runs}. Make some with `recsys demo`.")
    if not arguments.port.isdecimal() or not 0 < int(arguments.port) < 65536:
        raise UsageError(f"--port is {arguments.port!r}; expected a number from 1 to 65535.")
    address = f"http://127.0.0.1:{arguments.port}"
    console.print(f"MLflow: {address}  (Ctrl-C ends it)", soft_wrap=True)
    if study := newest_study(store):
        experiment, ablation_id = study
        for view in study_views(ablation_id, (), {}):
            console.print(f"{view.name}: {view.address(address, experiment)}", soft_wrap=True)
    # One worker without job execution: two processes and 0.4 GB instead of fifteen and 2.5 GB.
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri, "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", arguments.port]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return subprocess.run(command, env=environment, check=False).returncode
