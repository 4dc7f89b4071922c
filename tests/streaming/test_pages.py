"""What page headers tell that footers do not."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import DataError
from recsys.streaming.pages import Pages, read_pages


def pages_of(path: Path, rows: pa.Table, **options: Any) -> dict[str, Pages]:
    pq.write_table(rows, path, **options)
    return read_pages(path, pq.read_metadata(path).row_group(0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.parquet"


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("has_checksums", [True, False])
def test_a_dictionary_page_tells_the_number_of_distinct_values_and_checksums_are_seen(
    path: Path, version: str, has_checksums: bool
):
    rows = pa.table({"word": ["a", "b", "b", "c"], "lists": [[1, 2], [], [2], [2]]})
    found = pages_of(path, rows, data_page_version=version, write_page_checksum=has_checksums)
    assert found == {
        "word": Pages(2, ("RLE_DICTIONARY",), 3, has_checksums),
        "lists.list.element": Pages(2, ("RLE_DICTIONARY",), 2, has_checksums),
    }
    assert found["word"].is_dictionary_whole


def test_a_column_without_dictionary_has_no_distinct_values_and_its_own_encoding(path: Path):
    rows = pa.table({"plain": [1.0, 2.0], "delta": [1, 2]})
    encodings = {"plain": "PLAIN", "delta": "DELTA_BINARY_PACKED"}
    found = pages_of(path, rows, use_dictionary=False, column_encoding=encodings)
    assert {name: (pages.encodings, pages.dictionary_values) for name, pages in found.items()} == {
        "plain": (("PLAIN",), None),
        "delta": (("DELTA_BINARY_PACKED",), None),
    }
    assert not found["plain"].is_dictionary_whole


def test_a_dictionary_that_was_given_up_half_way_is_not_taken_for_a_whole_one(path: Path):
    rows = pa.table({"id": np.arange(2000)})
    (pages,) = pages_of(path, rows, dictionary_pagesize_limit=4000, data_page_size=1000, write_batch_size=100).values()
    assert pages.encodings == ("RLE_DICTIONARY", "PLAIN")
    assert 0 < (pages.dictionary_values or 0) < 2000
    assert not pages.is_dictionary_whole


def test_long_values_in_a_page_header_are_passed_over(path: Path):
    rows = pa.table({"text": ["x" * 3000, "y" * 3000]})
    (pages,) = pages_of(path, rows, use_dictionary=False).values()
    assert pages.encodings == ("PLAIN",)


def test_bytes_that_are_no_page_header_are_refused_with_file_and_column(path: Path):
    pages_of(path, pa.table({"first": [1, 2, 3], "second": [4, 5, 6]}))
    begin = pq.read_metadata(path).row_group(0).column(1).dictionary_page_offset
    content = bytearray(path.read_bytes())
    content[begin : begin + 30] = b"\xff" * 30
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.parquet, column `second`: no page header at byte"):
        read_pages(path, pq.read_metadata(path).row_group(0))
