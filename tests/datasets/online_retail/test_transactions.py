"""Parquet files of transactions are read together; a damaged or foreign one is refused by name."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.datasets.archives.retail_transactions import COLUMNS
from recsys.datasets.database import fetch, temporary_database
from recsys.datasets.online_retail.transactions import read_transactions
from recsys.errors import DataError
from recsys.progress import silent
from tests.datasets.online_retail.shop import line, write_transactions


def read(path: Path, scratch: Path) -> list[dict]:
    with temporary_database(scratch, "100MB", 1) as connection:
        table, digests = read_transactions(connection, path, silent)
        assert all(digest.startswith("sha256:") for digest in digests.values())
        return fetch(connection, table.order_by("invoice_date")).to_pylist()


def test_parquet_files_of_several_months_are_read_together(tmp_path):
    write_transactions(tmp_path / "raw", [line("1", "11111", "01-01 09:00", 5)])
    (tmp_path / "raw" / "transactions.parquet").rename(tmp_path / "raw" / "transactions-01.parquet")
    write_transactions(tmp_path / "raw", [line("2", "22222", "02-01 09:00", 6)])

    assert [row["invoice"] for row in read(tmp_path / "raw", tmp_path)] == ["1", "2"]


def refusal(path: Path, scratch: Path) -> str:
    with pytest.raises(DataError) as raised:
        read(path, scratch)
    return str(raised.value)


def test_a_parquet_file_without_a_column_or_with_another_type_is_refused(tmp_path):
    folder = write_transactions(tmp_path, [line("1", "11111", "01-01 09:00", 5)])
    table = pq.read_table(folder / "transactions.parquet")

    pq.write_table(table.drop_columns("unit_price"), folder / "transactions.parquet")
    assert "transactions.parquet: column `unit_price` is missing; found invoice," in refusal(folder, tmp_path)

    text = table.set_column(3, "quantity", pa.array(["1"]))
    pq.write_table(text, folder / "transactions.parquet")
    assert "column `quantity` has type string; expected int64" in refusal(folder, tmp_path)


def test_a_second_file_of_another_form_is_found_before_it_is_mixed_in(tmp_path):
    folder = write_transactions(tmp_path, [line("1", "11111", "01-01 09:00", 5)])
    table = pq.read_table(folder / "transactions.parquet").rename_columns({"country": "land"})
    pq.write_table(table, folder / "transactions-2.parquet")

    assert "transactions-2.parquet: column `country` is missing" in refusal(folder, tmp_path)


def test_any_name_of_a_folder_is_just_a_name(tmp_path):
    raw = tmp_path / "quantity=7" / "[*] it's"
    write_transactions(raw, [line("1", "11111", "01-01 09:00", 5)])

    (row,) = read(raw, tmp_path)
    assert (row["invoice"], row["quantity"]) == ("1", 1)


def test_a_copy_of_a_file_is_refused(tmp_path):
    write_transactions(tmp_path / "raw", [line("1", "11111", "01-01 09:00", 5)])
    shutil.copy(tmp_path / "raw" / "transactions.parquet", tmp_path / "raw" / "transactions (1).parquet")

    assert "each of their rows would count twice" in refusal(tmp_path / "raw", tmp_path)


def test_a_parquet_file_cut_short_is_refused(tmp_path):
    file = write_transactions(tmp_path, [line("1", "11111", "01-01 09:00", 5)]) / "transactions.parquet"
    file.write_bytes(file.read_bytes()[:200])

    assert "transactions.parquet cannot be read as Parquet" in refusal(tmp_path, tmp_path)


def test_what_every_layout_is_read_as_is_what_the_schema_of_the_table_says(tmp_path):
    folder = write_transactions(tmp_path, [line("1", "11111", "01-01 09:00", 5)])

    assert list(read(folder, tmp_path)[0]) == list(COLUMNS)
