"""Row groups too large for memory come in parts, and nobody can tell from the rows."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from recsys.errors import DataError
from recsys.streaming import parquet, row_groups
from recsys.streaming.row_groups import OpenRowGroup, PartReader, RowGroup
from tests.streaming.rows import encoded_rows, keys, open_stream, write_column, write_layout


@pytest.fixture(autouse=True)
def parts_of_four_rows(monkeypatch):
    """Row groups of more than 8 rows are huge."""
    monkeypatch.setattr(row_groups, "ROWS_OF_A_PART", 4)


@pytest.fixture
def opened(monkeypatch):
    """How often a row group was opened to be read in parts."""
    count = []
    original = OpenRowGroup.__init__
    monkeypatch.setattr(
        OpenRowGroup, "__init__", lambda self, *how, **reading: count.append(how) or original(self, *how, **reading)
    )
    return count


def test_only_a_huge_row_group_is_read_in_parts(tmp_path):
    write_layout(tmp_path, [[8, 10]])

    groups = open_stream(tmp_path)._rows.groups

    assert [(group.index, group.first, group.rows) for group in groups] == [
        (0, None, 8), (1, 0, 4), (1, 4, 4), (1, 8, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("decode_threads", [0, 1, 4])
def test_a_row_group_in_parts_gives_its_rows_in_order_and_is_opened_once(tmp_path, opened, decode_threads):
    write_layout(tmp_path, [[3], [30]])

    batches = list(open_stream(tmp_path, shuffle=False, decode_threads=decode_threads, batch_size=7))

    assert [key for batch in batches for key in batch.extra["user_key"].tolist()] == list(range(33))
    rows = encoded_rows(0, 33).to_pylist()
    recent = [values for batch in batches for values in batch.sparse["recent"].to_dense()]
    assert [values.tolist() for values in recent] == [row["recent"] for row in rows]
    assert len(opened) == 1


@pytest.mark.parametrize("decode_threads", [0, 1, 4])
def test_a_shuffle_gathers_neighbouring_parts_and_loses_no_row(tmp_path, opened, decode_threads):
    write_layout(tmp_path, [[30], [5], [40]])
    stream = open_stream(tmp_path, decode_threads=decode_threads, shuffle_buffer_rows=12)

    first, second = keys(stream), keys(stream)

    assert sorted(itertools.chain(*first)) == list(range(75)) == sorted(itertools.chain(*second))
    assert first != second
    assert len(opened) == 2 * 2
    assert first == keys(open_stream(tmp_path, decode_threads=2, shuffle_buffer_rows=12))
    # Three parts of 4 rows are a pool: rows of different parts meet in a batch of 4.
    assert any(len({key // 4 for key in batch}) > 2 for batch in first)


def test_rows_in_memory_depend_on_the_parts_and_not_on_the_row_group(tmp_path):
    peaks = []
    for rows in (100, 1000):
        stream = open_stream(write_layout(tmp_path / str(rows), [[rows]]), shuffle_buffer_rows=16)
        assert sum(map(len, stream)) == rows
        assert stream.peak_rows <= stream.most_rows
        peaks.append((stream.peak_rows, stream.most_rows))

    assert peaks[0] == peaks[1]


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_run_goes_on_in_the_middle_of_a_huge_row_group_at_another_number_of_ranks(tmp_path, world_size, shuffle):
    write_layout(tmp_path, [[50], [6], [31]])
    begun = open_stream(tmp_path, shuffle=shuffle)
    seen = [key for batch in itertools.islice(begun, 9) for key in batch.extra["user_key"].tolist()]

    for rank in range(world_size):
        stream = open_stream(tmp_path, shuffle=shuffle, rank=rank, world_size=world_size)
        stream.load_state_dict(begun.state_dict())
        seen.extend(itertools.chain(*keys(stream)))

    assert sorted(seen) == list(range(87))


def test_a_stream_left_in_the_middle_of_a_huge_row_group_ends_and_may_be_taken_up_again(tmp_path):
    stream = open_stream(write_layout(tmp_path, [[400]]), decode_threads=4, shuffle=False)

    left_early = [batch.extra["user_key"].tolist() for batch in itertools.islice(stream, 3)]
    stream.close()

    assert left_early + keys(stream) == [list(range(first, first + 4)) for first in range(0, 400, 4)]


@pytest.mark.parametrize("decode_threads", [0, 2])
def test_a_forbidden_value_in_a_part_is_named_with_its_place(tmp_path, decode_threads):
    path = write_column(tmp_path, {"item_id": pa.array([1] * 17 + [99] + [1] * 12, pa.int32())}, rows=30)

    with pytest.raises(DataError, match="column `item_id` holds 99") as raised:
        keys(open_stream(tmp_path, decode_threads=decode_threads, shuffle=False))

    assert f"{path}, row group 0, rows from 16, column" in str(raised.value)
    assert "first in row 1)" in str(raised.value)


@pytest.mark.parametrize("decode_threads", [0, 2])
def test_damage_in_a_huge_row_group_is_named_with_its_column(tmp_path, decode_threads):
    path = write_column(tmp_path, {}, rows=3000)
    whole = bytearray(path.read_bytes())
    column = parquet.pq.ParquetFile(path).metadata.row_group(0).column(3)
    whole[column.dictionary_page_offset + column.total_compressed_size // 2] ^= 0x10
    path.write_bytes(bytes(whole))

    with pytest.raises(DataError, match="column `price`: cannot be decoded") as raised:
        keys(open_stream(tmp_path, decode_threads=decode_threads))

    assert f"{path}, row group 0" in str(raised.value)


def test_parts_that_a_plan_repeats_are_read_again(tmp_path):
    path = write_column(tmp_path, {}, rows=20)
    parts = [RowGroup(path.parent, path.name, 0, 4, first) for first in (8, 12, 8)]
    reader = PartReader(parts)

    found = [reader.read(part, ["user_key"]).column("user_key").to_pylist() for part in parts]

    assert found == [[8, 9, 10, 11], [12, 13, 14, 15], [8, 9, 10, 11]]


def test_a_part_that_a_plan_has_twice_in_a_row_is_read_by_one_thread_after_the_other(tmp_path):
    path = write_column(tmp_path, {}, rows=20)
    reader = PartReader([RowGroup(path.parent, path.name, 0, 4, 8)] * 6)

    with ThreadPoolExecutor(3) as threads:
        found = list(
            threads.map(lambda part: reader.read(part, ["user_key"]), [RowGroup(path.parent, path.name, 0, 4, 8)] * 6)
        )

    assert [table.column("user_key").to_pylist() for table in found] == [[8, 9, 10, 11]] * 6


def test_one_huge_row_group_is_open_at_a_time_however_many_threads_read(tmp_path, monkeypatch):
    write_layout(tmp_path, [[20], [20], [20]])
    now, most = [], []
    begin, end = OpenRowGroup.__init__, OpenRowGroup.close
    monkeypatch.setattr(
        OpenRowGroup,
        "__init__",
        lambda self, *how, **reading: now.append(self) or most.append(len(now)) or begin(self, *how, **reading),
    )
    monkeypatch.setattr(OpenRowGroup, "close", lambda self: now.remove(self) or end(self))

    assert len(list(open_stream(tmp_path, decode_threads=4))) == 15

    assert most == [1, 1, 1]
    assert not now
