"""What the columns of a table hold: their kind, how many values and which, and how many rows have none."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from ibis.backends.duckdb import Backend

from recsys.datasets.database import quoted, quoted_name
from recsys.datasets.schema_inference.raw_tables import RawTable
from recsys.datasets.schema_inference.role_words import Role, is_called, score
from recsys.datasets.schema_inference.written_values import WrittenTime, number_of, separator_of, written_time
from recsys.datasets.table_types import TextRules, Written
from recsys.datasets.table_uses import Use

_SAMPLED_VALUES = 2000
_EXAMPLES = 3
_RULES = TextRules(None, "")
# The smallest list of floats that is taken for a vector.
_VECTOR_WIDTH = 8


class ColumnKind(StrEnum):
    """What a column's values are."""

    WHOLE = "whole numbers"
    NUMBER = "numbers"
    TRUTH = "truth values"
    TIME = "times"
    TEXT = "text"
    LIST = "lists"
    VECTOR = "vectors"
    OTHER = "values of another kind"
    EMPTY = "no values"


@dataclass(frozen=True)
class ColumnProfile:
    """One column.

    Attributes:
        missing: rows without a value; distinct: how many values there are.
        low, middle, high, highest: of numbers: the least, the median, what 99 % are below, the greatest.
        words: of text and lists: mean number of words, or of elements.
        expression: of numbers that are written as text (`1,234.50`): what makes numbers of them.
        no_value: words that stand for no value among numbers, as NA does.
        time: of times, how they are written.
        separator: of text that holds lists, such as `Action|Comedy`.
        is_padded: whether numbers have zeros in front, as codes do.
        is_of_items: of lists, whether their elements are the events' items.
        is_alone: whether the least number is the only one below 0.
        is_without_fraction: whether all numbers are whole, whatever their type.
    """

    name: str
    kind: ColumnKind
    rows: int
    missing: int = 0
    distinct: int = 0
    low: float = 0.0
    middle: float = 0.0
    high: float = 0.0
    highest: float = 0.0
    words: float = 0.0
    expression: str = ""
    no_value: tuple[str, ...] = ()
    time: WrittenTime | None = None
    separator: str = ""
    is_padded: bool = False
    is_alone: bool = False
    is_without_fraction: bool = False
    is_of_items: bool = False
    examples: tuple[str, ...] = field(default=(), compare=False)

    @property
    def share_missing(self) -> float:
        """The share of rows without a value."""
        return self.missing / self.rows if self.rows else 0.0

    @property
    def is_number(self) -> bool:
        """Whether it can be a dense feature."""
        return self.kind in (ColumnKind.WHOLE, ColumnKind.NUMBER, ColumnKind.TRUTH)

    @property
    def is_id(self) -> bool:
        """Whether its values can name things."""
        is_whole = self.kind is ColumnKind.NUMBER and not self.expression and self.is_without_fraction
        return self.kind in (ColumnKind.WHOLE, ColumnKind.TEXT) or is_whole

    @property
    def stand_in(self) -> int | None:
        """A number that stands for "not known", it seems: the year 0, or -1 where all others are 0 or more."""
        if self.is_number and is_called(self.name, Role.YEAR) and self.low <= 0 and self.middle > 1000:
            return int(self.low)
        return int(self.low) if self.low in (-1, -999, -9999) and self.is_alone else None

    @property
    def seen(self) -> str:
        """What was seen, in a line."""
        parts = [f"{self.distinct:,} values" if self.distinct != 1 else "1 value"]
        if (
            self.is_number
            and self.kind is not ColumnKind.TRUTH
            and not score(self.name, Role.ITEM) | score(self.name, Role.USER)
        ):
            parts.append(f"{self.low:,.6g} to {self.highest:,.6g}, half below {self.middle:,.6g}")
        if self.missing:
            parts.append(f"{self.share_missing:.2%} missing")
        if self.examples and not self.is_number:
            parts.append(f"such as {', '.join(self.examples)}")
        return "; ".join(parts)


def profile(table: RawTable, connection: Backend) -> dict[str, ColumnProfile]:
    """Look at every column of a table."""
    return {name: _profile(table, name, form, connection) for name, form in table.columns.items()}


def rows_of(connection: Backend, query: str) -> list[tuple[Any, ...]]:
    """The rows of a small result."""
    return [tuple(row) for row in connection.raw_sql(query).fetchall()]


