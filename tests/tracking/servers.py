"""A real tracking server on loopback that tests can start, stop and start again on the same port."""

import os
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.faults.commands import Commands

_START_SECONDS = 60.0


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TrackingServer:
    """MLflow's application without job execution, over a SQLite file in `folder`, as a fork that imports it once."""

    def __init__(self, commands: Commands, folder: Path, store: Path | None = None) -> None:
        self._commands, self._folder = commands, folder
        self._database = store or folder / "server.db"
        self._process = 0
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> "TrackingServer":
        """Start it and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        log, function = self._folder / "server.log", f"{serve.__module__}:{serve.__name__}"
        arguments = [str(self._database), str(self._folder), self.port]
        self._process = self._commands.start_function(function, arguments, log)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Kill it at once, as a crash would."""
        if self._process:
            os.kill(self._process, signal.SIGKILL)
            self._commands.wait(self._process, self._folder / "server.log")
            self._process = 0

    def __enter__(self) -> "TrackingServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(database: str, folder: str, port: int) -> None:
    """What `mlflow server` does with these words, in this process."""
    os.chdir(folder)
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{database}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": f"{folder}/artifacts",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    import uvicorn
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(f"sqlite:///{database}", None, "mlflow-artifacts:/")
    uvicorn.run("mlflow.server.fastapi_app:app", host="127.0.0.1", port=port, log_level="warning")
