"""Partitions of encoded rows: what is in a file, in which order, and that nothing but the rows decides on its bytes."""

import hashlib
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from ibis.backends.duckdb import Backend

from recsys.datasets import fitting, partitions
from recsys.datasets.encode import encode
from recsys.datasets.encoded import EncodedDataset, open_encoded
from recsys.datasets.partitions import sorted_order
from recsys.datasets.simulator import SimulatorSource, simulate
from recsys.datasets.source import SourceRows
from recsys.datasets.world import World
from recsys.features.schema import FeatureSchema, load_schema
from recsys.progress import Progress
from tests.worlds import MadeSource, world_rows, world_schema

ROOT = Path(__file__).parents[2]
EXTRAS = ("user_key", "query", "is_new_to_user")
WORLD = World(rows=3000, users=60, items=40, days=10, seed=0, world_seed=0)


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return world_rows({"train": 3, "validation": 1}, rows_per_day=50, seed=1)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "raw"
    simulate(folder, WORLD)
    return folder


def encoded(folder: Path, rows: pa.Table, threads: int = 1, **options: Any) -> EncodedDataset:
    source = MadeSource(rows, EXTRAS)
    encode(source, world_schema(), folder, memory_limit="200MB", threads=threads, **options)
    return open_encoded(folder)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def shuffled(rows: pa.Table) -> pa.Table:
    return rows.take(np.random.default_rng(0).permutation(len(rows)))


@dataclass(frozen=True)
class StoredFirst:
    """A source whose rows are stored before anything is read from them, whatever its files look like."""

    source: SimulatorSource

    def read(self, connection: Backend, schema: FeatureSchema, progress: Progress) -> SourceRows:
        return replace(self.source.read(connection, schema, progress), in_files_by_day=False)