def _profile(table: RawTable, name: str, form: str, connection: Backend) -> ColumnProfile:
    column, view = quoted_name(name), quoted_name(table.view)
    if form.endswith("]"):
        return _of_lists(table, name, form, connection)
    ((count, distinct),) = rows_of(connection, f"SELECT count({column}), count(DISTINCT {column}) FROM {view}")
    base = {"rows": table.rows, "missing": table.rows - count, "distinct": distinct}
    if not count:
        return ColumnProfile(name, ColumnKind.EMPTY, **base)
    base["examples"] = _examples(column, view, connection)
    if form == "VARCHAR":
        return _of_text(table, name, base, connection)
    if form.startswith(("TIMESTAMP", "DATE")):
        zoned = 1.0 if "ZONE" in form or "TZ" in form else 0.0
        return ColumnProfile(name, ColumnKind.TIME, **base, time=WrittenTime("timestamp", zoned=zoned))
    if form == "BOOLEAN":
        return ColumnProfile(name, ColumnKind.TRUTH, **base)
    is_whole = form.endswith("INT") or form == "INTEGER"
    if not is_whole and not form.startswith(("FLOAT", "DOUBLE", "REAL", "DECIMAL")):
        return ColumnProfile(name, ColumnKind.OTHER, **base)
    kind = ColumnKind.WHOLE if is_whole else ColumnKind.NUMBER
    return ColumnProfile(name, kind, **base, **_range(column, view, connection))


def _examples(column: str, view: str, connection: Backend) -> tuple[str, ...]:
    """The most frequent values, cut short."""
    found = rows_of(
        connection,
        f"SELECT CAST({column} AS VARCHAR) AS v FROM {view} WHERE {column} IS NOT NULL GROUP BY {column} "
        f"ORDER BY count(*) DESC, v LIMIT {_EXAMPLES}",
    )
    # A line end in a comment would end it.
    flat = [" ".join(str(value).split()) for (value,) in found]
    return tuple(value if len(value) <= 24 else f"{value[:21]}..." for value in flat)


def _range(number: str, view: str, connection: Backend) -> dict[str, Any]:
    finite = f"CASE WHEN isfinite(CAST({number} AS DOUBLE)) THEN CAST({number} AS DOUBLE) END"
    ((low, quantiles, highest, negative, whole),) = rows_of(
        connection,
        "SELECT min(n), approx_quantile(n, [0.5, 0.99]), max(n), count(DISTINCT n) FILTER (n < 0), "
        "bool_and(n = floor(n)) "
        f"FROM (SELECT {finite} AS n FROM {view})",
    )
    if low is None:
        return {}
    found = {"low": low, "middle": float(quantiles[0]), "high": float(quantiles[1]), "highest": highest}
    return {**found, "is_alone": negative == 1, "is_without_fraction": bool(whole)}


def _of_lists(table: RawTable, name: str, form: str, connection: Backend) -> ColumnProfile:
    column, view = quoted_name(name), quoted_name(table.view)
    ((count, shortest, mean, longest),) = rows_of(
        connection, f"SELECT count({column}), min(len({column})), avg(len({column})), max(len({column})) FROM {view}"
    )
    base: dict[str, Any] = {"rows": table.rows, "missing": table.rows - count, "words": mean or 0.0}
    is_float = form.startswith(("FLOAT", "DOUBLE", "REAL", "HALF"))
    if is_float:
        kind = ColumnKind.VECTOR if shortest == longest and (longest or 0) >= _VECTOR_WIDTH else ColumnKind.OTHER
        return ColumnProfile(name, kind, **base)
    if form.count("[") != 1 or form.startswith("STRUCT"):
        return ColumnProfile(name, ColumnKind.OTHER, **base)
    elements = f"(SELECT unnest({column}) AS e FROM {view})"
    ((distinct,),) = rows_of(connection, f"SELECT count(DISTINCT e) FROM {elements}")
    examples = _examples("e", elements, connection)
    return ColumnProfile(name, ColumnKind.LIST, **base, distinct=distinct, high=float(longest or 0), examples=examples)


