"""The facts about Parquet files, and what the loader would do with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import DataError
from recsys.streaming import inspection as module
from recsys.streaming import parquet, plan
from recsys.streaming.inspection import Column, Inspection, inspect_parquet, text_of
from recsys.streaming.plan import plan_loading
from tests.streaming.rows import open_stream, write_layout


def written(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def column_of(found: Inspection, path: str) -> Column:
    return next(column for column in found.columns if column.path == path)


def test_rows_row_groups_and_partitions_are_counted_in_the_order_of_the_days(tmp_path: Path):
    for day, rows in (("10", 3), ("9", 5)):
        written(tmp_path / "split=train" / f"day={day}" / "part.parquet", {"id": range(rows)}, row_group_size=2)
    found = inspect_parquet(tmp_path)
    assert (found.rows, len(found.files)) == (8, 2)
    assert [group.rows for group in found.groups] == [2, 2, 1, 2, 1]
    assert found.partitions == {"split": ("train",), "day": ("10", "9")}
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
    assert (found.rows, found.partitions) == (2, {"day": ("1",)})


def test_a_column_is_told_over_all_row_groups(tmp_path: Path):
    values = pa.array([3, None, 7, 1, 1, None], pa.int32())
    path = written(tmp_path / "rows.parquet", {"id": values}, row_group_size=3, compression="gzip")
    (column,) = inspect_parquet(path).columns
    assert (column.nulls, column.minimum, column.maximum) == (2, 1, 7)
    assert (column.physical, column.type, column.codec) == ("INT32", "int32", "GZIP")
    # The first of two groups of the same size: 3, null, 7; the second: 1, 1, null.
    assert column.dictionary_values == 1
    stored = sum(pq.read_metadata(path).row_group(i).column(0).total_compressed_size for i in range(2))
    assert column.bytes_per_row == stored / 6


def test_row_groups_that_follow_each_other_in_a_column_are_seen(tmp_path: Path):
    ids = {"sorted": [1, 1, 2, 3], "mixed": [1, 3, 2, 4], "constant": [5, 5, 5, 5]}
    found = inspect_parquet(written(tmp_path / "rows.parquet", ids, row_group_size=2))
    assert [column.path for column in found.columns if column.in_order] == ["sorted"]


def test_what_a_footer_does_not_tell_is_not_made_up(tmp_path: Path):
    path = written(tmp_path / "rows.parquet", {"id": [1, 2], "nan": [np.nan, np.nan]}, write_statistics=False)
    assert {(column.nulls, column.minimum, column.maximum) for column in inspect_parquet(path).columns} == {
        (None, None, None)
    }
    path = written(tmp_path / "rows.parquet", {"half": pa.array(np.array([-1, 2], np.float16))})
    assert inspect_parquet(path).columns[0].minimum is None


def test_a_row_group_without_values_does_not_hide_the_bounds_of_the_others(tmp_path: Path):
    lists = pa.array([[], [], [4, 9], []], pa.list_(pa.int64()))
    path = written(tmp_path / "rows.parquet", {"recent": lists}, row_group_size=2)
    column = column_of(inspect_parquet(path), "recent.list.element")
    assert (column.minimum, column.maximum, column.nulls) == (4, 9, 3)


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
    assert [file.path for file in found.other_files] == [other]


def test_vocabularies_and_hidden_files_are_no_rows_of_an_encoded_folder(tmp_path: Path):
    write_layout(tmp_path, [[4]])
    (tmp_path / "contract.json").write_text("{}")
    for name in ("vocabulary/user_id.parquet", "_staging/rows.parquet", "split=train/.hidden.parquet"):
        written(tmp_path / name, {"id": range(100)})
    assert inspect_parquet(tmp_path).rows == 4


def test_of_very_many_row_groups_all_are_counted_and_some_are_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_MOST_FILES_WITH_STATISTICS", 3)
    monkeypatch.setattr(module, "_MOST_GROUPS_WITH_STATISTICS", 4)
    for number in range(10):
        written(tmp_path / f"part-{number}.parquet", {"id": [number, number]}, row_group_size=1)
    found = inspect_parquet(tmp_path)
    assert (found.rows, len(found.groups), found.groups_with_statistics) == (20, 20, 4)
    # The first and the last are among them.
    assert (found.columns[0].minimum, found.columns[0].maximum) == (0, 9)


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


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.0, "0"), (1 / 3, "0.333333"), (b"\xff\x00", "0xff00"), ("x" * 30, "x" * 17 + "..."), (12, "12")],
)
def test_values_are_told_in_few_letters(value: Any, text: str):
    assert text_of(value) == text


@pytest.mark.parametrize("decode_threads", [0, 1, 3])
@pytest.mark.parametrize("shuffle_buffer_rows", [4, 16])
def test_the_plan_is_what_the_loader_does(tmp_path: Path, decode_threads: int, shuffle_buffer_rows: int):
    layout = [[10] * 20, [7] * 10]
    settings = {"batch_size": 4, "shuffle_buffer_rows": shuffle_buffer_rows, "decode_threads": decode_threads}
    stream = open_stream(write_layout(tmp_path, layout), **settings)
    groups = [group.rows for group in inspect_parquet(tmp_path).groups]
    planned = plan_loading(groups, **settings, decoded_bytes_per_row=100.0)
    assert (planned.rows, planned.batches, planned.most_rows) == (stream.num_rows, stream.num_batches, stream.most_rows)
    assert planned.most_bytes == 100 * stream.most_rows
    assert planned.groups_alone == (30 if shuffle_buffer_rows == 4 else 0)


def test_a_huge_row_group_is_planned_in_parts_as_the_loader_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parquet, "ROWS_OF_A_PART", 10)
    monkeypatch.setattr(plan, "ROWS_OF_A_PART", 10)
    settings = {"batch_size": 4, "shuffle_buffer_rows": 9, "decode_threads": 2}
    stream = open_stream(write_layout(tmp_path, [[7, 95]]), **settings)
    planned = plan_loading([7, 95], **settings, decoded_bytes_per_row=1.0)
    assert (planned.most_rows, planned.batches) == (stream.most_rows, stream.num_batches)
    # Nine parts of ten rows are larger than the buffer, the tenth of five is not.
    assert (planned.row_groups, planned.groups_in_parts, planned.groups_alone) == (2, 1, 9)


def test_no_more_rows_are_planned_in_memory_than_there_are():
    planned = plan_loading([5], batch_size=4, shuffle_buffer_rows=100, decode_threads=1, decoded_bytes_per_row=8.0)
    assert (planned.most_rows, planned.most_bytes) == (5, 40)
