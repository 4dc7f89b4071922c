"""Damaged files, drifting schemas and forbidden values: each stops the stream and says where."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import DataError
from tests.streaming.rows import encoded_rows, keys, open_stream, write_column, write_layout


def ints(*values):
    return pa.array(values, pa.int32())


def floats(*values):
    return pa.array(values, pa.float32())


def lists(*values):
    return pa.array(values, pa.list_(pa.int32()))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "item_id",
            ints(0, 1, 8, 3, 4, 5),
            r"holds 8 in 1 of 6 rows; expected 0 to 7 \(table `item`\) \(first in row 2",
        ),
        (
            "item_id",
            ints(0, 1, 2, -1, 9, 5),
            r"holds -1 in 2 of 6 rows; expected 0 to 7 \(table `item`\) \(first in row 3",
        ),
        ("recent", lists([], [1], [2, 7], [], [3, 8], []), r"holds 8 in 1 of 6 rows; expected 0 to 7 .*first in row 4"),
        ("recent", lists([], [1], [], [], [], [-5]), r"holds -5 in 1 of 6 rows; expected 0 to 7 .*first in row 5"),
        ("recent", lists([], [1, 2, 3, 4], [], [], [], []), r"holds a list of 4 in 1 of 6 rows; expected at most 3"),
        ("segment", pa.array([0, 1, 2, 3, 0, 0], pa.int8()), r"holds 3 in 1 of 6 rows; expected 0 to 2 .*cold, light"),
        ("segment", pa.array([0, -1, 2, 1, 0, 0], pa.int8()), "holds -1 in 1 of 6 rows; expected 0 to 2"),
        ("label", floats(0, 1, 1, 0, 0.5, 0), r"holds 0\.5 in 1 of 6 rows; expected 0 or 1 \(first in row 4\)"),
        ("label", floats(0, 1, float("nan"), 0, 0, 0), "holds nan in 1 of 6 rows; expected 0 or 1"),
        ("age", floats(0, 1, float("nan"), 0, 0, 0), "holds nan in 1 of 6 rows; expected a finite number"),
        ("age", floats(float("nan"), 1, 1, 0, 0, 0), "holds nan in 1 of 6 rows; expected a finite number"),
        ("price", floats(0, float("-inf"), 0, 0, 0, 0), "holds -inf in 1 of 6 rows; expected a finite number"),
        ("weight", floats(1, 1, 1, -2, 1, 1), r"holds -2\.0 in 1 of 6 rows; expected a weight of 0 or more"),
        ("weight", floats(1, 1, float("inf"), 1, 1, 1), "holds inf in 1 of 6 rows; expected a weight of 0 or more"),
        ("age", floats(0, None, 0, 0, None, 0), "holds null in 2 of 6 rows; expected a value"),
        ("item_id", ints(0, None, 0, 0, 1, 0), "holds null in 1 of 6 rows; expected a value"),
        ("recent", lists([], [1, None], [], [], [], []), r"holds null in 1 of 6 rows; expected a value.*in row 1"),
        ("recent", lists([], [1], [], None, [], []), r"holds null in 1 of 6 rows; expected a value.*in row 3"),
    ],
)
@pytest.mark.parametrize("decode_threads", [0, 2])
def test_a_value_outside_the_contract_stops_the_step_loop_and_says_where(
    tmp_path, column, values, message, decode_threads
):
    path = write_column(tmp_path, {column: values})

    with pytest.raises(DataError, match=message) as raised:
        keys(open_stream(tmp_path, decode_threads=decode_threads))

    assert f"{path}, row group 0, column `{column}`" in str(raised.value)


def test_finite_values_whose_sum_overflows_are_let_through(tmp_path):
    write_column(tmp_path, {"age": floats(3e38, 3e38, 3e38, 0, 0, 0)})

    assert sorted(np.concatenate(keys(open_stream(tmp_path))).tolist()) == list(range(6))


def test_rows_before_a_bad_row_group_still_arrive_and_the_error_follows_them(tmp_path):
    write_layout(tmp_path, [[8], [8]])
    bad = encoded_rows(8, 8).set_column(4, "item_id", ints(*[1000] * 8))
    pq.write_table(bad, tmp_path / "split=train" / "day=2011-01-02" / "part-0.parquet")
    stream = open_stream(tmp_path, shuffle=False)
    arrived = []

    with pytest.raises(DataError, match="day=2011-01-02"):
        arrived.extend(batch.extra["user_key"].tolist() for batch in stream)

    assert arrived == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert stream.epoch == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["price"]), r"column `price` \(float\) is missing; found age, user_id"),
        (lambda t: t.rename_columns({"price": "cost"}), r"column `price` \(float\) is missing; .*cost"),
        (
            lambda t: t.set_column(1, "user_id", t["user_id"].cast(pa.int64())),
            "column `user_id` has type int64; expected int32",
        ),
        (
            lambda t: t.set_column(2, "recent", t["recent"].cast(pa.list_(pa.int64()))),
            r"column `recent` has type list<\w+: int64>; expected list<item: int32>",
        ),
        (
            # The same bytes as a list's: only what Arrow's writer noted in the footer tells them apart.
            lambda t: t.set_column(2, "recent", pa.array([[1, 2]] * 4, pa.list_(pa.int32(), 2))),
            r"column `recent` has type fixed_size_list<.*>\[2\]; expected list<item: int32>",
        ),
        (
            lambda t: t.set_column(0, "age", t["age"].cast(pa.float64())),
            "column `age` has type double; expected float",
        ),
        (
            lambda t: t.set_column(9, "user_key", t["user_key"].cast(pa.int32())),
            "column `user_key` has type int32; expected int64",
        ),
    ],
)
def test_a_second_file_of_another_schema_is_refused_before_the_first_batch(tmp_path, change, message):
    write_layout(tmp_path, [[4], [4]])
    path = tmp_path / "split=train" / "day=2011-01-02" / "part-0.parquet"
    pq.write_table(change(encoded_rows(4, 4)), path)

    with pytest.raises(DataError, match=message) as raised:
        open_stream(tmp_path)

    assert str(path) in str(raised.value)


def test_columns_that_nobody_asked_for_may_differ(tmp_path):
    write_layout(tmp_path, [[4], [4]])
    table = encoded_rows(4, 4).drop_columns(["time", "true_probability"])
    pq.write_table(table, tmp_path / "split=train" / "day=2011-01-02" / "part-0.parquet")

    assert sorted(np.concatenate(keys(open_stream(tmp_path))).tolist()) == list(range(8))


@pytest.mark.parametrize("kept", [0, 3, 0.5, -1])
def test_an_empty_or_truncated_file_is_refused_before_the_first_batch(tmp_path, kept):
    write_layout(tmp_path, [[40], [40]])
    path = tmp_path / "split=train" / "day=2011-01-02" / "part-0.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])

    with pytest.raises(DataError, match="footer cannot be read") as raised:
        open_stream(tmp_path)

    assert str(path) in str(raised.value)


def test_no_flipped_bit_goes_unseen(tmp_path):
    path = write_column(tmp_path, {}, rows=6)
    whole = path.read_bytes()
    expected = [batch_values(batch) for batch in open_stream(tmp_path, shuffle=False)]
    footer = int.from_bytes(whole[-8:-4], "little")
    seen = 0
    for offset in range(5, len(whole) - 8 - footer, 37):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x10]) + whole[offset + 1 :])
        # Some bytes stand for nothing we read, as the columns left out: those must change nothing.
        found = values_or_error(tmp_path)
        if isinstance(found, DataError):
            assert f"{path}, row group 0, column `" in str(found)
            seen += 1
        else:
            assert found == expected
    assert seen >= 10


def values_or_error(root):
    try:
        return [batch_values(batch) for batch in open_stream(root, shuffle=False, decode_threads=0)]
    except DataError as error:
        return error


def batch_values(batch):
    return [
        batch.dense.tolist(), batch.sparse.values().tolist(), batch.sparse.lengths().tolist(),
        batch.segment.tolist(), batch.label.tolist(), batch.weight.tolist(), batch.extra["user_key"].tolist(),
    ]  # fmt: skip


def test_a_file_that_is_replaced_during_the_run_is_noticed(tmp_path):
    write_layout(tmp_path, [[8]])
    stream = open_stream(tmp_path)
    write_column(tmp_path, {}, rows=6)

    with pytest.raises(DataError, match="6 rows, but 8 when the run began"):
        keys(stream)


@pytest.mark.parametrize("layout", [[], [[0]], [[0], [0, 0]]])
def test_a_split_without_rows_is_refused(tmp_path, layout):
    write_layout(tmp_path, layout)

    with pytest.raises(DataError, match=r"0 rows for split `train`: .* holds \d Parquet files of it"):
        open_stream(tmp_path)


def test_empty_files_between_full_ones_and_empty_lists_are_fine(tmp_path):
    write_layout(tmp_path, [[4], [0], [0, 3]])
    write_column(tmp_path, {"recent": lists([], [], [], [])}, rows=4)

    batches = list(open_stream(tmp_path, shuffle=False, batch_size=4))

    assert batches[0].sparse["recent"].lengths().tolist() == [0, 0, 0, 0]
    assert batches[0].sparse["recent"].values().tolist() == []
    assert [batch.extra["user_key"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6]]


def test_unfinished_files_of_a_writer_are_left_alone(tmp_path):
    write_layout(tmp_path, [[4]])
    (tmp_path / "split=train" / "day=2011-01-01" / ".part-1.parquet").write_bytes(b"half")

    assert open_stream(tmp_path).num_rows == 4