def _of_text(table: RawTable, name: str, base: dict[str, Any], connection: Backend) -> ColumnProfile:
    """A column of text: numbers, times, truth values or lists in it, or the words that they are."""
    column, view = quoted_name(name), quoted_name(table.view)
    way = _RULES.way(column, Use.ANY)
    counts = dict(rows_of(connection, f"SELECT {way} AS w, count(*) FROM {view} WHERE {column} IS NOT NULL GROUP BY 1"))
    all_rows = sum(counts.values())
    plain = sum(counts.get(each, 0) for each in (Written.WHOLE, Written.LARGE, Written.DECIMAL))
    none = counts.get(Written.NO_VALUE, 0) + counts.get(Written.NOT_FINITE, 0)
    # In Parquet a text is a text, whatever is written in it.
    cast = "" if table.is_csv else f"cast({in_expression(name)} as double)"
    if plain and plain + none == all_rows and (table.is_csv or counts.get(Written.DECIMAL)):
        kind = ColumnKind.NUMBER if counts.get(Written.DECIMAL) else ColumnKind.WHOLE
        words = f"SELECT DISTINCT trim({column}) FROM {view} WHERE {way} IN ({Written.NO_VALUE}, {Written.NOT_FINITE})"
        no_value = tuple(sorted(word for (word,) in rows_of(connection, words))) if none else ()
        number = _range(f"TRY_CAST({column} AS DOUBLE)", view, connection)
        return ColumnProfile(name, kind, **base, **number, no_value=no_value, expression=cast)
    if counts.get(Written.TRUTH) == all_rows:
        return ColumnProfile(name, ColumnKind.TRUTH if table.is_csv else ColumnKind.TEXT, **base)
    values = [
        str(value)
        for (value,) in rows_of(
            connection,
            f"SELECT DISTINCT {column} AS v FROM {view} WHERE {column} IS NOT NULL ORDER BY hash(v), v "
            f"LIMIT {_SAMPLED_VALUES}",
        )
    ]
    if (time := written_time(values)) and (time := _for_all(time, column, view, connection)):
        return ColumnProfile(name, ColumnKind.TIME, **base, time=time)
    padded = counts.get(Written.PADDED, 0)
    odd_words = f"SELECT DISTINCT {column} AS v FROM {view} WHERE {way} = {Written.WORD} ORDER BY hash(v), v"
    odd = [str(value) for (value,) in rows_of(connection, f"{odd_words} LIMIT {_SAMPLED_VALUES}")]
    if not padded and (expression := number_of(in_expression(name), odd, values)):
        number = _range(expression.replace("cast(", "try_cast("), view, connection)
        return ColumnProfile(name, ColumnKind.NUMBER, **base, **number, expression=expression)
    return ColumnProfile(name, ColumnKind.TEXT, **base, is_padded=bool(padded), **_words_of(values))


def _words_of(values: Sequence[str]) -> dict[str, Any]:
    separator = separator_of(values)
    parts = [len(value.split(separator or None)) for value in values]
    return {"separator": separator, "words": sum(parts) / max(len(parts), 1), "high": float(max(parts, default=0))}


def _for_all(time: WrittenTime, column: str, view: str, connection: Backend) -> WrittenTime | None:
    """The form of times if all values have it, with the share that names a zone."""
    if time.format:
        fits = f"try_strptime({column}, {quoted(time.format)}) IS NOT NULL"
        ((others,),) = rows_of(connection, f"SELECT count(*) FILTER (NOT ({fits})) FROM {view}")
        return None if others else time
    way = _RULES.way(column, Use.TIME)
    query = f"SELECT {way} AS w, count(*) FROM {view} WHERE {column} IS NOT NULL GROUP BY 1"
    counts = dict(rows_of(connection, query))
    zoned, plain = counts.get(Written.ZONED_TIME, 0), counts.get(Written.TIME, 0)
    return WrittenTime("timestamp", zoned=zoned / (zoned + plain)) if zoned + plain == sum(counts.values()) else None


def in_expression(name: str) -> str:
    """A column's name as an expression has it: as it is where that is one word."""
    return name if name.isidentifier() else quoted_name(name)


def moment_sql(column: ColumnProfile) -> str:
    """SQL: a column of times as TIMESTAMP, by what was found of it."""
    name, time = quoted_name(column.name), column.time
    if time is None:
        return name
    if time.format:
        return f"make_timestamp(epoch_us(strptime({name}, {quoted(time.format)})))"
    if time.unit == "timestamp":
        return f"make_timestamp(epoch_us(CAST({name} AS TIMESTAMPTZ)))"
    size = {"seconds": 1_000_000, "ms": 1000, "us": 1}[time.unit]
    return f"make_timestamp(CAST({name} AS BIGINT) * {size})"


def day_of(moment: datetime) -> str:
    """A time's day, as a declaration writes it."""
    return moment.strftime("%Y-%m-%d")
