"""Raw rows with the columns of a user's own files, read for scoring by the expressions that read them for training."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import ibis
import pyarrow as pa

from recsys.datasets.table import origins_of
from recsys.datasets.table_layout import TableLayout
from recsys.datasets.table_shape import TableShape
from recsys.errors import DataError
from recsys.features.plain_arrays import is_list
from recsys.features.raw import RAW_KINDS
from recsys.features.schema import FeatureKind, FeatureSchema
from recsys.features.vectors import column_of, vector_element

_ROWS = "raw_rows"
_WHERE = "Raw rows"


@dataclass(frozen=True)
class _Column:
    """A column of the files: what it holds, what it is to be, and the type of one that happens to hold nothing."""

    use: str
    meaning: str
    form: pa.DataType


class RowReader:
    """Gives raw rows the schema's names and meanings, as `table:` of a schema file declares them.

    Several threads may read at once.

    Args:
        id_types: embedding table -> string or int64, the type of its vocabulary's ids.
    """

    def __init__(self, layout: TableLayout, schema: FeatureSchema, id_types: Mapping[str, pa.DataType]) -> None:
        self.layout, self._schema = layout, schema
        self._history = [feature.name for feature in schema.features if feature.name in layout.counted]
        self._columns = self._files_columns(id_types)
        self.origins = origins_of(layout, schema)
        # One thread: the rows must keep their order, and batches are small.
        self._backend = ibis.duckdb.connect(threads=1)
        self._queries: dict[pa.Schema, str] = {}
        self._lock = threading.Lock()

    @property
    def columns(self) -> dict[str, str]:
        """Every column of the files that is read, and what it is."""
        return {name: f"{column.use} ({column.meaning})" for name, column in self._columns.items()}

    def read(self, rows: pa.Table) -> pa.Table:
        """Return the schema's features and segment under their own names, row by row in the same order.

        Raises:
            DataError: a column is missing or of the wrong type; names it and the key that declares it.
        """
        self._require(rows.column_names)
        elements = {feature.name for feature in self._schema.dense if vector_element(feature.name)}
        wanted = [name for name in rows.column_names if name in self._columns or name in elements]
        table = pa.table({name: self._stored(name, rows[name]) for name in wanted})
        with self._backend.con.cursor() as cursor:
            # A cursor starts with the machine's zone.
            cursor.execute("SET TimeZone = 'UTC'")
            cursor.register(_ROWS, table)
            try:
                found = cursor.sql(self._query(table)).to_arrow_table()
            except duckdb.Error as error:
                raise DataError(
                    f"{_WHERE}: a value cannot be read ({error}). Mend it, or the column's use in schema "
                    f"`{self._schema.name}`."
                ) from error
        if found.num_rows != rows.num_rows:
            raise AssertionError(f"{rows.num_rows} rows were read as {found.num_rows}")
        return found

    def _query(self, table: pa.Table) -> str:
        """The reading as SQL; made once for each combination of types, as that takes longer than reading a few rows."""
        with self._lock:
            if table.schema not in self._queries:
                self._backend.con.register(_ROWS, table.schema.empty_table())
                raw = ibis.table(self._backend.table(_ROWS).schema(), name=_ROWS)
                self._backend.con.unregister(_ROWS)
                shape = TableShape(raw, self.layout, self._schema, _WHERE)
                columns = {
                    feature.name: raw[feature.name] if feature.name in self._history else shape.feature(feature.name)
                    for feature in self._schema.features
                }
                columns[self._schema.segment] = shape.segment()
                self._queries[table.schema] = self._backend.compile(raw.select(**columns))
            return self._queries[table.schema]

    def _files_columns(self, id_types: Mapping[str, pa.DataType]) -> dict[str, _Column]:
        layout, schema = self.layout, self._schema
        names = [feature.name for feature in schema.features]
        columns: dict[str, _Column] = {}
        for feature in schema.features:
            name, kind, vector = feature.name, feature.kind, vector_element(feature.name)
            meaning = f"the feature `{name}`"
            ids = pa.null() if kind is FeatureKind.DENSE else id_types[feature.table]
            if name in layout.words:
                columns.setdefault(layout.words[name], _Column("text, cut into words", meaning, pa.string()))
            elif name in layout.lists:
                text = layout.lists[name]
                columns.setdefault(text.column, _Column(f"text, cut at {text.separator!r}", meaning, pa.string()))
            elif vector and name not in layout.columns and column_of(name, names) != name:
                own = layout.columns.get(vector[0], vector[0])
                meaning, form = f"the feature `{vector[0]}`", pa.list_(pa.float64())
                columns.setdefault(own, _Column("vector: a list of numbers", meaning, form))
            else:
                own = name if name in self._history else layout.columns.get(name, name)
                forms = {
                    FeatureKind.DENSE: pa.float64(),
                    FeatureKind.SPARSE: ids,
                    FeatureKind.SPARSE_LIST: pa.list_(ids),
                }
                columns.setdefault(own, _Column(RAW_KINDS[kind], meaning, forms[kind]))
        form = pa.float64() if layout.segment.bins is not None else pa.string()
        columns.setdefault(layout.segment.column, _Column("what the segment follows from", "the segment", form))
        return columns

    def _require(self, found: list[str]) -> None:
        """Refuse rows that lack a column; a vector may come as columns of its elements."""
        raw = ibis.table(dict.fromkeys(found, "string"), name=_ROWS)
        for name, column in self._columns.items():
            if name in found or f"{name}[0]" in found:
                continue
            if name in self._history:
                raise DataError(
                    f"{_WHERE}: column `{name}` is missing; found {', '.join(found)}. Training counted it from rows of "
                    "the past (`table.history`), which rows to score do not bring along: add the column with what is "
                    "known of each row's past."
                )
            TableShape(raw, self.layout, self._schema, _WHERE).column(name, column.meaning)

    def _stored(self, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
        """The column in a type that DuckDB reads as it reads the files' own."""
        if isinstance(values.type, pa.BaseExtensionType):
            return self._stored(name, pa.chunked_array([chunk.storage for chunk in values.chunks]))
        empty = self._columns[name].form if name in self._columns else pa.float64()
        form = _readable(values.type, empty)
        return values if form == values.type else values.cast(form)


def _readable(form: pa.DataType, empty: pa.DataType) -> pa.DataType:
    """The type as DuckDB would have read it from a file; `empty` in place of the null type.

    A few rows may all lack a value that the files have.
    """
    if pa.types.is_null(form):
        return empty
    if is_list(form):
        return pa.list_(_readable(form.value_type, empty.value_type if is_list(empty) else empty))
    return pa.float32() if pa.types.is_float16(form) else form
