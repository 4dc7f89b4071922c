"""A real tracking server on loopback that tests can start, stop and start again on the same port."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

_START_SECONDS = 60.0


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TrackingServer:
    """`mlflow server` with one worker and no job execution, over a SQLite file in `folder`."""

    def __init__(self, folder: Path, store: Path | None = None) -> None:
        self._folder = folder
        self._database = store or folder / "server.db"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> "TrackingServer":
        """Start it and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._database}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True, cwd=self._folder
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"the server did not start: {(self._folder / 'server.log').read_text()[-2000:]}")

    def stop(self) -> None:
        """Kill it and its worker at once, as a crash would."""
        if self._process is not None:
            # Its own process group, which start_new_session made.
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None

    def __enter__(self) -> "TrackingServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
