"""Online Retail II as its publisher ships it: a zip, an xlsx (one sheet a year) or a csv.

Source of the data: Chen, D. (2012), Online Retail II, UCI Machine Learning Repository, doi 10.24432/C5CG6D, CC BY 4.0.
"""

import csv
import datetime
import itertools
import operator
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
from openpyxl.utils.exceptions import InvalidFileException

from recsys.datasets.archives.zip_members import extract_member
from recsys.errors import DataError
from recsys.progress import Progress

MAX_UNPACKED_BYTES = 2_000_000_000
"""Archives that declare more than this are refused; the publisher's file unpacks to about 0.4 GB."""

COLUMNS = {
    "invoice": pa.string(),
    "stock_code": pa.string(),
    "description": pa.string(),
    "quantity": pa.int64(),
    "invoice_date": pa.timestamp("us"),
    "unit_price": pa.float64(),
    "customer_id": pa.int64(),
    "country": pa.string(),
}
"""Columns of `transactions.parquet`, whatever the form."""

_PUBLISHED_NAMES = {
    "invoice": ("Invoice", "InvoiceNo"),
    "stock_code": ("StockCode",),
    "description": ("Description",),
    "quantity": ("Quantity",),
    "invoice_date": ("InvoiceDate",),
    "unit_price": ("Price", "UnitPrice"),
    "customer_id": ("Customer ID", "CustomerID"),
    "country": ("Country",),
}
_SUFFIXES = (".parquet", ".zip", ".xlsx", ".csv")
_BATCH_ROWS = 100_000
# A zip that is torn or no workbook: openpyxl names an absent part by a KeyError. ValueError: text of another encoding.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, InvalidFileException, KeyError, ValueError, ParseError, csv.Error)
# Day-first dates are not among them: 01/12/2010 would be read as another month, and nothing would say so.
_DATE_FORMS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%m/%d/%Y %H:%M")


def unpack_transactions(raw: Path, target: Path, progress: Progress) -> None:
    """Write `transactions.parquet`, with the columns `COLUMNS`, in the order of the file.

    Args:
        raw: a zip, xlsx or csv of the publisher's, or the one Parquet file of the transactions; or a folder that holds
            one of them.

    Raises:
        DataError: there is no such file, it cannot be read, or a column is missing or holds what it cannot.
    """
    file = published_file(raw)
    written = target / "transactions.parquet"
    if file.suffix == ".parquet":
        shutil.copyfile(file, written)
        return
    progress(f"read {file.name}", 0, 0)
    with tempfile.TemporaryDirectory(dir=target) as folder:
        try:
            plain = _unpacked(file, Path(folder))
            with pq.ParquetWriter(written, pa.schema(COLUMNS)) as writer:
                for batch in _batches(plain, file, progress):
                    writer.write_batch(batch)
        except (
            zipfile.BadZipFile,
            zlib.error,
            InvalidFileException,
            KeyError,
            ValueError,
            ParseError,
            csv.Error,
        ) as error:
            raise DataError(
                f"{file} cannot be read ({type(error).__name__}: {error}): it is damaged or no {file.suffix} file. "
                "Fetch it again with `recsys fetch online_retail`."
            ) from error


def published_file(raw: Path) -> Path:
    """Return the one file of the publisher's that `raw` is, or holds.

    Raises:
        DataError: there is none, or several.
    """
    if raw.is_file() and raw.suffix in _SUFFIXES:
        return raw
    if raw.is_dir():
        published = sorted(file for file in raw.iterdir() if file.suffix in _SUFFIXES[1:])
        if len(published) == 1:
            return published[0]
        names = ", ".join(file.name for file in published) or "none"
        raise DataError(
            f"{raw} holds no transactions: expected transactions*.parquet or exactly one zip, xlsx or csv of the "
            f"publisher's, found {names}. Fetch them with `recsys fetch online_retail`, or name the file itself."
        )
    raise DataError(
        f"{raw} is no file of transactions ({'it has another suffix' if raw.exists() else 'it does not exist'}): "
        f"expected a folder or one of {', '.join(_SUFFIXES)}. Fetch them with `recsys fetch online_retail`."
    )


def _unpacked(file: Path, folder: Path) -> Path:
    """Return the csv or xlsx itself, out of a zip where it lies in one."""
    if file.suffix == ".csv":
        return file
    _require_unpackable(file)
    if file.suffix == ".xlsx":
        return file
    with zipfile.ZipFile(file) as archive:
        inside = [entry for entry in archive.infolist() if Path(entry.filename).suffix in (".xlsx", ".csv")]
        if len(inside) != 1:
            raise DataError(f"{file} holds {archive.namelist()}; expected exactly one xlsx or csv in the zip.")
        # A name of ours: the archive's could lead out of the folder.
        target = folder / f"transactions{Path(inside[0].filename).suffix}"
        extract_member(file, inside[0].filename, target)
    if target.suffix == ".xlsx":
        _require_unpackable(target)
    return target