def test_row_groups_hold_no_more_rows_than_they_should_and_lose_none(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(partitions, "ROW_GROUP_ROWS", 20)

    dataset = encoded(tmp_path / "e", rows)

    metadata = pq.read_metadata(dataset.files("train")[0])
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [20, 20, 10]
    kept = pa.concat_tables(pq.read_table(file) for file in dataset.files("train"))
    assert sorted(kept["query"].to_pylist()) == sorted(
        rows.filter(pc.equal(rows["split"], "train"))["query"].to_pylist()
    )


@pytest.mark.parametrize("most_rows", [0, 60, 130])
def test_how_many_days_are_read_together_leaves_no_trace(tmp_path, rows, monkeypatch, most_rows):
    encoded(tmp_path / "one", rows)
    monkeypatch.setattr(partitions, "_ROWS_PER_PASS", most_rows)
    encoded(tmp_path / "two", shuffled(rows), threads=3)

    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_a_day_too_large_for_memory_is_sorted_by_the_database_to_the_same_rows(tmp_path, rows, monkeypatch):
    # Two times of day alone, so that the order hangs on the ties.
    times = pa.array(
        [time.replace(hour=time.hour // 12, minute=0, second=0) for time in rows["clicked_at"].to_pylist()]
    )
    tied = rows.set_column(rows.schema.get_field_index("clicked_at"), "clicked_at", times)
    monkeypatch.setattr(partitions, "ROW_GROUP_ROWS", 20)
    in_memory = encoded(tmp_path / "one", tied)

    monkeypatch.setattr(partitions, "_MOST_ROWS_IN_MEMORY", 49)
    monkeypatch.setattr(partitions, "_ROWS_PER_PASS", 1)
    spilled = encoded(tmp_path / "two", shuffled(tied), threads=2)

    for one, other in zip(in_memory.files("train"), spilled.files("train"), strict=True):
        assert pq.read_table(one).equals(pq.read_table(other))
        assert pq.read_metadata(one).num_row_groups == pq.read_metadata(other).num_row_groups == 3


def test_rows_read_from_files_by_day_and_rows_stored_first_give_the_same_bytes(tmp_path, raw):
    schema = load_schema(ROOT / "data" / "schemas" / "simulated.yaml")
    source = SimulatorSource(raw)

    encode(source, schema, tmp_path / "by_day", memory_limit="500MB", threads=2)
    encode(StoredFirst(source), schema, tmp_path / "stored", memory_limit="500MB", threads=1)

    assert digests(tmp_path / "by_day") == digests(tmp_path / "stored")


def test_integer_ids_get_the_same_rows_counted_one_by_one_or_grouped(tmp_path, rows, monkeypatch):
    users = [None, -1, 0, 0, 5, 5, *rows["user_id"].to_pylist()[6:]]
    rows = rows.set_column(0, "user_id", pa.array(users, pa.int64()))
    encoded(tmp_path / "counted", rows)
    monkeypatch.setattr(fitting, "_MOST_COUNTED_ID", 1010)
    encoded(tmp_path / "grouped", rows)

    assert digests(tmp_path / "counted") == digests(tmp_path / "grouped")


def test_the_machines_time_zone_does_not_move_a_row_to_another_day(tmp_path, raw, monkeypatch):
    schema = load_schema(ROOT / "data" / "schemas" / "simulated.yaml")
    monkeypatch.setenv("TZ", "Pacific/Auckland")

    encode(SimulatorSource(raw), schema, tmp_path / "e", memory_limit="500MB", threads=2)

    for file in open_encoded(tmp_path / "e").files("train"):
        times = pq.read_table(file)["time"]
        start = datetime.fromisoformat(file.parent.name.removeprefix("day=")).replace(tzinfo=UTC)
        assert pc.min(times).as_py() >= start
        assert pc.max(times).as_py().date() == start.date()


def test_ties_are_broken_by_the_later_keys_alone_and_everything_else_stays_in_time_order():
    first = np.array([5, 1, 5, 2, 5])
    second = np.array([1, 0, 0, 0, 1])
    third = np.array([7, 0, 9, 0, 3], dtype=np.uint64)

    assert sorted_order([first, second, third]).tolist() == [1, 3, 2, 4, 0]


def test_ids_of_a_large_vocabulary_are_written_without_a_dictionary(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(partitions, "_MOST_ROWS_OF_A_DICTIONARY", 10)

    file = encoded(tmp_path / "e", rows).files("train")[0]

    group = pq.read_metadata(file).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    with_dictionary = {column.path_in_schema for column in columns if column.has_dictionary_page}
    assert "country" in with_dictionary
    assert with_dictionary.isdisjoint({"user_id", "item_id", "user_key", "time"})


def test_a_file_whose_rows_are_out_of_order_is_sorted_all_the_same(tmp_path, raw, monkeypatch):
    schema = load_schema(ROOT / "data" / "schemas" / "simulated.yaml")
    # A query a day and several batches, the first of which is in order.
    monkeypatch.setattr(partitions, "_ROWS_PER_PASS", 1)
    monkeypatch.setattr(partitions, "_ENCODED_ROWS", 100)
    encode(SimulatorSource(raw), schema, tmp_path / "ordered", memory_limit="500MB", threads=1)
    shutil.copytree(raw, tmp_path / "raw")
    day = tmp_path / "raw" / "days" / "2025-01-02.parquet"
    table = pq.read_table(day)
    pq.write_table(table.take([*range(150), *reversed(range(150, len(table)))]), day)
    encode(SimulatorSource(tmp_path / "raw"), schema, tmp_path / "disordered", memory_limit="500MB", threads=2)

    file = "split=train/day=2025-01-02/part-0.parquet"
    assert pq.read_table(tmp_path / "disordered" / file).equals(pq.read_table(tmp_path / "ordered" / file))
    assert {name for name in digests(tmp_path / "ordered") if name not in digests(tmp_path / "disordered")} == set()
    assert not list((tmp_path / "disordered").rglob("*.partial"))
