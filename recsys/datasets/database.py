"""The DuckDB database in which sources and `encode` work: on disk, in a memory limit, gone at the end.

The database file and everything that DuckDB spills lie in the folder that is given, so that tables larger than the
memory limit are no special case. All times are UTC: the session's zone is set, whatever the machine's is.
"""

import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend as Backend

from recsys.errors import CannotWriteError, DataError, UsageError
from recsys.machine_faults import machine_fault, unwritable_reason

Rows = ir.Table
"""Rows in a database, or on their way to it."""

_INSERTED_ROWS = 200_000
_FOLDER_PREFIX = ".database."


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator]
def epoch_us(moment: dt.timestamp) -> dt.int64:
    """Microseconds since 1970, DuckDB's own function."""


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator]
def epoch_ns(moment: dt.Timestamp(scale=9)) -> dt.int64:  # type: ignore[valid-type]
    """Nanoseconds since 1970, DuckDB's own function."""


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator]
def make_timestamp(microseconds: dt.int64) -> dt.timestamp:
    """Microseconds since 1970 as a time, DuckDB's own function."""


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator]
def isfinite(number: dt.float64) -> dt.boolean:
    """Neither NaN nor infinite, DuckDB's own function, which takes float32 as it is."""


@ibis.udf.agg.builtin  # type: ignore[untyped-decorator]
def approx_quantile(values: dt.float64, share: dt.float64) -> dt.float64:
    """About the value below which a share of all lies, DuckDB's own function, in memory that does not grow."""


def is_moment(form: dt.DataType) -> bool:
    """Whether a column of this type holds times or dates."""
    return bool(form.is_timestamp() or form.is_date() or _is_nanoseconds(form))


def is_nothing(form: dt.DataType) -> bool:
    """Whether a column of this type holds nulls alone, its writer having met no value."""
    return bool(form.is_null() or (form.is_unknown() and "NULL" in repr(form.raw_type)))


def utc_without_zone(moments: ir.Value) -> ir.TimestampValue:
    """Return times and dates as UTC timestamps without zone, in microseconds; what is finer is cut off.

    A cast does the same by way of the zone's calendar, which costs more than reading the column; and of nanoseconds it
    takes the nearest microsecond, by which a time could come to lie on the next day.
    """
    form = moments.type()
    if _is_nanoseconds(form):
        nanoseconds = epoch_ns(moments.cast(dt.Timestamp(scale=9)))
        finer = (nanoseconds % 1000 + 1000) % 1000
        # DuckDB divides as floating point, which is off by less than a microsecond, and the result is whole.
        return make_timestamp(((nanoseconds - finer) / 1000).round().cast("int64"))
    if form.is_timestamp() and form.timezone:
        return make_timestamp(epoch_us(moments))
    return moments.cast(dt.Timestamp(scale=6))


def seconds_since_1970(moments: ir.Value) -> ir.FloatingValue:
    """Return times and dates (UTC) as seconds, float64."""
    if _is_nanoseconds(moments.type()):
        return epoch_ns(moments.cast(dt.Timestamp(scale=9))).cast("float64") / 1e9
    return epoch_us(utc_without_zone(moments)).cast("float64") / 1e6


def _is_nanoseconds(form: dt.DataType) -> bool:
    # Ibis has no word for DuckDB's nanoseconds with a zone, which is what pandas writes.
    return bool(
        (form.is_timestamp() and form.scale == 9) or (form.is_unknown() and "TIMESTAMPTZ_NS" in repr(form.raw_type))
    )


