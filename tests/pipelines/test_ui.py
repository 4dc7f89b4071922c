"""`recsys ui` ends when its server does, and whoever comes second is told who was first; never does it hang.

In the place of MLflow's server stands a small one: a process that starts another, which listens, as MLflow does it.
"""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipelines import ui
from pipelines.cli import main
from recsys.tracking import ui_server
from recsys.tracking.store import TrackingStore
from tests.tracking.servers import free_port

# Listens on the port after a while, and stays there when it cannot, and when it does so no more.
INNER = """
import socket, sys, time
port, wait_seconds, serve_seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
time.sleep(wait_seconds)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try:
    listener.bind(("127.0.0.1", port))
    listener.listen()
    time.sleep(serve_seconds)
    listener.close()
except OSError:
    pass
time.sleep(600)
"""
OUTER = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A runs folder with a store in which nothing is recorded."""
    TrackingStore.in_folder(tmp_path, "shop").open()
    return tmp_path


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


def serve(monkeypatch: pytest.MonkeyPatch, wait_seconds: float, serve_seconds: float) -> None:
    def command(store: TrackingStore, port: int) -> list[str]:
        inner = ["-c", INNER, str(port), str(wait_seconds), str(serve_seconds)]
        return [sys.executable, "-c", OUTER, *inner]

    monkeypatch.setattr(ui_server, "_command", command)


def test_the_second_of_two_that_start_at_once_ends_and_names_the_first(runs: Path, monkeypatch, capsys):
    port = free_port()
    with socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind(("127.0.0.1", port))  # as early as the second, which listens a little later
        listens = threading.Timer(1.0, first.listen)
        listens.start()
        serve(monkeypatch, wait_seconds=3, serve_seconds=600)
        began = time.monotonic()
        assert main(["ui", "--port", str(port), f"runtime.runs={runs}"]) == 75
        listens.join()
    assert time.monotonic() - began < 20
    message = capsys.readouterr().err
    assert f"Port {port} of 127.0.0.1 is taken by process {psutil.Process().pid} (" in message
    assert (
        f"Open http://127.0.0.1:{port}, end that process, or choose a free port, such as --port {port + 1}" in message
    )


@pytest.mark.parametrize("serve_seconds", [1.0, 3.0])
def test_a_server_that_stops_listening_ends_the_command_with_69(runs: Path, monkeypatch, capsys, serve_seconds: float):
    port = free_port()
    serve(monkeypatch, wait_seconds=0, serve_seconds=serve_seconds)
    assert main(["ui", "--port", str(port), f"runtime.runs={runs}"]) == 69
    assert f"The MLflow server at http://127.0.0.1:{port} has ended" in capsys.readouterr().err


def test_a_server_that_dies_at_its_start_ends_the_command_with_69(runs: Path, monkeypatch, capsys):
    monkeypatch.setattr(ui_server, "_command", lambda store, port: [sys.executable, "-c", "raise SystemExit(3)"])
    assert main(["ui", "--port", str(free_port()), f"runtime.runs={runs}"]) == 69
    assert "did not start; its output is above" in capsys.readouterr().err


def test_a_server_that_never_listens_is_not_waited_for_for_ever(runs: Path, monkeypatch, capsys):
    monkeypatch.setattr(ui_server, "_START_SECONDS", 2.0)
    serve(monkeypatch, wait_seconds=600, serve_seconds=0)
    assert main(["ui", "--port", str(free_port()), f"runtime.runs={runs}"]) == 69
    assert "did not start" in capsys.readouterr().err


def test_ctrl_c_ends_the_server_with_all_its_processes(runs: Path, monkeypatch, capsys):
    serve(monkeypatch, wait_seconds=0, serve_seconds=600)
    opened = []

    def interrupt(page: str) -> None:
        opened.append(page)
        raise KeyboardInterrupt

    monkeypatch.setattr(ui, "_open", interrupt)
    port = free_port()
    assert main(["ui", "--open", "--port", str(port), f"runtime.runs={runs}"]) == 130
    assert opened == [f"http://127.0.0.1:{port}"]


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_a_port_that_is_none_is_refused(runs: Path, port: str, capsys):
    assert main(["ui", f"--port={port}", f"runtime.runs={runs}"]) == 2
    assert f"--port is '{port}'; expected a number from 1 to 65535" in capsys.readouterr().err
