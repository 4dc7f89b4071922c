"""Rows behind a URI: the same batches as from a local folder, in few requests of which many are under way at once."""

import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import fs

from recsys.errors import DataError, UsageError
from recsys.streaming import rows
from recsys.streaming.loader import BatchStream
from recsys.streaming.read_ahead import column_ranges, joined_ranges, read_footer
from recsys.streaming.storage import Folder, open_folder
from tests.streaming.raw import EXPECTED, raw_stream, values_of, write_raw
from tests.streaming.rows import CONTRACT, encoded_rows, keys, open_stream, write_layout
from tests.streaming.slow_storage import SlowStorage

LAYOUT = [[8, 5], [16], [1, 1, 9]]


def stream_at(where: str, **changed: object) -> BatchStream:
    settings = {
        "batch_size": 4, "seed": 7, "shuffle": True, "shuffle_buffer_rows": 16, "decode_threads": 2,
        "extras": ("user_key",), "device": torch.device("cpu"), **changed,
    }  # fmt: skip
    return BatchStream(where, "train", CONTRACT, **settings)


def copy_to(root: Path, uri: str) -> str:
    fs.copy_files(str(root), uri)
    return uri


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URI of a bucket on a local server, with a `{}` for the folder in it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    keys_before = {name: os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    os.environ.update(dict.fromkeys(keys_before, "testing"))
    query = f"endpoint_override=127.0.0.1%3A{port}&scheme=http&region=us-east-1"
    bucket, _ = fs.FileSystem.from_uri(f"s3://clicks?{query}&allow_bucket_creation=true")
    bucket.create_dir("clicks")
    yield f"s3://clicks/{{}}?{query}"
    server.stop()
    for name, value in keys_before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def test_encoded_rows_in_an_s3_bucket_come_in_the_same_batches_as_local_ones(tmp_path, s3):
    write_layout(tmp_path, LAYOUT)
    uri = copy_to(tmp_path, s3.format("encoded/rows"))

    assert keys(stream_at(uri)) == keys(open_stream(tmp_path))
    assert keys(stream_at(uri, days=["2011-01-02"])) == keys(open_stream(tmp_path, days=["2011-01-02"]))


def test_raw_rows_in_an_s3_bucket_are_encoded_as_they_come(tmp_path, s3):
    write_raw(tmp_path / "split=train" / "part-0.parquet", row_group_size=3)
    uri = copy_to(tmp_path, s3.format("raw"))

    assert values_of(raw_stream(uri)) == EXPECTED


def test_what_is_missing_in_a_bucket_is_named_without_its_query(s3):
    with pytest.raises(DataError, match="0 rows for split `train`: s3://clicks/nothing holds 0 Parquet files"):
        stream_at(s3.format("nothing"))
    with pytest.raises(
        DataError, match=r"s3://nobody/rows cannot be listed|0 rows for split `train`: s3://nobody/rows"
    ):
        stream_at(s3.format("x").replace("s3://clicks/x", "s3://nobody/rows"))


def test_an_object_that_is_deleted_while_it_is_read_is_named(tmp_path, s3):
    write_layout(tmp_path, [[8], [8]])
    uri = copy_to(tmp_path, s3.format("gone"))
    stream = stream_at(uri, shuffle=False)
    filesystem, path = fs.FileSystem.from_uri(uri)
    filesystem.delete_file(f"{path}/split=train/day=2011-01-02/part-0.parquet")

    with pytest.raises(DataError, match=r"day=2011-01-02/part-0.parquet, row group 0: cannot be fetched from s3://"):
        keys(stream)


def test_any_file_system_of_fsspec_holds_rows(tmp_path):
    write_layout(tmp_path, LAYOUT)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/encoded", recursive=True)
    try:
        assert keys(stream_at("memory://encoded")) == keys(open_stream(tmp_path))
    finally:
        memory.rm("/encoded", recursive=True)


def test_a_path_may_be_written_as_a_file_uri(tmp_path):
    write_layout(tmp_path / "a b", LAYOUT)

    folder = open_folder((tmp_path / "a b").as_uri())

    assert folder.is_local
    assert keys(stream_at((tmp_path / "a b").as_uri())) == keys(open_stream(tmp_path / "a b"))


def test_an_address_that_nothing_can_read_is_refused_without_its_password():
    with pytest.raises(UsageError, match="tape://drive/rows names no file system") as raised:
        open_folder("tape://me:secret@drive/rows?key=hidden")

    assert "secret" not in str(raised.value)
    assert "hidden" not in str(raised.value).split("(")[0]


def test_files_come_in_the_order_of_their_numbers_and_unfinished_ones_not_at_all(tmp_path):
    unfinished = ("_temporary/part-1.parquet", ".part-2.parquet", "notes.txt")
    for name in ("part-10.parquet", "part-9.parquet", "b/part-1.parquet", *unfinished):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    found = open_folder(tmp_path).files("", ".parquet")

    assert [path.removeprefix(f"{tmp_path}/") for path in found] == [
        "b/part-1.parquet", "part-9.parquet", "part-10.parquet",
    ]  # fmt: skip


def test_folders_below_the_current_one_are_found(tmp_path, monkeypatch):
    write_layout(tmp_path, [[4]])
    monkeypatch.chdir(tmp_path)

    assert keys(stream_at(".")) == keys(open_stream(tmp_path))


def test_folders_name_columns(tmp_path):
    folder = Folder(fs.LocalFileSystem(), tmp_path, "x")
    path = tmp_path / "day=2011-06-30" / "a%20b=c%2Fd" / "e=__HIVE_DEFAULT_PARTITION__" / "plain" / "part=1.parquet"

    assert folder.partitions(path) == {"day": "2011-06-30", "a b": "c/d", "e": None}


def slow_stream(storage: SlowStorage, monkeypatch: pytest.MonkeyPatch, **changed: object) -> BatchStream:
    monkeypatch.setattr(rows, "open_folder", lambda where: storage.folder)
    return stream_at("slow://bucket", **changed)


def test_a_row_group_costs_one_request_beside_its_footer(tmp_path, monkeypatch):
    write_layout(tmp_path, [[40, 40, 40]])
    storage = SlowStorage(tmp_path, 0)
    stream = slow_stream(storage, monkeypatch, shuffle=False)
    storage.requests.clear()

    keys(stream)

    ranges = [(start, size) for _, start, size in storage.requests if start is not None]
    footers = [
        size for start, size in ranges if size == min(65_536, (tmp_path / storage.requests[0][0]).stat().st_size)
    ]
    assert len(ranges) - len(footers) == 3
    assert len(footers) == 1


def test_columns_that_nobody_needs_are_not_fetched(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    wide = encoded_rows(0, 60_000).append_column("unread", pa.array(os.urandom(100) for _ in range(60_000)))
    pq.write_table(wide, path, use_dictionary=False, compression="none", row_group_size=30_000)
    footer = pq.read_metadata(path)

    ranges = joined_ranges(column_ranges(footer, 1, ["age", "recent", "true_probability"]))

    chunks = {footer.row_group(1).column(i).path_in_schema: footer.row_group(1).column(i) for i in range(12)}
    assert ranges[0][0] == chunks["age"].data_page_offset
    assert (
        ranges[-1][1] == chunks["true_probability"].data_page_offset + chunks["true_probability"].total_compressed_size
    )
    assert sum(stop - start for start, stop in ranges) < chunks["unread"].total_compressed_size / 2


def test_a_long_footer_takes_a_second_request_and_a_short_one_none(tmp_path):
    for columns, requests in ((5, 1), (900, 2)):
        path = tmp_path / f"{columns}.parquet"
        pq.write_table(pa.table({f"column {i}": [1] for i in range(columns)}), path)
        storage = SlowStorage(tmp_path, 0)
        with storage.folder.open(PurePosixPath(f"/bucket/{path.name}")) as file:
            footer = read_footer(file)

        assert footer.num_columns == columns
        assert sum(start is not None for _, start, _ in storage.requests) == requests


def test_many_row_groups_are_on_their_way_while_one_is_decoded(tmp_path, monkeypatch):
    write_layout(tmp_path, [[20]] * 30)
    expected = keys(open_stream(tmp_path))
    storage = SlowStorage(tmp_path, 0.02)
    stream = slow_stream(storage, monkeypatch, decode_threads=1)
    storage.most_at_once = 0

    found = keys(stream)

    assert found == expected
    # One thread decodes: without reading ahead, no two requests would ever be under way together.
    assert storage.most_at_once >= 16
    # Opened for the check of footers, and for the only row group.
    assert set(Counter(name for name, start, _ in storage.requests if start is None).values()) == {2}


def test_no_more_rows_are_fetched_ahead_than_the_bound_allows(tmp_path, monkeypatch):
    write_layout(tmp_path, [[20]] * 12)
    monkeypatch.setattr("recsys.streaming.read_ahead._ROWS_AHEAD", 60)
    storage = SlowStorage(tmp_path, 0.005)
    stream = slow_stream(storage, monkeypatch, shuffle=False, decode_threads=0)
    storage.requests.clear()

    first = iter(stream)
    next(first)
    stream.close()

    # One was taken and the three next ones fit the bound.
    assert len({name for name, _, _ in storage.requests}) <= 1 + 3 + 1


def test_requests_end_with_the_stream(tmp_path, monkeypatch):
    write_layout(tmp_path, [[20]] * 12)
    stream = slow_stream(SlowStorage(tmp_path, 0.005), monkeypatch)

    next(iter(stream))
    stream.close()

    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("recsys-")] == []


def test_a_request_that_fails_stops_the_stream_and_names_the_file(tmp_path, monkeypatch):
    write_layout(tmp_path, [[20]] * 4)
    storage = SlowStorage(tmp_path, 0)
    stream = slow_stream(storage, monkeypatch, shuffle=False)
    shutil.rmtree(tmp_path / "split=train" / "day=2011-01-03")

    with pytest.raises(DataError, match=r"day=2011-01-03/part-0.parquet, row group 0: cannot be fetched from slow://b"):
        keys(stream)
