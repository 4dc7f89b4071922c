"""Standard output that cannot be written, and characters that it does not have: no traceback, no wrong exit code."""

import io
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.console import show_table

REPOSITORY = Path(__file__).parents[2]
WORDS = ["runs", "--dry-run"]


def ended(words: Sequence[str], shell: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line whose output the shell takes elsewhere."""
    command = " ".join([sys.executable, "-m", "pipelines.cli", *words, shell])
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_the_output_is_said_and_ends_with_73(unbuffered: str):
    done = ended(WORDS, "> /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 73
    assert done.stderr == (
        "recsys runs: Cannot write to standard output: No space left on device. Send it elsewhere.\n"
    )


def test_help_that_cannot_be_written_ends_with_73_too():
    done = ended(["--help"], "> /dev/full", PYTHONUNBUFFERED="")
    assert (done.returncode, done.stderr.count("\n")) == (73, 1)


def test_a_reader_that_has_read_enough_ends_the_command_without_a_word():
    done = ended(["ablate", "--dry-run", "experiment=demo"], "| head -1", PYTHONUNBUFFERED="1")
    assert done.returncode == 141
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_closed_streams_are_no_failure_and_no_file_gets_their_numbers():
    done = ended(WORDS, "<&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_messages_that_nobody_can_read_change_no_exit_code():
    assert ended(["runs", "training.epochs=2"], "2> /dev/full").returncode == 2


def test_a_name_that_the_outputs_encoding_lacks_is_written_in_escapes(monkeypatch: pytest.MonkeyPatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main([*WORDS, "runtime.runs=größe"]) == 0
    show_table("Größe", ("ä", "±"), [("ü", "1 → 2")])
    sys.stdout.flush()
    printed = written.getvalue().decode("ascii")
    assert '"gr\\u00f6\\u00dfe"' in printed
    assert "Gr\\xf6\\xdfe" in printed
    assert "1 \\u2192 2" in printed


def test_a_terminal_that_can_do_nothing_gets_plain_text(tmp_path: Path):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "dumb"}
    words = ["prepare", f"data.raw={tmp_path}/raw", "data.rows=300", "data.days=5", f"runtime.encoded={tmp_path}/e"]
    words += ["data.users=20", "data.items=10", "runtime.threads=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *words],
        cwd=REPOSITORY, env=environment, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    printed = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # so ends a terminal on Linux
            break
        if not part:
            break
        printed += part
    assert process.wait(timeout=60) == 0
    assert b"Prepared in" in printed
    assert b"\x1b[?25" not in printed


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "--resume", ""], "what follows `--resume` is empty"),
        (["train", "--resume="], "--resume= is empty"),
        (["compare", "--study", ""], "what follows `--study` is empty"),
        (["inspect", " "], "what follows `inspect` is empty"),
        (["prepare", "data.raw=\udcff"], "cannot be read as utf-8"),
    ],
)
def test_a_word_that_is_empty_or_unreadable_is_refused_before_it_means_something_else(words, told, capsys):
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert told in capsys.readouterr().err


def test_a_working_folder_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert main(["runs"]) == 2
    assert "The working folder is not there any more" in capsys.readouterr().err


def test_paths_of_options_may_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in (["inspect", "~/a"], ["evaluate", "--run", "~/a"], ["train", "--resume=~/a"]):
        assert main(words) == 65
        assert f"{tmp_path}/a" in capsys.readouterr().err
