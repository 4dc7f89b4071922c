"""The transactions, in any layout: Parquet, or the publisher's zip, xlsx (one sheet a year) or csv."""

import datetime
import tempfile
from pathlib import Path

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from recsys.datasets.archives.retail_transactions import COLUMNS, published_file, unpack_transactions
from recsys.datasets.database import fetch_one, folder_of, parquet_rows, temporary_database
from recsys.errors import DataError
from recsys.files import sha256_of_file
from recsys.progress import Progress, silent


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
        table = _read_published(connection, path, progress)
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
    parquet = sorted(path.glob("transactions*.parquet")) if path.is_dir() else []
    return parquet or [published_file(path)]


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


def _read_published(connection: Backend, raw: Path, progress: Progress) -> ir.Table:
    with tempfile.TemporaryDirectory(dir=folder_of(connection)) as folder:
        unpack_transactions(raw, Path(folder), progress)
        return _read_parquet(connection, [Path(folder, "transactions.parquet")])
