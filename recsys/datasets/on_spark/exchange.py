"""Tables handed over as Parquet, in types that DuckDB and Spark write and read alike."""

from collections.abc import Mapping
from pathlib import Path

import ibis.expr.datatypes as dt
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import parquet_rows, quoted, quoted_name, view
from recsys.errors import DataError

_PLAIN = {
    dt.Boolean: "BOOLEAN",
    dt.Int8: "TINYINT",
    dt.Int16: "SMALLINT",
    dt.Int32: "INTEGER",
    dt.Int64: "BIGINT",
    dt.UInt8: "BIGINT",
    dt.UInt16: "BIGINT",
    dt.UInt32: "BIGINT",
    # Spark's whole numbers have a sign.
    dt.UInt64: "DECIMAL(20, 0)",
    dt.Float32: "FLOAT",
    dt.Float64: "DOUBLE",
    dt.String: "VARCHAR",
    dt.Date: "DATE",
}
_MICROSECONDS = 6


def hand_over(connection: Backend, rows: ir.Table, path: Path, shown: Mapping[str, str]) -> None:
    """Write rows of DuckDB as the Parquet file `path`.

    Args:
        shown: columns by the names that messages have for them.

    Raises:
        DataError: a column has a type that Spark has not; names it.
    """
    selected = []
    for name, form in rows.schema().items():
        if (written := _written(form)) is None:
            raise DataError(
                f"Column `{shown.get(name, name)}` has type {form}, which Spark does not read as DuckDB writes it; "
                "expected numbers, text, truth values, days, times in microseconds or lists of them. Cast it under "
                "another name in the files, or set data.engine=duckdb."
            )
        selected.append(f"CAST({quoted_name(name)} AS {written}) AS {quoted_name(name)}")
    query = f"SELECT {', '.join(selected)} FROM ({connection.compile(rows)})"
    connection.raw_sql(f"COPY ({query}) TO {quoted(str(path.absolute()))} (FORMAT parquet)")


def take_up(connection: Backend, name: str, folder: Path) -> ir.Table:
    """The Parquet files that Spark wrote into `folder` as the view `name` of DuckDB."""
    return view(connection, name, f"SELECT * FROM {parquet_rows(sorted(folder.glob('*.parquet')))}")


def _written(form: dt.DataType) -> str | None:
    """The DuckDB type in which a column is written; None where Spark reads no such column."""
    if form.is_array():
        inner = None if form.value_type.is_array() else _written(form.value_type)
        return f"{inner}[]" if inner else None
    if form.is_decimal():
        return f"DECIMAL({form.precision}, {form.scale})"
    if form.is_timestamp():
        is_finer = (form.scale or 0) > _MICROSECONDS
        return None if is_finer else "TIMESTAMPTZ" if form.timezone else "TIMESTAMP"
    return _PLAIN.get(type(form))