@contextmanager
def temporary_database(folder: Path, memory_limit: str, threads: int) -> Iterator[Backend]:
    """Yield a connection to a database inside `folder`; database and spilled data are removed at the end.

    Args:
        folder: holds one such database at a time; what a killed process left of its own is removed first.
        memory_limit: what DuckDB may hold in memory, such as "2GB"; beyond it, it spills.

    Raises:
        UsageError: the memory limit cannot be read, or is too small for the work.
        CannotWriteError: the disk is full.
    """
    _restore_names_that_ibis_calls()
    # From the root on, a path begins with nothing that DuckDB would take for a protocol or a home folder.
    folder = folder.absolute()
    for leftover in folder.glob(f"{_FOLDER_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    # In a database's path DuckDB takes `?` and a backslash for more than letters; the system's own folder has neither.
    place = None if re.search(r"[?\\]", str(folder)) else folder
    with tempfile.TemporaryDirectory(dir=place, prefix=_FOLDER_PREFIX) as inside:
        try:
            # Insertion order costs memory and means nothing here: every output is ordered by its own ORDER BY.
            connection = ibis.duckdb.connect(
                Path(inside, "rows.duckdb"),
                memory_limit=memory_limit,
                threads=threads,
                temp_directory=str(Path(inside, "spill")),
                preserve_insertion_order=False,
            )
        except duckdb.Error as error:
            if fault := machine_fault(error):
                raise fault from error
            raise UsageError(
                f"DuckDB refuses memory_limit {memory_limit!r} or threads {threads!r} ({error}). Expected a size such "
                'as "2GB" and a positive number.'
            ) from error
        connection.raw_sql("SET TimeZone = 'UTC'")
        connection.raw_sql("SET enable_progress_bar = false")
        try:
            yield connection
        except duckdb.Error as error:
            if unwritable_reason(error) or (isinstance(error, duckdb.IOException) and "write" in str(error)):
                raise CannotWriteError(
                    f"Cannot write below {folder}: {error}. Free some space, or choose another."
                ) from error
            if not isinstance(error, duckdb.OutOfMemoryException):
                raise
            raise UsageError(
                f"Preparing the data needs more than memory_limit {memory_limit} with {threads} threads ({error}). "
                "Raise the limit, or lower the number of threads."
            ) from error
        finally:
            connection.disconnect()


class OtherEngine(ABC):
    """An engine beside DuckDB, which keeps tables in its own way; what stores them takes it for a connection."""

    @abstractmethod
    def store(self, name: str, rows: ir.Table) -> ir.Table:
        """See `store`."""


def store(connection: Backend | OtherEngine, name: str, rows: ir.Table) -> ir.Table:
    """Run `rows` once, keep the result as the table `name`, and return that table."""
    if isinstance(connection, OtherEngine):
        return connection.store(name, rows)
    connection.raw_sql(f'CREATE TABLE "{name}" AS {connection.compile(rows)}')
    return connection.table(name)


@contextmanager
def scratch(connection: Backend) -> Iterator[str]:
    """Yield a name that no table has; what is made meanwhile, tables, views and types of any name, goes at the end."""
    before = _made(connection)
    try:
        yield str(ibis.util.gen_name("scratch"))
    finally:
        # Tables before the types of their columns.
        for kind, name in sorted(_made(connection) - before):
            connection.raw_sql(f"DROP {kind} {quoted_name(name)}")


def _made(connection: Backend) -> set[tuple[str, str]]:
    found = connection.raw_sql(
        "SELECT 'TABLE', table_name FROM duckdb_tables() WHERE NOT internal "
        "UNION ALL SELECT 'VIEW', view_name FROM duckdb_views() WHERE NOT internal "
        "UNION ALL SELECT 'TYPE', type_name FROM duckdb_types() WHERE NOT internal"
    )
    return {(str(kind), str(name)) for kind, name in found.fetchall()}


@contextmanager
def in_written_order(connection: Backend) -> Iterator[None]:
    """Within it, rows are numbered in the order in which they stand in their files, at the cost of memory."""
    connection.raw_sql("SET preserve_insertion_order = true")
    try:
        yield
    finally:
        connection.raw_sql("SET preserve_insertion_order = false")


def folder_of(connection: Backend) -> Path:
    """The folder of a temporary database, which vanishes with it."""
    ((path,),) = connection.raw_sql(
        "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
    ).fetchall()
    return Path(path).parent


def view(connection: Backend, name: str, query: str) -> ir.Table:
    """Give a query of DuckDB's SQL a name without running it, and return it as a table."""
    # Not ibis' own reading: its view is temporary, and other cursors of the connection would not see it.
    connection.raw_sql(f"CREATE VIEW {quoted_name(name)} AS {query}")
    return connection.table(name)


def parquet_rows(files: Sequence[Path], options: str = "") -> str:
    """SQL that stands for the rows of Parquet files of equal columns, with those columns alone.

    Args:
        options: more of `read_parquet`'s, with a comma in front.
    """
    # By default DuckDB takes folders named `column=value`, wherever they are, for columns that replace the file's.
    return f"read_parquet({quoted_files(files)}, hive_partitioning=false{options})"


def quoted_files(files: Iterable[Path]) -> str:
    """The files as a list in SQL, in which every name means itself.

    Raises:
        DataError: DuckDB has no way to write the name.
    """
    return f"[{', '.join(quoted(_masked(file)) for file in files)}]"


def quoted(text: str) -> str:
    """A text as a value in SQL."""
    return "'" + text.replace("'", "''") + "'"


def quoted_name(name: str) -> str:
    """A column's or table's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _masked(file: Path) -> str:
    """The path, from the root on, with brackets about each character that would make a pattern of it."""
    name = str(file.absolute())
    if re.search(r"[*?\[]", name) and "\\" in name:
        raise DataError(
            f"{name!r} cannot be opened by DuckDB: its name holds a backslash beside one of `*`, `?` and `[`. Rename "
            "the file or folder."
        )
    return re.sub(r"[*?\[]", r"[\g<0>]", name)


def load(connection: Backend, name: str, rows: pa.Table) -> ir.Table:
    """Keep Arrow rows as the table `name`, and return that table."""
    return load_batches(connection, name, rows.schema, rows.to_batches())


def load_batches(connection: Backend, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> ir.Table:
    """Keep Arrow batches as the table `name`, in their order, and return that table; never holds them all."""
    _insert(connection, f'CREATE TABLE "{name}" AS', pa.Table.from_batches([], schema))
    waiting, rows = list[pa.RecordBatch](), 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= _INSERTED_ROWS:
            _insert(connection, f'INSERT INTO "{name}"', pa.Table.from_batches(waiting, schema))
            waiting, rows = [], 0
    _insert(connection, f'INSERT INTO "{name}"', pa.Table.from_batches(waiting, schema))
    return connection.table(name)


def stream(connection: Backend, query: str, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the result of a compiled query in its order, in batches of about `batch_rows`, never held whole.

    Several threads may do so at once, on any tables but temporary ones.
    """
    with connection.con.cursor() as cursor:
        # A cursor starts with the machine's zone, whatever the connection's is.
        cursor.execute("SET TimeZone = 'UTC'")
        yield from cursor.sql(query).to_arrow_reader(batch_rows)


def fetch(connection: Backend, rows: ir.Table) -> pa.Table:
    """Return the whole result of `rows`; for results known to be small.

    An order holds only where `order_by` came last: what follows it in the expression may lose it.
    """
    return connection.con.sql(connection.compile(rows)).to_arrow_table()


def fetch_one(connection: Backend, rows: ir.Table) -> dict[str, Any]:
    """Return the only row of `rows`."""
    (row,) = fetch(connection, rows).to_pylist()
    return dict(row)


def _insert(connection: Backend, statement: str, rows: pa.Table) -> None:
    connection.con.register("arriving", rows)
    connection.raw_sql(f"{statement} SELECT * FROM arriving")
    connection.con.unregister("arriving")


def _restore_names_that_ibis_calls() -> None:
    # Ibis 12 still calls two methods that DuckDB 2.0 renamed; both are plain aliases.
    form = duckdb.DuckDBPyConnection
    if not hasattr(form, "fetch_arrow_table"):
        form.fetch_arrow_table = lambda self: self.to_arrow_table()
        form.fetch_record_batch = lambda self, rows_per_batch=1_000_000: self.to_arrow_reader(rows_per_batch)
