"""A preparation that was stopped goes on where it was, and ends as if nothing had stopped it."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from recsys.datasets import partitions
from recsys.datasets.encode import encode
from recsys.datasets.encoded import open_encoded
from recsys.datasets.manifest import FINISHED_PARTS_NAME
from recsys.errors import DataError
from recsys.files import unfinished_path
from tests.worlds import MadeSource, world_rows, world_schema

EXTRAS = ("user_key", "query", "is_new_to_user")
KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return world_rows({"train": 4, "validation": 1, "test": 1}, rows_per_day=30, seed=1)


def prepare(folder: Path, rows: pa.Table, **options: Any) -> None:
    encode(MadeSource(rows, EXTRAS), world_schema(), folder, memory_limit="200MB", threads=1, **options)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def parts_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every partition: the same where it was not made again."""
    found = sorted(folder.glob("split=*/day=*/part-0.parquet"))
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def stop_after(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the digest of the next partition is taken: its file has its name, and no line in the list yet."""
    original: Callable[[Path], str] = partitions.sha256_of_file
    calls = 0

    def interrupted(path: Path) -> str:
        nonlocal calls
        calls += 1
        if calls > parts:
            raise KeyboardInterrupt
        return original(path)

    monkeypatch.setattr(partitions, "sha256_of_file", interrupted)


def stopped(folder: Path, rows: pa.Table, monkeypatch: pytest.MonkeyPatch, parts: int = 3) -> Path:
    """Stop a preparation after so many partitions; return the folder that it left behind."""
    with monkeypatch.context() as patch:
        stop_after(parts, patch)
        with pytest.raises(KeyboardInterrupt):
            prepare(folder, rows, resume_key=KEY)
    assert not folder.exists()
    return unfinished_path(folder, KEY)


def test_finished_partitions_are_kept_and_the_rest_is_made_to_the_same_bytes(tmp_path, rows, monkeypatch):
    prepare(tmp_path / "unbroken", rows)
    left = stopped(tmp_path / "e", rows, monkeypatch)
    noted = [json.loads(line)["path"] for line in (left / FINISHED_PARTS_NAME).read_text().splitlines()]
    before = parts_of(left)
    assert len(noted) == 3 < len(before)

    prepare(tmp_path / "e", rows, resume_key=KEY)

    after = parts_of(tmp_path / "e")
    assert {path for path in before if after[path] == before[path]} == set(noted)
    assert digests(tmp_path / "e") == digests(tmp_path / "unbroken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "unbroken"]


def test_days_that_were_finished_out_of_order_are_not_made_again(tmp_path, rows, monkeypatch):
    prepare(tmp_path / "unbroken", rows)
    left = stopped(tmp_path / "e", rows, monkeypatch, parts=5)
    finished = left / FINISHED_PARTS_NAME
    # As if another thread had been faster: two days of training were not finished yet, nor was the last day.
    lines = finished.read_text().splitlines(keepends=True)
    finished.write_text("".join(line for line in lines if "06-29" not in line and "07-01" not in line))
    before = parts_of(left)

    prepare(tmp_path / "e", rows, resume_key=KEY)

    after = parts_of(tmp_path / "e")
    again = {path.split("/")[1] for path in before if after[path] != before[path]}
    assert again == {"day=2011-06-29", "day=2011-07-01", "day=2011-07-02"}
    assert digests(tmp_path / "e") == digests(tmp_path / "unbroken")


@pytest.mark.parametrize(
    "damage",
    [
        lambda left: next(left.glob("split=train/*/*.parquet")).write_bytes(b"cut short"),
        lambda left: next(left.glob("split=train/*/*.parquet")).unlink(),
        lambda left: (left / FINISHED_PARTS_NAME).write_text((left / FINISHED_PARTS_NAME).read_text()[:-40]),
        lambda left: (left / FINISHED_PARTS_NAME).write_text("no finished\n[]\n{}\n"),
        lambda left: (left / "split=train/day=2011-06-28/.part-0.parquet.partial").write_bytes(b"half"),
        lambda left: (left / ".database.killed").mkdir(),
    ],
    ids=["cut file", "lost file", "torn finished", "foreign finished", "half-written file", "database left behind"],
)
def test_what_is_damaged_is_made_again_and_nothing_else_is_left(tmp_path, rows, monkeypatch, damage):
    prepare(tmp_path / "unbroken", rows)
    damage(stopped(tmp_path / "e", rows, monkeypatch))

    prepare(tmp_path / "e", rows, resume_key=KEY)

    assert digests(tmp_path / "e") == digests(tmp_path / "unbroken")


def test_flipped_bytes_in_finished_partitions_are_not_published(tmp_path, rows, monkeypatch):
    left = stopped(tmp_path / "e", rows, monkeypatch)
    for file in left.glob("split=*/*/*.parquet"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)

    prepare(tmp_path / "e", rows, resume_key=KEY)

    open_encoded(tmp_path / "e").require_intact()


def test_partitions_of_another_contract_are_not_believed(tmp_path, rows, monkeypatch):
    other = world_rows({"train": 4, "validation": 1, "test": 1}, rows_per_day=30, seed=2)
    prepare(tmp_path / "unbroken", rows)
    stopped(tmp_path / "e", other, monkeypatch)

    prepare(tmp_path / "e", rows, resume_key=KEY)

    assert digests(tmp_path / "e") == digests(tmp_path / "unbroken")


def test_the_counts_of_what_was_mended_include_the_partitions_made_before(tmp_path, rows, monkeypatch):
    prepare(tmp_path / "unbroken", rows)
    stopped(tmp_path / "e", rows, monkeypatch)

    prepare(tmp_path / "e", rows, resume_key=KEY)

    counts = open_encoded(tmp_path / "e").manifest.counts
    assert counts == open_encoded(tmp_path / "unbroken").manifest.counts
    assert counts["ids missing: country"] > 0


def test_another_key_and_no_key_start_afresh(tmp_path, rows, monkeypatch):
    left = stopped(tmp_path / "e", rows, monkeypatch)
    before = parts_of(left)

    prepare(tmp_path / "e", rows, resume_key="fedcba9876543210")
    assert parts_of(left) == before
    assert set(parts_of(tmp_path / "e").values()).isdisjoint(before.values())


def test_without_a_key_an_interrupted_preparation_leaves_nothing(tmp_path, rows, monkeypatch):
    stop_after(3, monkeypatch)

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "e", rows)

    assert os.listdir(tmp_path) == []


def test_bad_rows_leave_nothing_behind_even_with_a_key(tmp_path, rows):
    labels = pa.array([2] * len(rows), rows["clicked"].type)
    bad = rows.set_column(rows.schema.get_field_index("clicked"), "clicked", labels)

    with pytest.raises(DataError):
        prepare(tmp_path / "e", bad, resume_key=KEY)

    assert os.listdir(tmp_path) == []
