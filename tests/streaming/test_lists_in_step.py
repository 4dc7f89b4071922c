"""Lists that stand beside one another: whatever the rows, the files and the batches, their elements stay together."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recsys.datasets.row_encoder import RowEncoder
from recsys.errors import DataError
from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract
from recsys.features.raw import raw_to_batch
from recsys.streaming.collate import Collator
from recsys.streaming.column_views import view_of
from recsys.streaming.loader import BatchStream
from recsys.streaming.memory import ReusedMemory
from recsys.streaming.pools import Rows
from recsys.streaming.rows import RawRows
from tests.grouped_rows import EVENTS, VOCABULARIES, grouped_contract, lists_of_batch, naive, raw_table

CONTRACT = grouped_contract()
SIX = [[("mug", 1, 1.0, 2.0)] * (row % 4) for row in range(6)]


def stream(where: Any, contract: FeatureContract = CONTRACT, **how: Any) -> BatchStream:
    settings = {"batch_size": 4, "seed": 3, "shuffle": True, "shuffle_buffer_rows": 8, "decode_threads": 0, **how}
    return BatchStream(where, "train", contract, extras=("user_key",), device=torch.device("cpu"), **settings)


def write_encoded(root: Path, rows: pa.Table, group_rows: int = 5) -> Path:
    folder = root / "split=train" / "day=2011-07-01"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, folder / "part-0.parquet", row_group_size=group_rows, write_page_checksum=True)
    return root


def encoded_table(rows: list[Any]) -> pa.Table:
    staged = raw_table(rows).combine_chunks().to_batches()
    encoder = RowEncoder(CONTRACT, VOCABULARIES)
    return pa.Table.from_batches([encoder.encode(batch) for batch in staged], encoder.arrow_schema)


def keys_of(batch: Batch) -> list[int]:
    return [int(key) for key in batch.extra["user_key"]]


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(EVENTS, min_size=1, max_size=14), data=st.data())
@example(rows=[[], None, []], data=None)
def test_rows_come_out_of_files_and_batches_as_a_plain_reader_reads_them(rows: list[Any], data: Any) -> None:
    raw, expected = raw_table(rows), [naive(row) for row in rows]
    with TemporaryDirectory() as folder:
        root = write_encoded(Path(folder, "encoded"), encoded_table(rows))
        Path(folder, "raw").mkdir()
        pq.write_table(raw, Path(folder, "raw", "rows.parquet"), row_group_size=5)
        streams = [stream(RawRows(Path(folder, "raw"), VOCABULARIES), batch_size=3), stream(root, batch_size=3)]
        met = [
            dict(pair for batch in one for pair in zip(keys_of(batch), lists_of_batch(batch), strict=True))
            for one in streams
        ]
    batch = raw_to_batch(raw, CONTRACT, VOCABULARIES)

    assert met[0] == met[1] == dict(enumerate(expected))
    assert lists_of_batch(batch) == expected
    places = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6)) if data else [2, 0]
    assert lists_of_batch(batch.take(torch.tensor(places, dtype=torch.int64))) == [expected[at] for at in places]


@pytest.mark.parametrize("ships", [True, False])
def test_a_batch_has_its_lists_of_numbers_whether_it_was_shipped_or_not(ships: bool) -> None:
    rows: list[Any] = [[("mug", 1, row / 4, -float(row))] * (row % 4) for row in range(12)]
    table = encoded_table(rows)
    columns = {name: view_of(table[name].combine_chunks()) for name in table.column_names if name != "time"}
    parts = [Rows(columns, 1, 5), Rows(columns, 8, 11)]

    packed = Collator(CONTRACT.schema, ("user_key",), ReusedMemory(2), ships).packed(parts)
    batch = packed.to(torch.device("cpu")).unpacked(lambda role, shape, dtype: torch.empty(*shape, dtype=dtype))

    assert lists_of_batch(batch) == [naive(rows[row]) for row in (1, 2, 3, 4, 8, 9, 10)]
    moved = batch.to(torch.device("meta"))
    assert {values.device.type for values in moved.lists.values()} == {"meta"}
    assert lists_of_batch(batch.to(torch.device("cpu"))) == lists_of_batch(batch)


def changed(name: str, row: int, values: list[Any]) -> pa.Table:
    """The six rows, encoded, with one list changed."""
    table = encoded_table(SIX)
    lists = table[name].to_pylist()
    lists[row] = values
    place = table.column_names.index(name)
    form = table[name].type.value_type
    return table.set_column(
        place, table.schema.field(name), pa.array(lists, pa.list_(pa.field("element", form, False)))
    )


@pytest.mark.parametrize(
    ("name", "row", "values", "said"),
    [
        ("ratings", 2, [1.0], "`ratings` holds a list of 1 beside one of 2 in 1 of 6 rows; expected as many elements "
                              "as `recent` has in the row"),
        ("shops", 3, [1], r"`shops` holds a list of 1 beside one of 3 in 1 of 6 rows.*\(first in row 3\)"),
        ("recent", 5, [1, 2], "`ages` holds a list of 1 beside one of 2 in 1 of 6 rows"),
        ("ratings", 1, [6.0], r"`ratings` holds 6.0 in 1 of 6 rows; expected a finite number in \[-5, 5\], in lists"),
        ("ages", 5, [float("nan")], r"`ages` holds nan in 1 of 6 rows.*\(first in row 5\)"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_by_name(tmp_path: Path, name: str, row: int, values: list[Any], said: str) -> None:
    write_encoded(tmp_path, changed(name, row, values), group_rows=6)

    with pytest.raises(DataError, match=f"part-0.parquet, row group 0, column {said}"):
        list(stream(tmp_path, shuffle=False))


def test_lists_beside_one_that_is_clipped_are_clipped_with_it(tmp_path: Path) -> None:
    long = {
        "recent": [1, 2, 1, 2],
        "shops": [2, 2, 1, 1],
        "ratings": [0.0, 1.0, 2.0, 3.0],
        "ages": [4.0, 3.0, 2.0, 1.0],
    }
    table = encoded_table(SIX)
    for name, values in long.items():
        column = changed(name, 4, values)[name]
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    write_encoded(tmp_path, table)

    clipping = stream(tmp_path, grouped_contract(invalid={"recent": "clip"}), shuffle=False, batch_size=6)
    (batch,) = clipping

    assert lists_of_batch(batch)[4] == {name: values[-3:] for name, values in long.items()}
    assert clipping.counts == {"values clipped: recent": 1}
    with pytest.raises(DataError, match="`recent` holds a list of 4 in 1 of 1 rows; expected at most 3 values"):
        list(stream(write_encoded(tmp_path / "stop", table.slice(4, 1)), shuffle=False))


def test_rows_whose_lists_disagree_are_dropped_where_that_is_declared(tmp_path: Path) -> None:
    write_encoded(tmp_path, changed("ratings", 2, [1.0]), group_rows=6)
    dropping = stream(tmp_path, grouped_contract(invalid={"ratings": "drop"}, most_dropped=0.5), batch_size=6)

    (batch,) = dropping

    rows = keys_of(batch)
    assert sorted(rows) == [0, 1, 3, 4, 5]
    assert lists_of_batch(batch) == [naive(SIX[row]) for row in rows]
    assert dropping.counts == {"rows dropped": 1, "rows dropped: ratings": 1}


def test_raw_lists_are_compared_before_they_are_cut(tmp_path: Path) -> None:
    long = pa.array([[], [1.0], [1.0, 1.0], [1.0] * 5, [], [1.0]])

    with pytest.raises(DataError, match=r"`ratings` holds a list of 5 beside one of 4 in 1 of 4 rows.*first in row 3"):
        raw_to_batch(
            raw_table([*SIX[:3], [("mug", 1, 1.0, 2.0)] * 4], ratings=long.slice(0, 4)), CONTRACT, VOCABULARIES
        )
