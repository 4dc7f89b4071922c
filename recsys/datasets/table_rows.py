"""Raw rows with the columns of a user's own files, read for scoring by the expressions that read them for training."""

import threading
from collections.abc import Mapping

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa

from recsys.datasets.event_log import read_column
from recsys.datasets.row_columns import RowColumns
from recsys.datasets.staging import missing_or_infinite_as_null
from recsys.datasets.table import origins_of
from recsys.datasets.table_layout import TableLayout
from recsys.datasets.table_shape import TableShape
from recsys.errors import DataError
from recsys.features.plain_arrays import is_list
from recsys.features.schema import FeatureSchema
from recsys.features.vectors import vector_element

_ROWS = "raw_rows"
_WHERE = "Raw rows"


class RowReader:
    """Gives raw rows the schema's names and meanings, as `table:` of a schema file declares them.

    Several threads may read at once.

    Args:
        id_types: embedding table -> string or int64, the type of its vocabulary's ids.
    """

    def __init__(self, layout: TableLayout, schema: FeatureSchema, id_types: Mapping[str, pa.DataType]) -> None:
        self.layout, self.schema = layout, schema
        self.row_columns = RowColumns(layout, schema, id_types)
        self.origins = origins_of(layout, schema)
        # One thread: the rows must keep their order, and batches are small.
        self._backend = ibis.duckdb.connect(threads=1)
        self._queries: dict[pa.Schema, str] = {}
        self._lock = threading.Lock()

    @property
    def columns(self) -> dict[str, str]:
        """Every column that is read, and what it is."""
        return {name: column.use for name, column in self.row_columns.listed.items()}

    @property
    def replaceable(self) -> frozenset[str]:
        """Those of the columns that may be absent where others say the same."""
        return frozenset(name for name, column in self.row_columns.listed.items() if not column.is_needed)

    def read(self, rows: pa.Table) -> pa.Table:
        """Return the schema's features and segment under their own names, row by row in the same order.

        Raises:
            DataError: a column is missing or of the wrong type; names it and where training had it from.
        """
        self.row_columns.require(rows.column_names, _WHERE)
        table = self.plain(rows)
        with self._backend.con.cursor() as cursor:
            # A cursor starts with the machine's zone.
            cursor.execute("SET TimeZone = 'UTC'")
            cursor.register(_ROWS, table)
            try:
                found = cursor.sql(self._query(table)).to_arrow_table()
            except duckdb.Error as error:
                raise DataError(
                    f"{_WHERE}: a value cannot be read ({error}). Mend it, or the column's use in schema "
                    f"`{self.schema.name}`."
                ) from error
        if found.num_rows != rows.num_rows:
            raise AssertionError(f"{rows.num_rows} rows were read as {found.num_rows}")
        return found

    def plain(self, rows: pa.Table) -> pa.Table:
        """The columns that are read, in types that DuckDB reads as it reads the files' own."""
        elements = {feature.name for feature in self.schema.dense if vector_element(feature.name)}
        wanted = [name for name in rows.column_names if name in self.row_columns.listed or name in elements]
        return pa.table({name: self._stored(name, rows[name]) for name in wanted})

    def _query(self, table: pa.Table) -> str:
        """The reading as SQL; made once for each combination of types, as that takes longer than reading a few rows."""
        with self._lock:
            if table.schema not in self._queries:
                self._backend.con.register(_ROWS, table.schema.empty_table())
                raw = ibis.table(self._backend.table(_ROWS).schema(), name=_ROWS)
                self._backend.con.unregister(_ROWS)
                shape = TableShape(raw, self.layout, self.schema, _WHERE)
                columns = {feature.name: _value(feature.name, shape) for feature in self.schema.features}
                columns[self.schema.segment] = self._segment(shape)
                self._queries[table.schema] = self._backend.compile(raw.select(**columns))
            return self._queries[table.schema]

    def _segment(self, shape: TableShape) -> ir.Value:
        column, own = self.layout.segment.column, self.schema.segment
        if self.row_columns.is_segment_named and own in shape.raw.columns:
            return shape.raw[own]
        return shape.segment_of(_numbers(_value(column, shape))) if column in self.layout.counted else shape.segment()

    def _stored(self, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
        if isinstance(values.type, pa.BaseExtensionType):
            return self._stored(name, pa.chunked_array([chunk.storage for chunk in values.chunks]))
        listed = self.row_columns.listed
        form = _readable(values.type, listed[name].form if name in listed else pa.float64())
        return values if form == values.type else values.cast(form)


def _value(name: str, shape: TableShape) -> ir.Value:
    """A feature or column: as it stands there where training counted it, else as training reads it."""
    layout = shape.layout
    if name not in layout.counted:
        return shape.feature(name) if name in {one.name for one in shape.schema.features} else read_column(name, shape)
    if name in shape.raw.columns:
        return shape.raw[name]
    # `row_columns` found all that it is derived from.
    expression = layout.expressions[name]
    return expression.to_ibis({part: _numbers(_value(part, shape)) for part in expression.columns})


def _numbers(column: ir.Value) -> ir.Value:
    """A column as expressions read it: NaN and infinity are no values."""
    return missing_or_infinite_as_null(column) if column.type().is_floating() else column


def _readable(form: pa.DataType, empty: pa.DataType) -> pa.DataType:
    """The type as DuckDB would have read it from a file; `empty` in place of the null type.

    A few rows may all lack a value that the files have.
    """
    if pa.types.is_null(form):
        return empty
    if is_list(form):
        return pa.list_(_readable(form.value_type, empty.value_type if is_list(empty) else empty))
    return pa.float32() if pa.types.is_float16(form) else form
