"""`recsys prepare` that is killed goes on where it was; its folder appears whole or not at all."""

import hashlib
import os
import signal
from pathlib import Path

import pytest

from tests.faults.commands import Commands, Moment
from tests.pipelines.conftest import small_overrides


@pytest.fixture(scope="module")
def unbroken(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a simulated world and what an unbroken preparation made of it."""
    root = tmp_path_factory.mktemp("world")
    assert commands.run(["prepare", *small_overrides(root)], root / "log").code == 0
    return root


def words(unbroken: Path, folder: Path) -> list[str]:
    return [*small_overrides(unbroken), f"runtime.encoded={folder}/encoded"]


def rows_in(folder: Path) -> Path:
    (rows,) = folder.glob("encoded/[!.]*/rows")
    return rows


def contents(rows: Path) -> dict[str, str]:
    files = [path for path in rows.rglob("*") if path.is_file()]
    return {str(path.relative_to(rows)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def written(path: Path) -> tuple[int, int]:
    """What a file that is written again does not keep; the inode alone may be given to it once more."""
    return path.stat().st_ino, path.stat().st_mtime_ns


# Where it dies, and how many of the ten partitions are finished by then.
MOMENTS = {
    "before anything is read": (Moment("recsys.datasets.encode:temporary_database"), 0),
    "while the vocabularies are fitted": (Moment("recsys.datasets.encode:fit_vocabularies"), 0),
    "while a partition is written": (Moment("recsys.datasets.partitions:_PartFile.close", 4), 3),
    # The first file to be renamed is the list of finished parts.
    "before a partition takes its name": (Moment("recsys.datasets.partitions:os.replace", 6), 4),
    "before a partition is noted": (Moment("recsys.datasets.finished_parts:FinishedParts.add", 8), 7),
    "before the manifest is written": (Moment("recsys.datasets.encode:_write_manifest"), 10),
    "before the rows take their name": (Moment("recsys.files:_replace_directory", 1), 10),
    "before the whole folder takes its name": (Moment("recsys.files:_replace_directory", 2), 10),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_preparation_goes_on_where_it_was_to_the_same_bytes(
    moment: str, commands: Commands, unbroken: Path, tmp_path: Path
):
    when, finished = MOMENTS[moment]
    assert commands.run(["prepare", *words(unbroken, tmp_path)], tmp_path / "log", when).code == -signal.SIGKILL
    assert not list(tmp_path.glob("encoded/[!.]*"))
    # Whatever carries a partition's name is whole: its bytes are those of the unbroken preparation.
    wanted = contents(rows_in(unbroken))
    found = {"/".join(path.parts[-3:]): path for path in tmp_path.glob("encoded/.*/**/split=*/*/*.parquet")}
    named = {name: path for name, path in found.items() if not path.name.startswith(".")}
    assert len(named) >= finished
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == wanted[name] for name, path in named.items())
    files = {name: written(path) for name, path in named.items()}

    assert commands.run(["prepare", *words(unbroken, tmp_path)], tmp_path / "log").code == 0

    rows = rows_in(tmp_path)
    assert contents(rows) == wanted
    assert sum(written(rows / name) == file for name, file in files.items()) == finished
    assert [name for name in os.listdir(tmp_path / "encoded") if name.endswith((".partial", ".unfinished"))] == []


def test_a_preparation_killed_again_and_again_ends_as_if_it_had_not_been(
    commands: Commands, unbroken: Path, tmp_path: Path
):
    for _ in range(2):
        again = Moment("recsys.datasets.finished_parts:FinishedParts.add", 3)
        assert commands.run(["prepare", *words(unbroken, tmp_path)], tmp_path / "log", again).code == -signal.SIGKILL
    assert commands.run(["prepare", *words(unbroken, tmp_path)], tmp_path / "log").code == 0
    assert contents(rows_in(tmp_path)) == contents(rows_in(unbroken))
