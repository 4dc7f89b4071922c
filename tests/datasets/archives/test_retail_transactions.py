"""Every form of the publisher's transactions becomes the same table; a damaged or foreign file is refused by name."""

import csv
import tempfile
import zipfile
from datetime import datetime
from pathlib import Path

import openpyxl
import pyarrow.parquet as pq
import pytest

from recsys.datasets.archives import retail_transactions, unpack
from recsys.datasets.archives.retail_transactions import COLUMNS
from recsys.errors import DataError
from recsys.progress import silent

HEADER = ["Invoice", "StockCode", "Description", "Quantity", "InvoiceDate", "Price", "Customer ID", "Country"]
FIRST = [489434, 85048, "15CM CHRISTMAS GLASS BALL", 12, datetime(2009, 12, 1, 7, 45), 6.95, 13085, "United Kingdom"]
SECOND = ["C489449", "22087A", None, -12, datetime(2010, 12, 1, 10, 33), 2.95, None, "Australia"]
EXPECTED = [
    {
        "invoice": "489434",
        "stock_code": "85048",
        "description": "15CM CHRISTMAS GLASS BALL",
        "quantity": 12,
        "invoice_date": datetime(2009, 12, 1, 7, 45),
        "unit_price": 6.95,
        "customer_id": 13085,
        "country": "United Kingdom",
    },
    {
        "invoice": "C489449",
        "stock_code": "22087A",
        "description": None,
        "quantity": -12,
        "invoice_date": datetime(2010, 12, 1, 10, 33),
        "unit_price": 2.95,
        "customer_id": None,
        "country": "Australia",
    },
]


def read(path: Path, scratch: Path) -> list[dict]:
    """The transactions in the order of their file."""
    with tempfile.TemporaryDirectory(dir=scratch) as target:
        unpack("online_retail", path, Path(target), silent)
        assert [file.name for file in Path(target).iterdir()] == ["transactions.parquet"]
        return pq.read_table(Path(target, "transactions.parquet")).to_pylist()


