"""A lock between processes: who holds it, until when, and that the kernel frees it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from recsys.errors import BusyError, CannotWriteError
from recsys.locks import held_lock

HOLDER = """
import sys, time
from pathlib import Path
from recsys.locks import held_lock

with held_lock(Path(sys.argv[1]), "The table"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_lock_names_its_holder_and_is_free_the_moment_that_one_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    where = re.escape(f"process {holder.pid} on {os.uname().nodename} since 20")
    with (
        pytest.raises(BusyError, match=f"^The table is being worked on by {where}") as caught,
        held_lock(lock, "The table"),
    ):
        pass
    assert caught.value.exit_code == 75

    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate(timeout=30)
    with held_lock(lock, "The table"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert lock.read_text().strip() == ""


def test_lock_is_waited_for_as_long_as_is_asked(tmp_path: Path) -> None:
    lock, is_held = tmp_path / ".lock", threading.Event()

    def hold() -> None:
        with held_lock(lock, "The table"):
            is_held.set()
            done.wait(0.3)

    done = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait(10)
    with held_lock(lock, "The table", wait_seconds=30):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    thread.join()


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_cannot_be_a_lock_file_is_refused_by_its_path(tmp_path: Path, kind: str) -> None:
    lock = tmp_path / ".lock"
    lock.mkdir() if kind == "folder" else lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CannotWriteError, match=f"^The table needs the lock file {lock}"), held_lock(lock, "The table"):
        pass


def test_lock_that_a_dead_process_signed_does_not_name_it(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lock = tmp_path / ".lock"
    with held_lock(lock, "The table"):
        lock.write_text(json.dumps({"pid": dead.pid, "host": os.uname().nodename, "since": "2011-09-01"}))
        with pytest.raises(BusyError, match=r"^The table is being worked on by another process, which has not signed"):
            held_lock(lock, "The table").__enter__()


def test_lock_is_free_again_after_its_holder_failed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"), held_lock(tmp_path / ".lock", "The table"):
        raise ValueError("broken")
    with held_lock(tmp_path / ".lock", "The table"):
        pass
