"""Stages may be started at any time, by anyone, any number of times; some starters die."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys.errors import CannotWriteError, DataError
from recsys.scheduling.stage import (
    RECEIPT_NAME,
    Stage,
    input_fingerprint,
    is_up_to_date,
    run_stage,
)

STAGE = Stage("prepare", inputs={"sales": "sha256:0a"}, parameters={"days": 90}, code_version="1")

# A starter in a process of its own: signs the log when its work begins and ends, and works until told to stop.
STARTER = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from recsys.errors import RecsysError
    from recsys.scheduling.stage import Stage, run_stage

    folder = Path(sys.argv[1])

    def work(output):
        (output / "half").write_text("the first half")
        with (folder / "log").open("a") as log:
            log.write("begun\\n")
        while not (folder / "finish").exists():
            time.sleep(0.01)
        (output / "whole").write_text("all of it")

    try:
        stage = Stage("prepare", {"sales": "sha256:0a"}, {"days": 90}, "1")
        print("run" if run_stage(stage, folder / "encoded", work).was_run else "up to date")
    except RecsysError as error:
        print(error)
        sys.exit(error.exit_code)
""")


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", STARTER, str(folder)], stdout=subprocess.PIPE, text=True)


def wait_for(condition: Path, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition.exists():
        assert time.monotonic() < end, f"{condition} did not appear"
        time.sleep(0.01)


def write_output(folder: Path) -> None:
    (folder / "rows").write_text("1,2,3")


def test_same_key_is_done_once_and_another_key_again(tmp_path: Path) -> None:
    calls = []

    def work(folder: Path) -> None:
        calls.append(folder)
        write_output(folder)

    first = run_stage(STAGE, tmp_path / "encoded", work)
    again = run_stage(STAGE, tmp_path / "encoded", work)
    other = run_stage(Stage("prepare", STAGE.inputs, {"days": 91}, "1"), tmp_path / "encoded", work)

    assert (first.was_run, again.was_run, other.was_run) == (True, False, True)
    assert len(calls) == 2
    assert first.key == again.key != other.key


@pytest.mark.parametrize(
    "changed",
    [
        Stage("train", {"sales": "sha256:0a"}, {"days": 90}, "1"),
        Stage("prepare", {"sales": "sha256:0b"}, {"days": 90}, "1"),
        Stage("prepare", {"prices": "sha256:0a"}, {"days": 90}, "1"),
        Stage("prepare", {"sales": "sha256:0a"}, {"days": 91}, "1"),
        Stage("prepare", {"sales": "sha256:0a"}, {"days": 90}, "2"),
    ],
)
def test_key_changes_with_everything_that_the_output_follows_from(changed: Stage) -> None:
    assert changed.key != STAGE.key


def test_receipt_says_what_was_made_from_what(tmp_path: Path) -> None:
    run_stage(STAGE, tmp_path / "encoded", write_output)

    receipt = json.loads((tmp_path / "encoded" / RECEIPT_NAME).read_text())
    assert receipt["key"] == STAGE.key
    assert receipt["inputs"] == {"sales": "sha256:0a"}
    assert receipt["files"] == {"rows": 5}
    assert receipt["pid"] == os.getpid()


@pytest.mark.parametrize("damage", ["a file gone", "a file cut", "receipt torn", "receipt gone"])
def test_damaged_output_is_made_again(tmp_path: Path, damage: str) -> None:
    final = tmp_path / "encoded"
    run_stage(STAGE, final, write_output)
    if damage == "a file gone":
        (final / "rows").unlink()
    elif damage == "a file cut":
        (final / "rows").write_text("1,2")
    elif damage == "receipt torn":
        (final / RECEIPT_NAME).write_text((final / RECEIPT_NAME).read_text()[:40])
    else:
        (final / RECEIPT_NAME).unlink()

    assert not is_up_to_date(STAGE, final)
    assert run_stage(STAGE, final, write_output).was_run
    assert (final / "rows").read_text() == "1,2,3"


def test_failed_work_keeps_the_output_before_it_and_frees_the_lock(tmp_path: Path) -> None:
    final = tmp_path / "encoded"
    run_stage(STAGE, final, write_output)

    def fail(folder: Path) -> None:
        (folder / "rows").write_text("9")
        raise DataError("row 7 is torn")

    newer = Stage("prepare", {"sales": "sha256:0b"}, {"days": 90}, "1")
    with pytest.raises(DataError, match="row 7 is torn"):
        run_stage(newer, final, fail)

    assert (final / "rows").read_text() == "1,2,3"
    assert run_stage(newer, final, write_output).was_run


def test_second_of_two_starters_is_told_who_holds_it_and_the_third_finds_it_done(tmp_path: Path) -> None:
    holder = start(tmp_path)
    wait_for(tmp_path / "log")

    second = start(tmp_path)
    message, _ = second.communicate(timeout=30)
    (tmp_path / "finish").touch()
    first_says, _ = holder.communicate(timeout=30)
    third = start(tmp_path)
    third_says, _ = third.communicate(timeout=30)

    assert second.returncode == 75
    assert f"process {holder.pid} on {os.uname().nodename} since 20" in message
    assert "Stage `prepare`" in message
    assert "Wait until it ends" in message
    assert (holder.returncode, first_says) == (0, "run\n")
    assert (third.returncode, third_says) == (0, "up to date\n")
    assert (tmp_path / "log").read_text() == "begun\n"


def test_of_many_starters_at_once_exactly_one_works(tmp_path: Path) -> None:
    (tmp_path / "finish").touch()
    starters = [start(tmp_path) for _ in range(8)]
    said = [starter.communicate(timeout=60)[0] for starter in starters]

    assert (tmp_path / "log").read_text() == "begun\n"
    assert sum(text == "run\n" for text in said) == 1
    assert {starter.returncode for starter in starters} <= {0, 75}
    assert (tmp_path / "encoded" / "whole").read_text() == "all of it"


def test_killed_holder_leaves_nothing_under_the_final_name_and_the_next_starter_works(tmp_path: Path) -> None:
    holder = start(tmp_path)
    wait_for(tmp_path / "log")
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate(timeout=30)
    assert not (tmp_path / "encoded").exists()

    (tmp_path / "finish").touch()
    next_says, _ = start(tmp_path).communicate(timeout=30)

    assert next_says == "run\n"
    assert sorted(path.name for path in (tmp_path / "encoded").iterdir()) == ["half", "receipt.json", "whole"]
    # What the killed one left beside it is swept, so a crash every day does not fill the disk.
    assert sorted(path.name for path in tmp_path.iterdir()) == [".encoded.lock", "encoded", "finish", "log"]


def test_output_below_a_file_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    calls: list[Path] = []

    with pytest.raises(CannotWriteError, match=r"Cannot write to .*/runs: .* Choose another output folder"):
        run_stage(STAGE, tmp_path / "runs" / "encoded", calls.append)

    assert calls == []


def test_output_on_a_file_system_that_nobody_may_write_is_refused_before_any_work() -> None:
    calls: list[Path] = []
    started = time.monotonic()

    # Even the superuser makes no folder there.
    with pytest.raises(CannotWriteError, match="Cannot write to /proc/recsys"):
        run_stage(STAGE, Path("/proc/recsys/encoded"), calls.append)

    assert calls == []
    assert time.monotonic() - started < 1.0


@pytest.fixture
def plain_user_folder() -> Iterator[Path]:
    """A folder while this process has the rights of a plain user, whom a read-only folder stops."""
    with tempfile.TemporaryDirectory(prefix="recsys-plain-user-") as name:
        folder = Path(name)
        if os.geteuid() != 0:
            yield folder
            return
        folder.chmod(0o777)
        try:
            os.seteuid(65534)
        except OSError:
            pytest.skip("this superuser may not become a plain user, and nothing is read-only for it")
        try:
            yield folder
        finally:
            os.seteuid(0)


def test_read_only_folder_is_refused_before_any_work_and_in_under_a_second(plain_user_folder: Path) -> None:
    read_only = plain_user_folder / "runs"
    read_only.mkdir(mode=0o555)
    calls: list[Path] = []
    started = time.monotonic()

    with pytest.raises(CannotWriteError, match=r"Cannot write to .*/runs: Permission denied.* mend its permissions"):
        run_stage(STAGE, read_only / "encoded", calls.append)

    assert calls == []
    assert time.monotonic() - started < 1.0


def test_output_that_is_up_to_date_needs_no_right_to_write(plain_user_folder: Path) -> None:
    runs = plain_user_folder / "runs"
    run_stage(STAGE, runs / "encoded", write_output)
    runs.chmod(0o555)
    try:
        assert not run_stage(STAGE, runs / "encoded", write_output).was_run
    finally:
        runs.chmod(0o755)


def test_input_fingerprint_follows_bytes_and_names_and_refuses_what_is_absent(tmp_path: Path) -> None:
    day = tmp_path / "sales" / "day.csv"
    day.parent.mkdir()
    day.write_text("1")
    first = input_fingerprint(day.parent)
    day.write_text("2")
    second = input_fingerprint(day.parent)
    day.rename(day.with_name("night.csv"))
    third = input_fingerprint(day.parent)

    assert len({first, second, third}) == 3
    with pytest.raises(DataError, match=r"input .*/gone is neither a file nor a folder"):
        input_fingerprint(tmp_path / "gone")