def write_xlsx(path: Path, sheets: dict[str, list[list]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def two_sheets(path: Path) -> Path:
    return write_xlsx(path, {"Year 2009-2010": [HEADER, FIRST], "Year 2010-2011": [HEADER, SECOND]})


def write_csv(path: Path, rows: list[list], header: list[str] = HEADER) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def test_both_sheets_of_the_publishers_workbook_are_read(tmp_path):
    assert read(two_sheets(tmp_path / "online_retail_II.xlsx"), tmp_path) == EXPECTED


def test_the_publishers_zip_is_read_without_unpacking_it_first(tmp_path):
    workbook = two_sheets(tmp_path / "online_retail_II.xlsx")
    folder = tmp_path / "raw"
    folder.mkdir()
    with zipfile.ZipFile(folder / "online+retail+ii.zip", "w") as archive:
        archive.write(workbook, "../../online_retail_II.xlsx")

    assert read(folder, tmp_path) == EXPECTED
    assert [path.name for path in folder.iterdir()] == ["online+retail+ii.zip"]


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M:%S", "%m/%d/%Y %H:%M"])
def test_csv_is_read_with_either_of_its_dates_and_with_whole_customers(tmp_path, form):
    rows = [[*row[:4], row[4].strftime(form), *row[5:]] for row in (FIRST, SECOND)]
    rows[0][6] = "13085.0"

    assert read(write_csv(tmp_path / "online_retail_II.csv", rows), tmp_path) == EXPECTED


def test_the_first_years_names_of_the_columns_are_understood(tmp_path):
    old = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"]
    rows = [[*row[:4], str(row[4]), *row[5:]] for row in (FIRST, SECOND)]

    assert read(write_csv(tmp_path / "a.csv", rows, old), tmp_path) == EXPECTED


def refusal(path: Path, scratch: Path) -> str:
    with pytest.raises(DataError) as raised:
        read(path, scratch)
    return str(raised.value)


def test_an_empty_folder_and_an_absent_one_are_refused(tmp_path):
    (tmp_path / "raw").mkdir()

    assert "holds no transactions: expected transactions*.parquet or exactly one" in refusal(tmp_path / "raw", tmp_path)
    assert "`recsys fetch online_retail`" in refusal(tmp_path / "absent", tmp_path)


def test_a_row_that_is_too_short_is_refused(tmp_path):
    rows = [[*row[:4], str(row[4]), *row[5:]] for row in (FIRST, SECOND)]
    told = refusal(write_csv(tmp_path / "a.csv", [rows[0], rows[1][:7]]), tmp_path)

    assert "has 7 fields; expected 8, as in the header" in told


def test_a_sheet_without_a_column_is_named(tmp_path):
    path = write_xlsx(
        tmp_path / "a.xlsx", {"Year 2009-2010": [HEADER, FIRST], "Year 2010-2011": [HEADER[:-1], SECOND[:-1]]}
    )

    assert "a.xlsx, sheet 'Year 2010-2011': column `Country` is missing; found Invoice" in refusal(path, tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (3, "many", "column `Quantity` holds 'many'; expected int64"),
        (6, "13085.5", "column `Customer ID` holds '13085.5'; expected int64"),
        (6, f"{2**60 + 1}.0", f"column `Customer ID` holds '{2**60 + 1}.0'; expected int64"),
        (6, "1e18", "column `Customer ID` holds '1e18'; expected int64"),
        (4, "01.12.2009", "column `InvoiceDate` holds '01.12.2009'; expected timestamp"),
        (3, str(2**70), f"column `Quantity` holds '{2**70}'; expected int64"),
    ],
)
def test_a_cell_that_cannot_be_read_is_shown_with_its_place(tmp_path, place, value, expected):
    row = [*FIRST[:4], str(FIRST[4]), *FIRST[5:]]
    row[place] = value

    message = refusal(write_csv(tmp_path / "a.csv", [row]), tmp_path)

    assert "a.csv, data rows 1 to 1" in message
    assert expected in message


def test_a_customer_of_many_digits_keeps_every_one_of_them(tmp_path):
    row = [*FIRST[:4], str(FIRST[4]), FIRST[5], 2**60 + 1, FIRST[7]]

    (found,) = read(write_csv(tmp_path / "a.csv", [row]), tmp_path)

    assert found["customer_id"] == 2**60 + 1


@pytest.mark.parametrize("name", ["a.xlsx", "a.zip"])
def test_a_damaged_archive_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 and then nothing")

    assert f"{name} cannot be read (BadZipFile" in refusal(tmp_path / name, tmp_path)


def test_an_archive_that_declares_too_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(retail_transactions, "MAX_UNPACKED_BYTES", 1_000_000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", b"0" * 2_000_000)

    assert (tmp_path / "bomb.zip").stat().st_size < 10_000
    assert "bomb.zip declares 2000000 bytes unpacked; at most 1000000 are read" in refusal(
        tmp_path / "bomb.zip", tmp_path
    )


def test_a_bomb_inside_the_workbook_inside_the_zip_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", b"0" * 2_000_000)
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(tmp_path / "a.xlsx", "a.xlsx")
    monkeypatch.setattr(retail_transactions, "MAX_UNPACKED_BYTES", 1_000_000)

    assert "declares 2000000 bytes unpacked" in refusal(tmp_path / "outer.zip", tmp_path)


def test_a_zip_with_two_tables_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", "x")
        archive.writestr("b.csv", "x")

    assert "expected exactly one xlsx or csv in the zip" in refusal(tmp_path / "two.zip", tmp_path)


def test_a_zip_that_is_no_workbook_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as archive:
        archive.writestr("letter.txt", "x")

    assert "a.xlsx cannot be read (KeyError" in refusal(tmp_path / "a.xlsx", tmp_path)


def test_the_one_parquet_file_is_taken_as_it_is(tmp_path):
    (tmp_path / "out").mkdir()
    unpack("online_retail", two_sheets(tmp_path / "a.xlsx"), tmp_path / "out", silent)
    renamed = (tmp_path / "out" / "transactions.parquet").rename(tmp_path / "sales.parquet")

    assert read(renamed, tmp_path) == EXPECTED


def test_equal_archives_become_equal_bytes(tmp_path):
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        unpack("online_retail", two_sheets(tmp_path / f"{name}.xlsx"), tmp_path / name, silent)
        written.append((tmp_path / name / "transactions.parquet").read_bytes())

    assert written[0] == written[1]
    assert list(pq.read_schema(tmp_path / "a" / "transactions.parquet").names) == list(COLUMNS)


def test_a_zip_cut_in_its_middle_is_refused(tmp_path):
    rows = [[*FIRST[:4], str(FIRST[4]), *FIRST[5:]]] * 500
    with zipfile.ZipFile(tmp_path / "whole.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(write_csv(tmp_path / "rows.csv", rows), "a.csv")
    whole = (tmp_path / "whole.zip").read_bytes()
    (tmp_path / "torn.zip").write_bytes(whole[:200] + bytes(50) + whole[250:])

    assert "torn.zip" in refusal(tmp_path / "torn.zip", tmp_path)
