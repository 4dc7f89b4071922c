"""What a feature is made of: measures of a key's events in a span of time, and sums of them that are exact."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import fetch_one
from recsys.datasets.past.past_feature import EXACT
from recsys.errors import DataError

_STEPS = 2.0**40
# With 2^26 events and `_STEPS` a sum then still fits into the 38 digits of a decimal.
_LARGEST = 2.0**60


class Measure(StrEnum):
    """What is known of a key's events in a span of time."""

    ROWS = "rows"
    COUNTED = "counted"
    SUM = "sum"
    DISTINCT = "distinct"
    MINIMUM = "minimum"
    MAXIMUM = "maximum"
    FIRST = "first"
    LAST = "last"


ADDED = (Measure.ROWS, Measure.COUNTED, Measure.SUM, Measure.DISTINCT)
"""The measures that are 0 where nothing happened; the others are null."""


@dataclass(frozen=True)
class Quantity:
    """A measure of a span of time.

    Attributes:
        of: the events' column; `COUNTED` is how many values it has. Empty for `ROWS` and for the times of the `FIRST`
            and `LAST` event.
        window: in microseconds, as in `PastFeature`; `ago` likewise.
    """

    measure: Measure
    of: str = ""
    window: int = 0
    ago: int = 0

    @property
    def line(self) -> str:
        """The name of the column that holds the measure, whatever the span."""
        # By its bytes, as the data base would hold names that differ only in small and large letters for one.
        return f"{self.measure}_{self.of.encode().hex()}"

    @property
    def column(self) -> str:
        """The name of the column that holds the quantity."""
        return f"{self.line}_{self.window}_{self.ago}"

    @property
    def is_framed(self) -> bool:
        """Whether no difference of two sums tells it."""
        return self.window > 0 and self.measure in (Measure.MINIMUM, Measure.MAXIMUM, Measure.DISTINCT)


def exact(values: ir.Value) -> ir.Value:
    """Numbers as whole ones, whose sum depends on no order; those with a fraction as multiples of 2^-40."""
    if values.type().is_unsigned_integer():
        return values.cast("decimal(38, 0)")
    return values.cast("int64") if is_whole(values) else (values.cast("float64") * _STEPS).cast("decimal(38, 0)")


def exact_of(rows: ir.Table, of: str) -> ir.Value:
    """A column of the events as `exact` makes it."""
    made = exact_name(of)
    return rows[made] if made in rows.columns else exact(rows[of])


def exact_name(of: str) -> str:
    """The name of a column whose numbers are made `exact` before the events are counted."""
    return f"{EXACT}{of.encode().hex()}"


def from_exact(total: ir.Value, values: ir.Value) -> ir.FloatingValue:
    """A sum of `exact(values)` as a number again."""
    number = total.cast("float64")
    return number if is_whole(values) else number / _STEPS


def whole(number: ir.Value) -> ir.IntegerValue:
    """A sum of counts as int64: DuckDB has 128 bits for it, which ibis does not know and would not cast."""
    return number.cast("decimal(38, 0)").cast("int64")


def is_whole(values: ir.Value) -> bool:
    """Whether the values are whole numbers by their type."""
    return bool(values.type().is_integer() or values.type().is_boolean())


def over_points(table: ir.Table, point: str, quantities: Collection[Quantity]) -> ir.Table:
    """Add up what the values of a list key brought, or the least and greatest of it: a line per point."""
    found = {}
    for one in quantities:
        values = table[one.column]
        if one.measure in ADDED:
            found[one.column] = values.sum()
        else:
            found[one.column] = values.min() if one.measure in (Measure.MINIMUM, Measure.FIRST) else values.max()
    return table.group_by(point).aggregate(**found)


def require_summable(connection: Backend, events: ir.Table, columns: Collection[str]) -> None:
    """Refuse numbers that are too large for `exact`.

    Raises:
        DataError: names the column and the number.
    """
    fractions = {f"largest_{number}": name for number, name in enumerate(columns) if not is_whole(events[name])}
    if not fractions:
        return
    largest = {key: events[name].cast("float64").abs().max() for key, name in fractions.items()}
    found = fetch_one(connection, events.aggregate(**largest))
    for key, name in fractions.items():
        if found[key] is not None and not found[key] <= _LARGEST:
            raise DataError(
                f"Column `{name}` holds a number of size {found[key]:g}; expected at most {_LARGEST:g}, so that sums "
                "over the past stay exact. Mend it in the file, or divide the column."
            )
