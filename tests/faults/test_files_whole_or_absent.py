"""What is published is whole or absent, whatever happens to the process or the disk on the way."""

import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from recsys import files
from recsys.errors import CannotWriteError, DataError
from recsys.files import clear_leftovers, ensure_writable, published_directory, sha256_of_file, write_text_atomically

NAMES = ("a", "b", "c")


def publish(final: Path, version: str) -> None:
    with published_directory(final) as work:
        for name in NAMES:
            (work / name).write_text(version)


def versions_in(final: Path) -> set[str]:
    return {(final / name).read_text() for name in NAMES}


def killed_at_line(moment: int, action: Callable[[], None]) -> bool:
    """Run `action` in a fork, killed before its `moment`-th watched line; False where it ended first."""
    child = os.fork()
    if child == 0:
        passed = 0

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal passed
            # Of what it calls, only that which writes in place could tear a text between two lines.
            if frame.f_code.co_filename != files.__file__ and frame.f_code.co_name != "write_text":
                return None
            if event == "line":
                passed += 1
                if passed == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_folder_killed_at_any_line_is_the_old_one_or_the_new_one_and_never_missing(tmp_path: Path) -> None:
    found = []
    moment, was_killed = 1, True
    while was_killed:
        final = tmp_path / f"at-{moment}" / "encoded"
        publish(final, "old")
        was_killed = killed_at_line(moment, lambda final=final: publish(final, "new"))
        found.append(versions_in(final))
        moment += 1

    assert moment > 20
    assert found[0] == {"old"}
    assert found[-1] == {"new"}
    assert all(versions in ({"old"}, {"new"}) for versions in found)


def test_new_folder_killed_at_any_line_is_whole_or_absent(tmp_path: Path) -> None:
    found = []
    moment, was_killed = 1, True
    while was_killed:
        final = tmp_path / f"at-{moment}" / "encoded"
        was_killed = killed_at_line(moment, lambda final=final: publish(final, "new"))
        found.append(versions_in(final) if final.exists() else None)
        moment += 1

    assert moment > 20
    assert found[0] is None
    assert found[-1] == {"new"}
    assert all(versions in (None, {"new"}) for versions in found)


def test_text_killed_at_any_line_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    found = []
    moment, was_killed = 1, True
    while was_killed:
        path = tmp_path / f"at-{moment}" / "champion.json"
        write_text_atomically(path, "old")
        was_killed = killed_at_line(moment, lambda path=path: write_text_atomically(path, "new"))
        found.append(path.read_text())
        moment += 1

    assert found[0] == "old"
    assert found[-1] == "new"
    assert set(found) == {"old", "new"}


PUBLISH_FOR_EVER = textwrap.dedent("""
    import itertools, sys
    from pathlib import Path
    from recsys.files import published_directory

    final = Path(sys.argv[1])
    for version in itertools.count():
        with published_directory(final) as work:
            for name in ("a", "b", "c"):
                (work / name).write_text(str(version) * 50_000)
        print(version, flush=True)
""")


def test_folder_stays_whole_under_kills_at_random_moments(tmp_path: Path) -> None:
    final = tmp_path / "encoded"
    moments = random.Random(7)
    for _ in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", PUBLISH_FOR_EVER, str(final)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(moments.uniform(0, 0.05))
        writer.kill()
        writer.communicate()
        assert len(versions_in(final)) == 1


