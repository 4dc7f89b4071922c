"""Rows encoded with what an earlier fit knows: the same numbers for what it knows, the same bytes for the same rows."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from recsys.datasets.encode import encode
from recsys.datasets.encoded import EncodedDataset, open_encoded
from recsys.features.known_fit import KnownFit
from tests.worlds import MadeSource, world_rows, world_schema

DAYS = {"train": 2, "validation": 1, "test": 1}


def encoded(folder: Path, rows: pa.Table, known: KnownFit | None = None) -> EncodedDataset:
    encode(MadeSource(rows), world_schema(), folder, memory_limit="200MB", threads=1, known=known)
    return open_encoded(folder)


def fit_of(data: EncodedDataset) -> KnownFit:
    return KnownFit({table: data.vocabulary(table) for table in data.contract.table_rows}, data.contract.scaling)


def files_in(folder: Path) -> dict[str, str]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return world_rows(DAYS, 60, seed=1, items=30)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> KnownFit:
    """Of other rows, in which some of the items are missing."""
    return fit_of(encoded(tmp_path_factory.mktemp("known") / "rows", world_rows(DAYS, 60, seed=0, items=22)))


def test_known_ids_keep_their_rows_and_new_training_ids_follow_the_most_frequent_first(tmp_path, rows, known):
    data = encoded(tmp_path / "rows", rows, known)
    ids, before = data.vocabulary("item_id").ids, known.vocabularies["item_id"].ids
    assert ids[: len(before)].equals(before)
    assert len(ids) > len(before)
    train = rows.filter(pc.equal(rows["split"], "train"))
    flat = pc.list_flatten(train["recent_item_ids"].combine_chunks())
    seen = [*train["item_id"].to_pylist(), *flat.to_pylist()]
    new = ids[len(before) :].to_pylist()
    assert new == sorted({*seen} - {*before.to_pylist()}, key=lambda item: (-seen.count(item), item))
    assert data.contract.scaling == known.scaling


def test_the_same_rows_and_fit_give_the_same_bytes(tmp_path, rows, known):
    for name in ("first", "second"):
        encoded(tmp_path / name, rows, known)
    assert files_in(tmp_path / "first") == files_in(tmp_path / "second")


def test_a_fit_that_knows_all_of_the_rows_own_changes_no_byte(tmp_path, rows):
    plain = encoded(tmp_path / "plain", rows)
    encoded(tmp_path / "again", rows, fit_of(plain))
    assert files_in(tmp_path / "plain") == files_in(tmp_path / "again")