def _require_unpackable(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        declared = sum(entry.file_size for entry in archive.infolist())
    if declared > MAX_UNPACKED_BYTES:
        raise DataError(
            f"{file} declares {declared} bytes unpacked; at most {MAX_UNPACKED_BYTES} are read. This is not the "
            "publisher's file: fetch it again with `recsys fetch online_retail`."
        )


def _batches(file: Path, named: Path, progress: Progress) -> Iterator[pa.RecordBatch]:
    """Yield the rows of every sheet (a csv is one), typed as `COLUMNS`."""
    done = 0
    for sheet, rows in _sheets(file):
        where = f"{named}{f', sheet {sheet!r}' if sheet else ''}"
        header = next(rows, ())
        positions = _positions(header, where)
        while block := list(itertools.islice(rows, _BATCH_ROWS)):
            # A sheet's rows end with their last filled cell; in a csv each comma is written.
            if file.suffix == ".csv" and (short := [row for row in block if row and len(row) != len(header)]):
                raise DataError(
                    f"{where}, data rows {done + 1} to {done + len(block)}: {short[0]} has {len(short[0])} fields; "
                    f"expected {len(header)}, as in the header. Mend the row, or fetch the file again."
                )
            columns = {
                name: [row[place] if place < len(row) else None for row in block] for name, place in positions.items()
            }
            lines = f"{where}, data rows {done + 1} to {done + len(block)}"
            arrays = [_typed(columns[name], name, form, lines) for name, form in COLUMNS.items()]
            yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(COLUMNS))
            done += len(block)
            progress(f"read {named.name}", done, 0)


def _sheets(file: Path) -> Iterator[tuple[str, Iterator[Sequence[Any]]]]:
    if file.suffix == ".csv":
        with file.open(newline="", encoding="utf-8-sig") as stream:
            yield "", csv.reader(stream)
        return
    workbook = openpyxl.load_workbook(file, read_only=True)
    try:
        for sheet in workbook.worksheets:
            yield sheet.title, sheet.iter_rows(values_only=True)
    finally:
        workbook.close()


def _positions(header: Sequence[Any], where: str) -> dict[str, int]:
    """Where each column stands in a row."""
    found = {str(name).strip(): place for place, name in enumerate(header) if name is not None}
    positions = {}
    for column, names in _PUBLISHED_NAMES.items():
        place = next((found[name] for name in names if name in found), None)
        if place is None:
            raise DataError(
                f"{where}: column `{names[0]}` is missing; found {', '.join(found) or 'no header'}. Expected the "
                "publisher's header: Invoice, StockCode, Description, Quantity, InvoiceDate, Price, Customer ID, "
                "Country."
            )
        positions[column] = place
    return positions


def _typed(values: Sequence[Any], column: str, form: pa.DataType, where: str) -> pa.Array:
    read = _READERS[form]
    typed = []
    for value in values:
        try:
            typed.append(None if value is None or value == "" else read(value))
        except (ValueError, TypeError, OverflowError) as error:
            raise DataError(
                f"{where}: column `{_PUBLISHED_NAMES[column][0]}` holds {value!r}; expected {form}. Mend the row, or "
                "fetch the file again with `recsys fetch online_retail`."
            ) from error
    return pa.array(typed, type=form)


def _whole(value: Any) -> int:
    try:
        number = int(value if isinstance(value, str) else operator.index(value))
    except (TypeError, ValueError):
        # Workbooks keep numbers as floats, which from 2^53 on stand for several whole numbers each.
        number = int(float(value))
        if number != float(value) or abs(number) >= 2**53:
            raise ValueError(f"{value!r} is no whole number, or was rounded to one") from None
    if abs(number) >= 2**63:
        raise ValueError(f"{value!r} is no whole number of 64 bits")
    return number


def _time(value: Any) -> datetime.datetime:
    if isinstance(value, datetime.datetime):
        return value
    for form in _DATE_FORMS:
        try:
            return datetime.datetime.strptime(str(value), form)
        except ValueError:
            continue
    raise ValueError(f"{value!r} is no time")


_READERS: dict[pa.DataType, Callable[[Any], Any]] = {
    pa.string(): str,
    pa.int64(): _whole,
    pa.float64(): float,
    pa.timestamp("us"): _time,
}
