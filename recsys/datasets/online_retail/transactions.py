"""The transactions, in any layout: Parquet, or the publisher's zip, xlsx (one sheet a year) or csv."""

import csv
import datetime
import itertools
import operator
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import ibis.expr.types as ir
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend
from openpyxl.utils.exceptions import InvalidFileException

from recsys.datasets.database import fetch_one, load_batches, parquet_rows, temporary_database
from recsys.errors import DataError
from recsys.files import sha256_of_file
from recsys.progress import Progress, silent

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
"""What every layout is read as."""

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
_BATCH_ROWS = 50_000
# Day-first dates are not among them: 01/12/2010 would be read as another month, and nothing would say so.
_DATE_FORMS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%m/%d/%Y %H:%M")


def read_transactions(connection: Backend, path: Path, progress: Progress) -> tuple[ir.Table, dict[str, str]]:
    """Return the transactions under the names of `COLUMNS`, and the digests of the files they came from.

    Args:
        path: a file, or a folder with transactions*.parquet (read together), else one zip, xlsx or csv.

    Raises:
        DataError: there is no such file, it cannot be read, or a column is missing or has the wrong type.
    """
    files = _find(path)
    digests = {file.name: sha256_of_file(file) for file in files}
    if len({*digests.values()}) < len(files):
        raise DataError(
            f"{path} holds a copy among {', '.join(digests)}: two of them have the same bytes, so that each of their "
            "rows would count twice. Take one away."
        )
    progress(f"read {files[0].name}", 0, 0)
    if files[0].suffix == ".parquet":
        table = _read_parquet(connection, files)
    else:
        table = _read_published(connection, files[0], progress)
    return table, digests


def transaction_times(
    folder: Path, path: Path, memory_limit: str, threads: int
) -> tuple[datetime.datetime, datetime.datetime]:
    """Return the times of the first and the newest transaction, taken as UTC.

    Args:
        folder: takes the database for as long as this runs.

    Raises:
        DataError: as `read_transactions`; or there is no transaction.
    """
    with temporary_database(folder, memory_limit, threads) as connection:
        table, _ = read_transactions(connection, path, silent)
        found = fetch_one(connection, table.aggregate(first=table.invoice_date.min(), last=table.invoice_date.max()))
    if found["first"] is None:
        raise DataError(f"{path} holds 0 transactions. Point `data.raw` at a folder that has some.")
    return found["first"].replace(tzinfo=datetime.UTC), found["last"].replace(tzinfo=datetime.UTC)


def _find(path: Path) -> list[Path]:
    if path.is_file() and path.suffix in _SUFFIXES:
        return [path]
    if path.is_dir():
        if parquet := sorted(path.glob("transactions*.parquet")):
            return parquet
        published = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES[1:])
        if len(published) == 1:
            return published
        names = ", ".join(file.name for file in published) or "none"
        raise DataError(
            f"{path} holds no transactions: expected transactions*.parquet or exactly one zip, xlsx or csv of the "
            f"publisher's, found {names}. Fetch them with `recsys fetch online_retail`, or name the file itself."
        )
    raise DataError(
        f"{path} is no file of transactions ({'it has another suffix' if path.exists() else 'it does not exist'}): "
        f"expected a folder or one of {', '.join(_SUFFIXES)}. Fetch them with `recsys fetch online_retail`."
    )


def _read_parquet(connection: Backend, files: list[Path]) -> ir.Table:
    for file in files:
        _require_parquet_columns(file)
    casts = ", ".join(f'"{name}"::{_DUCKDB_TYPES[form]} AS "{name}"' for name, form in COLUMNS.items())
    # DuckDB keeps NaN, and may skip row groups by statistics that ignore NaN, unless it is told that there is some.
    connection.raw_sql(
        f"CREATE TABLE transactions AS SELECT {casts} "
        f"FROM {parquet_rows(files, ', can_have_nan=true, union_by_name=true')}"
    )
    return connection.table("transactions")


_DUCKDB_TYPES = {
    pa.string(): "VARCHAR",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.timestamp("us"): "TIMESTAMP",
}


def _require_parquet_columns(file: Path) -> None:
    """Look at every file's own schema: read together, a later file's columns would be cast or filled in silence."""
    try:
        found = pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{file} cannot be read as Parquet ({error}): it is damaged or cut short. Copy or fetch it again."
        ) from error
    for name, form in COLUMNS.items():
        if name not in found.names:
            raise DataError(
                f"{file}: column `{name}` is missing; found {', '.join(found.names)}. Expected the columns "
                f"{', '.join(COLUMNS)}: rename the column in the file."
            )
        if not _same_kind(found.field(name).type, form):
            raise DataError(
                f"{file}: column `{name}` has type {found.field(name).type}; expected {form}, of any width. Cast the "
                "column in the file."
            )


def _same_kind(found: pa.DataType, expected: pa.DataType) -> bool:
    kinds = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_timestamp,
        lambda form: pa.types.is_string(form) or pa.types.is_large_string(form) or pa.types.is_dictionary(form),
    )
    return any(kind(found) and kind(expected) for kind in kinds)


def _read_published(connection: Backend, file: Path, progress: Progress) -> ir.Table:
    with tempfile.TemporaryDirectory() as folder:
        try:
            batches = _batches(_unpacked(file, Path(folder)), file, progress)
            return load_batches(connection, "transactions", pa.schema(COLUMNS), batches)
        except (zipfile.BadZipFile, InvalidFileException, UnicodeDecodeError, ParseError, csv.Error) as error:
            raise DataError(
                f"{file} cannot be read ({type(error).__name__}: {error}): it is damaged or no {file.suffix} file. "
                "Fetch it again with `recsys fetch online_retail`."
            ) from error


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
        with archive.open(inside[0]) as packed, target.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
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
