"""The facts about Parquet files, and what the loader would do with them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import DataError
from recsys.inspection import footers as module
from recsys.inspection.advice import plan_loading
from recsys.inspection.footers import ColumnFacts, inspect_parquet
from recsys.streaming import row_groups
from tests.streaming.rows import open_stream, write_layout


def written(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def only_column(path: Path) -> ColumnFacts:
    (column,) = inspect_parquet(path).columns
    return column


def test_rows_row_groups_and_partitions_are_counted_in_the_order_of_the_days(tmp_path: Path):
    for day, rows in (("10", 3), ("9", 5)):
        written(tmp_path / "split=train" / f"day={day}" / "part.parquet", {"id": range(rows)}, row_group_size=2)
    found = inspect_parquet(tmp_path)
    assert (found.rows, len(found.files)) == (8, 2)
    assert found.group_rows == [2, 2, 1, 2, 1]
    assert found.summary()["partitions"] == {"split": ["train"], "day": ["10", "9"]}
    assert found.splits == {"train": [2, 2, 1, 2, 1]}
    assert found.middle_group_rows == 2


def test_one_file_is_inspected_by_itself(tmp_path: Path):
    path = written(tmp_path / "day=1" / "rows.parquet", {"id": [1]})
    assert inspect_parquet(path).rows == 1


def test_links_are_followed_round_no_circle(tmp_path: Path):
    elsewhere = written(tmp_path / "elsewhere" / "rows.parquet", {"id": [1, 2]})
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "day=1").symlink_to(elsewhere.parent)
    (tmp_path / "rows" / "circle").symlink_to(tmp_path / "rows")
    found = inspect_parquet(tmp_path / "rows")
    assert (found.rows, found.summary()["partitions"]) == (2, {"day": ["1"]})


def test_a_column_has_its_codec_and_its_bytes_over_all_row_groups(tmp_path: Path):
    values = pa.array([3, None, 7, 1, 1, None], pa.int32())
    path = written(tmp_path / "rows.parquet", {"id": values}, row_group_size=3, compression="gzip")
    column = only_column(path)
    assert (column.type, column.codec) == ("int32", "GZIP")
    stored = sum(pq.read_metadata(path).row_group(i).column(0).total_compressed_size for i in range(2))
    assert column.bytes_per_row == stored / 6


@pytest.mark.parametrize(
    ("options", "encodings"),
    [
        ({}, ("RLE_DICTIONARY",)),
        ({"use_dictionary": False}, ("PLAIN",)),
        ({"use_dictionary": False, "column_encoding": {"id": "DELTA_BINARY_PACKED"}}, ("DELTA_BINARY_PACKED",)),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_the_encoding_is_that_of_the_values(
    tmp_path: Path, options: dict[str, Any], encodings: tuple[str, ...], version: str
):
    path = written(tmp_path / "rows.parquet", {"id": [1, None, 2]}, data_page_version=version, **options)
    assert only_column(path).encodings == encodings


def test_every_leaf_of_a_nested_column_has_its_own_type(tmp_path: Path):
    columns = {
        "pair": pa.array([{"x": 1, "y": [0.5]}]),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int16())),
        "word": pa.array(["a"]).dictionary_encode(),
    }
    found = inspect_parquet(written(tmp_path / "rows.parquet", columns))
    assert {column.path: column.type for column in found.columns} == {
        "pair.x": "int64",
        "pair.y.list.element": "double",
        "map.key_value.key": "string",
        "map.key_value.value": "int16",
        "word": "string",
    }


def test_files_with_other_columns_are_left_aside_and_named(tmp_path: Path):
    written(tmp_path / "a.parquet", {"id": [1]})
    written(tmp_path / "b.parquet", {"id": [1, 2, 3]}, row_group_size=1)
    other = written(tmp_path / "c.parquet", {"id": [1.0, 2.0]})
    found = inspect_parquet(tmp_path)
    assert found.rows == 4
    assert [file.path for file in found.other_files] == [str(other)]


def test_hidden_files_are_no_rows(tmp_path: Path):
    write_layout(tmp_path, [[4]])
    for name in ("_staging/rows.parquet", "split=train/.hidden.parquet"):
        written(tmp_path / name, {"id": range(100)})
    assert inspect_parquet(tmp_path).rows == 4


def test_of_very_many_files_all_are_counted_and_the_columns_of_some_are_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_MOST_FILES_WITH_COLUMNS", 3)
    for number in range(10):
        codec = "none" if number % 4 == 0 else "zstd"
        written(tmp_path / f"part-{number}.parquet", {"id": [number, number]}, row_group_size=1, compression=codec)
    found = inspect_parquet(tmp_path)
    assert (found.rows, len(found.group_rows)) == (20, 20)
    # Those of the files 0, 4 and 8.
    assert found.columns[0].codec == "UNCOMPRESSED"


def test_a_damaged_footer_is_refused_with_its_file(tmp_path: Path):
    written(tmp_path / "good.parquet", {"id": [1]})
    cut = written(tmp_path / "cut.parquet", {"id": range(1000)})
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"cut\.parquet: its footer cannot be read"):
        inspect_parquet(tmp_path)


def test_a_folder_without_parquet_is_refused_with_what_it_holds(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("id\n1\n")
    with pytest.raises(DataError, match=r"holds no Parquet file \(\*\.parquet\); found 1 \.csv"):
        inspect_parquet(tmp_path)
    with pytest.raises(DataError, match="absent does not exist"):
        inspect_parquet(tmp_path / "absent")


def test_files_without_rows_are_refused(tmp_path: Path):
    written(tmp_path / "empty.parquet", {"id": pa.array([], pa.int64())})
    with pytest.raises(DataError, match="1 Parquet files, all without rows"):
        inspect_parquet(tmp_path)


@pytest.mark.parametrize("decode_threads", [0, 1, 3])
@pytest.mark.parametrize("shuffle_buffer_rows", [4, 16])
def test_the_plan_is_what_the_loader_does(tmp_path: Path, decode_threads: int, shuffle_buffer_rows: int):
    layout = [[10] * 20, [7] * 10]
    settings = {"batch_size": 4, "shuffle_buffer_rows": shuffle_buffer_rows, "decode_threads": decode_threads}
    stream = open_stream(write_layout(tmp_path, layout), **settings)
    planned = plan_loading(inspect_parquet(tmp_path).splits["train"], **settings, bytes_per_row=100.0)
    assert (planned.rows, planned.batches, planned.most_rows) == (stream.num_rows, stream.num_batches, stream.most_rows)
    assert planned.most_bytes == 100 * stream.most_rows
    assert planned.groups_alone == (30 if shuffle_buffer_rows == 4 else 0)


def test_a_huge_row_group_is_planned_in_parts_as_the_loader_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(row_groups, "ROWS_OF_A_PART", 10)
    settings = {"batch_size": 4, "shuffle_buffer_rows": 9, "decode_threads": 2}
    stream = open_stream(write_layout(tmp_path, [[7, 95]]), **settings)
    planned = plan_loading([7, 95], **settings, bytes_per_row=1.0)
    assert (planned.most_rows, planned.batches) == (stream.most_rows, stream.num_batches)
    # Nine parts of ten rows are larger than the buffer, the tenth of five is not.
    assert (planned.row_groups, planned.groups_in_parts, planned.groups_alone) == (2, 1, 9)


def test_no_more_rows_are_planned_in_memory_than_there_are():
    planned = plan_loading([5], batch_size=4, shuffle_buffer_rows=100, decode_threads=1, bytes_per_row=8.0)
    assert (planned.most_rows, planned.most_bytes) == (5, 40)