def test_reader_finds_a_folder_at_every_moment_of_its_replacement(tmp_path: Path) -> None:
    final = tmp_path / "encoded"
    publish(final, "0")
    writer = subprocess.Popen([sys.executable, "-c", PUBLISH_FOR_EVER, str(final)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    try:
        while writer.stdout.readline() == "":
            pass
        end, reads = time.monotonic() + 0.5, 0
        while time.monotonic() < end:
            assert final.is_dir()
            reads += 1
    finally:
        writer.kill()
        said, _ = writer.communicate()
    assert len(said.splitlines()) >= 3, "the folder was replaced while it was read"
    assert reads > 100


def test_where_names_cannot_be_swapped_a_folder_is_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    publish(tmp_path / "encoded", "old")
    publish(tmp_path / "encoded", "new")

    assert versions_in(tmp_path / "encoded") == {"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["encoded"]


def test_failed_work_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    final = tmp_path / "encoded"
    publish(final, "old")

    def fail_half_way() -> None:
        with published_directory(final) as work:
            (work / "a").write_text("half")
            raise DataError("row 7 is torn")

    with pytest.raises(DataError, match="row 7"):
        fail_half_way()

    assert versions_in(final) == {"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["encoded"]


FILL_THE_DISK = textwrap.dedent("""
    import resource, sys
    from pathlib import Path
    from recsys.errors import RecsysError
    from recsys.files import published_directory, write_text_atomically

    final = Path(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        if sys.argv[2] == "folder":
            with published_directory(final) as work:
                (work / "a").write_text("small")
                (work / "b").write_text("x" * 10_000)
        else:
            write_text_atomically(final, "x" * 10_000)
    except RecsysError as error:
        print(error)
        sys.exit(error.exit_code)
""")


@pytest.mark.parametrize("form", ["folder", "text"])
def test_full_disk_ends_with_73_and_the_old_output_intact(tmp_path: Path, form: str) -> None:
    final = tmp_path / "output"
    if form == "folder":
        publish(final, "old")
    else:
        final.write_text("old")

    done = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(final), form], capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == 73, done.stderr
    assert f"Cannot write {final}: File too large." in done.stdout
    assert (versions_in(final) if form == "folder" else {final.read_text()}) == {"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["output"]


def test_disk_without_space_is_said_as_such(tmp_path: Path) -> None:

    def fill() -> None:
        # The kernel's own full disk; the failure carries no file name, as that of a write has none.
        with published_directory(tmp_path / "encoded"), open("/dev/full", "w") as disk:
            disk.write("x" * 100_000)

    with pytest.raises(CannotWriteError, match=r"Cannot write .*/encoded: No space left on device. Nothing was left"):
        fill()


@pytest.mark.parametrize(
    "failure",
    [
        FileNotFoundError(errno.ENOENT, "No such file", "sales.parquet"),
        ConnectionRefusedError(errno.ECONNREFUSED, "no"),
    ],
)
def test_failure_to_read_an_input_is_not_reported_as_one_of_the_output(tmp_path: Path, failure: OSError) -> None:
    with pytest.raises(type(failure)), published_directory(tmp_path / "encoded"):
        raise failure
    assert list(tmp_path.iterdir()) == []


def test_file_in_place_of_the_folder_is_refused_before_work_and_kept(tmp_path: Path) -> None:
    precious = tmp_path / "encoded"
    precious.write_text("somebody's notes")
    entered = False

    with pytest.raises(CannotWriteError, match=r"a file of that name stands there. Move it away first"):  # noqa: SIM117
        with published_directory(precious):
            entered = True

    assert not entered
    assert precious.read_text() == "somebody's notes"


def test_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    publish(tmp_path / "disk" / "encoded", "old")
    (tmp_path / "encoded").symlink_to(tmp_path / "disk" / "encoded")

    publish(tmp_path / "encoded", "new")

    assert (tmp_path / "encoded").is_symlink()
    assert versions_in(tmp_path / "disk" / "encoded") == {"new"}


def test_target_below_a_file_or_on_a_closed_file_system_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    for folder in (tmp_path / "runs", tmp_path / "runs" / "deeper", Path("/proc/recsys")):
        with pytest.raises(CannotWriteError, match=rf"Cannot write to {folder}: .* Choose another output folder"):
            ensure_writable(folder)
    (tmp_path / "folder").mkdir()
    with pytest.raises(CannotWriteError, match=r"Cannot write .*/folder: Is a directory. What stood there is"):
        write_text_atomically(tmp_path / "folder", "text")
    with pytest.raises(CannotWriteError, match="File name too long"):
        publish(tmp_path / ("n" * 250), "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "runs"]


def test_text_that_cannot_be_written_leaves_no_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_text_atomically(tmp_path / "report", "half a pair: \ud800")
    assert list(tmp_path.iterdir()) == []


def test_published_things_are_as_readable_as_the_user_s_other_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        publish(tmp_path / "encoded", "new")
        write_text_atomically(tmp_path / "report", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "encoded").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "report").stat().st_mode & 0o777 == 0o640


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    # The published digest of no bytes at all (FIPS 180-4).
    assert (
        sha256_of_file(tmp_path / "empty") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )


def test_what_a_killed_process_had_under_way_is_cleared_away_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".step-2.0a1b.partial").mkdir()
    (tmp_path / ".step-2.0a1b.partial" / "tensors").write_text("half")
    (tmp_path / ".result.json.0a1b.partial").write_text("half")
    (tmp_path / ".encoded.0a1b.replaced").mkdir()
    for name in (".daily.lock", "step-1", ".encoded.key.unfinished"):
        (tmp_path / name).mkdir()
    clear_leftovers(tmp_path, tmp_path / "absent")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".daily.lock", ".encoded.key.unfinished", "step-1"]
