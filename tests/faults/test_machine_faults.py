"""A full disk, a locked store, no memory: known in every library's words, and never called a bug of ours."""

import errno
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.figure import Figure
from safetensors import SafetensorError

from pipelines.cli import main
from recsys.artifacts import checkpoint_storage, pretrained_tower
from recsys.datasets import database
from recsys.evaluation import stored_predictions
from recsys.features.vocabulary import Vocabulary
from recsys.machine_faults import machine_fault
from recsys.progress import silent
from recsys.study.workers import Job, run_side_by_side
from tests.pipelines.own_table import PRETRAIN, OwnTable

FULL = OSError(errno.ENOSPC, "No space left on device")


def real(action: Callable[[], object]) -> BaseException:
    """The error that a library raises for it."""
    try:
        action()
    except BaseException as error:
        return error
    raise AssertionError("it went well")


def full_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA max_page_count = 3")
        connection.execute("CREATE TABLE t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 4000,)] * 9)


def read_only_database(path: Path) -> None:
    sqlite3.connect(path).execute("CREATE TABLE t (a)").connection.close()
    sqlite3.connect(f"file:{path}?mode=ro", uri=True).execute("INSERT INTO t VALUES (1)")


def no_database(path: Path) -> None:
    path.write_text("hello" * 1000)
    sqlite3.connect(path).execute("SELECT * FROM sqlite_master")


def locked_database(path: Path) -> None:
    first, second = (sqlite3.connect(path, timeout=0, isolation_level=None) for _ in range(2))
    first.execute("BEGIN EXCLUSIVE")
    second.execute("BEGIN EXCLUSIVE")


def wrapped(error: Exception) -> Exception:
    outer = RuntimeError("while saving")
    outer.__cause__ = error
    return outer


FAULTS: dict[str, tuple[Callable[[Path], BaseException], int, str]] = {
    "Python": (lambda path: real(lambda: Path("/dev/full").write_text("x")), 73, "No space left on device"),
    "quota": (lambda path: OSError(errno.EDQUOT, "Disk quota exceeded", str(path)), 73, "Disk quota exceeded"),
    "read-only": (lambda path: OSError(errno.EROFS, "Read-only file system", "/x"), 73, "Cannot write /x: Read-only"),
    "Arrow": (lambda path: real(lambda: pa.OSFile("/dev/full", "wb").write(b"x")), 73, "No space left on device"),
    "safetensors": (
        lambda path: SafetensorError("Error while serializing: IoError(Os { code: 28 }) (os error 28)"),
        73,
        "No space left on device",
    ),
    "DuckDB": (
        lambda path: duckdb.IOException("IO Error: Could not write to file: No space left on device"),
        73,
        "No space left",
    ),
    "DuckDB's spill": (
        lambda path: duckdb.OutOfMemoryException("... set by the 'max_temp_directory_size' setting"),
        73,
        "no space is left for DuckDB to spill to",
    ),
    "SQLite": (lambda path: real(lambda: full_database(path)), 73, "the disk is full"),
    "SQLite, read-only": (lambda path: real(lambda: read_only_database(path)), 73, "read-only"),
    "copies": (
        lambda path: shutil.Error([("a", "b", "[Errno 28] No space left on device")]),
        73,
        "No space left on device",
    ),
    "wrapped": (lambda path: wrapped(FULL), 73, "No space left on device"),
    "no temporary folder": (
        lambda path: FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
        73,
        "TMPDIR",
    ),
    "too many files": (lambda path: OSError(errno.EMFILE, "Too many open files", "/x"), 73, "ulimit -n"),
    "no permission": (lambda path: PermissionError(errno.EACCES, "Permission denied", "/x"), 73, "/x: Permission"),
    "a store that is none": (lambda path: real(lambda: no_database(path)), 65, "is no SQLite file"),
    "a store in use": (lambda path: real(lambda: locked_database(path)), 75, "locked by another process"),
    "numpy's memory": (lambda path: real(lambda: np.zeros(2**55)), 2, "too little memory"),
    "torch's memory": (lambda path: real(lambda: torch.zeros(2**50)), 2, "too little memory"),
    "a file that has gone": (lambda path: real((path / "gone").read_text), 65, "gone: No such file or directory"),
    "a folder in place of a file": (lambda path: real(path.parent.read_text), 65, "Is a directory"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_what_the_machine_refused_is_known_in_every_librarys_words(what: str, tmp_path: Path):
    make, code, told = FAULTS[what]
    found = machine_fault(make(tmp_path / "x.db"))
    assert found is not None
    assert found.exit_code == code
    assert told in str(found)


@pytest.mark.parametrize("error", [ValueError("no number"), KeyError("x"), OSError(errno.EINVAL, "Invalid argument")])
def test_what_the_code_did_wrong_is_nobody_elses_fault(error: Exception):
    assert machine_fault(error) is None


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> OwnTable:
    """A table that is prepared and has its tower."""
    made = OwnTable(tmp_path_factory.mktemp("shop"))
    assert main(["pretrain", *made.words, *PRETRAIN]) == 0
    return made


def refused(*_: object, **__: object) -> None:
    raise FULL


PREPARING = {
    "a file of rows": (pq.ParquetWriter, "write_table"),
    "a vocabulary": (Vocabulary, "save"),
    "the database": (database.ibis.duckdb, "connect"),
}


@pytest.mark.parametrize("what", PREPARING)
def test_preparing_on_a_full_disk_ends_with_73_and_leaves_nothing(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    made = OwnTable(tmp_path)
    owner, name = PREPARING[what]
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, refused)
        assert main(["prepare", *made.words]) == 73
    message = capsys.readouterr().err
    assert f"Cannot write {tmp_path}/encoded/" in message
    assert "No space left on device" in message
    assert "Traceback" not in message
    assert not list(tmp_path.rglob("split=*"))


TRAINING = {
    "a picture": (Figure, "savefig", "drift"),
    "the predictions": (stored_predictions, "save_file", "/predictions"),
    "a checkpoint": (checkpoint_storage, "save_file", "/step-"),
    "a copy of the code": (shutil, "copytree", "/model"),
}


@pytest.mark.parametrize("what", TRAINING)
def test_training_on_a_full_disk_ends_with_73_and_the_place(
    what: str, table: OwnTable, monkeypatch: pytest.MonkeyPatch, capsys
):
    owner, name, place = TRAINING[what]
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, refused)
        assert main(["train", *table.words, *PRETRAIN, "training.checkpoint_every=2"]) == 73
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert "No space left on device" in message
    assert place in message


def test_a_tower_on_a_full_disk_ends_with_73(table: OwnTable, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(pretrained_tower, "save_file", refused)
    assert main(["pretrain", *table.words, *PRETRAIN, "tower.seed=1"]) == 73
    assert f"Cannot write {table.root}/towers/" in capsys.readouterr().err


def test_an_arm_on_a_full_disk_says_so_to_the_study(tmp_path: Path):
    job = Job("arm", _write_too_much, (), tmp_path / "log")
    (failure,) = run_side_by_side([job], 1, silent, "arms", "cpu")
    assert failure.exit_code == 73
    assert "No space left on device" in failure.message


def _write_too_much(progress: object) -> None:
    with open("/dev/full", "w") as disk:
        disk.write("x" * 100_000)
