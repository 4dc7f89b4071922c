"""The last values before a row, oldest first: one list, or several that agree element by element.

The events of a key stand in one order of time, and a row sees a span of that order. They are kept in blocks no shorter
than a list, so that a list is cut out of two blocks, however long the key's past is.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import store
from recsys.datasets.past.cumulative import at_edges
from recsys.datasets.past.keys import days_between, key_names, keyed, past_events, whole_days
from recsys.datasets.past.last_distinct import store_last_distinct
from recsys.datasets.past.opening import NOTHING_BEFORE, Opening, last_of, opening_name
from recsys.datasets.past.past_feature import AGE, AGE_DAYS, LABEL, MOMENT, Before, ListedRows, PastFeature
from recsys.datasets.past.points import AT, POINT, Group, keys_of_points, store_points, unique_name
from recsys.datasets.past.quantities import Measure, Quantity
from recsys.datasets.past.standard_sql import has_duckdb_words, lists_in_order

# A shorter block would be a line for hardly more than one event.
_SHORTEST_BLOCK = 16


@ibis.udf.scalar.builtin(signature=((), dt.Array(dt.null)))  # type: ignore[untyped-decorator]
def list_pack() -> None:
    """An empty list, which takes the type of the lists beside it; DuckDB's own function."""


def or_empty(lists: ir.Value) -> ir.ArrayValue:
    """Lists, empty in place of null."""
    # Not a literal, which has a type of its own: lists of an ENUM would become lists of texts.
    return ibis.coalesce(lists, list_pack())


def list_column(of: str) -> str:
    """The column that lists the values of a column of the events."""
    return f"list_{of.encode().hex()}"


@dataclass(frozen=True)
class Listing:
    """Which events are listed; features that agree in it have lists that do.

    Attributes:
        value: the column whose nulls are not listed, and whose values stand once if the list is `distinct`.
    """

    group: Group
    value: str
    rows: ListedRows
    distinct: bool
    window: int
    ago: int
    length: int

    @classmethod
    def of_feature(cls, feature: PastFeature) -> "Listing":
        """The listing of a `recent` feature."""
        group = Group(tuple(sorted(feature.by)), feature.before, leave_one_out=feature.leave_one_out)
        value = feature.beside or feature.of
        return cls(group, value, feature.rows, feature.distinct, feature.window, feature.ago, feature.length)


def store_lists(
    connection: Backend,
    asked: ir.Table,
    events: ir.Table,
    listing: Listing,
    columns: Collection[str],
    opening: Opening = NOTHING_BEFORE,
) -> ir.Table:
    """Store (POINT, AT, the keys, a `list_column` of each of `columns`) of the points that have a past.

    Args:
        opening: the events before these that a list may still name.
    """
    keys = key_names(listing.group.by)
    name = opening_name("listed", listing, *columns)
    ordered = store(connection, unique_name(), _ordered(connection, events, listing, columns, opening, name))
    opening.keep(connection, name, _still_listed(ordered, listing, keys))
    spans = store(connection, unique_name(), _spans(connection, asked, ordered, listing, keys))
    values = [name for name in ordered.columns if name == "moment" or name.startswith("list_")]
    if listing.distinct:
        lists = store_last_distinct(
            connection, ordered, spans, keys, list_column(listing.value), values, listing.length
        )
    else:
        lists = _cut(connection, ordered, spans, keys, values, listing.length)
    chosen = {list_column(of): listed(lists.__getitem__, of, lists[AT], listing.group.before) for of in columns}
    return store(connection, unique_name(), lists.select(POINT, AT, *keys, **chosen))


def listed(lists: Callable[[str], ir.ArrayValue], of: str, at: ir.Value, before: Before) -> ir.ArrayValue:
    """A column's lists, or how long before `at` the listed events were.

    Args:
        lists: the lists of a `list_column`, or of the events' times under `moment`.
    """
    if of == AGE_DAYS:
        return lists("moment").map(lambda moment: whole_days(moment, at, before))
    if of == AGE:
        return lists("moment").map(lambda moment: days_between(moment, at, before).cast("float32"))
    return lists(list_column(of))


def _still_listed(ordered: ir.Table, listing: Listing, keys: list[str]) -> ir.Table:
    """The events that a later row's list may name, by the columns that they are ordered by."""
    if listing.distinct:
        ordered = last_of(ordered, [*keys, list_column(listing.value)], "number", 1)
    return last_of(ordered, keys, "number", listing.length).drop("number")


def _ordered(
    connection: Backend, events: ir.Table, listing: Listing, columns: Collection[str], opening: Opening, name: str
) -> ir.Table:
    """(keys, moment, values, number): the events that can be listed, numbered per key in the order of time."""
    rows = past_events(events)
    rows = rows.filter(rows[listing.value].notnull())
    if listing.rows is ListedRows.LIKED:
        rows = rows.filter(rows[LABEL] == 1)
    names = {list_column(of): rows[of] for of in (listing.value, *columns) if of not in (AGE, AGE_DAYS)}
    found = opening.taken_up(connection, name, keyed(rows, listing.group.by, moment=rows[MOMENT], **names))
    # The value itself breaks ties of time, so that equal data gives equal lists; then what stands beside it.
    value = list_column(listing.value)
    first = found[value].desc() if listing.distinct else found[value]
    order = [found.moment, first, *(found[name] for name in sorted(names) if name != value)]
    number = ibis.row_number().over(group_by=key_names(listing.group.by), order_by=order)
    return found.mutate(number=number)


def _spans(connection: Backend, asked: ir.Table, ordered: ir.Table, listing: Listing, keys: Sequence[str]) -> ir.Table:
    """(POINT, AT, keys, first, end): which numbers a point may see, at most the last `length` unless `distinct`."""
    rows = Quantity(Measure.ROWS)
    lines = ordered.group_by([*keys, "moment"]).aggregate(**{rows.line: ordered.number.max() + 1})
    lines = store(connection, unique_name(), lines)
    points = store_points(connection, asked, listing.group, ordered)
    end = Quantity(Measure.ROWS, ago=listing.ago)
    first = Quantity(Measure.ROWS, ago=listing.ago + listing.window)
    joined = at_edges(keys_of_points(points, listing.group), lines, keys, {end, first})
    seen = joined[first.column] if listing.window else ibis.literal(0)
    if not listing.distinct:
        seen = ibis.greatest(seen, joined[end.column] - listing.length)
    spans = joined.select(*points.columns, first=seen.cast("int64"), end=joined[end.column].cast("int64"))
    return spans.filter(spans.end > spans["first"])


def _cut(
    connection: Backend, ordered: ir.Table, spans: ir.Table, keys: Sequence[str], values: Sequence[str], length: int
) -> ir.Table:
    size = max(length, _SHORTEST_BLOCK)
    numbered = ordered.mutate(block=_block(ordered.number, size))
    # Nulls are elements where another column says what is listed.
    if has_duckdb_words(ordered):
        parts = {name: numbered[name].collect(order_by=numbered.number, include_null=True) for name in values}
        lists = numbered.group_by([*keys, "block"]).aggregate(**parts)
    else:
        lists = lists_in_order(numbered, [*keys, "block"], numbered.number, {name: numbered[name] for name in values})
    blocks = store(connection, unique_name(), lists)
    last = spans.mutate(block=_block(spans.end - 1, size))
    joined = last.inner_join(blocks, [*keys, "block"])
    former = blocks.mutate(block=blocks.block + 1)
    both = joined.left_join(former, [*keys, "block"], rname="former_{name}")
    begin = ibis.greatest(both.block - 1, 0) * size
    # A block is no longer than 32 bits can tell, and to Spark no list has other places.
    first, end = ((both[edge] - begin).cast("int32") for edge in ("first", "end"))
    cut = {name: _joined(both[f"former_{name}"], both[name])[first:end] for name in values}
    return both.select(*spans.columns, **cut)


def _joined(former: ir.ArrayValue, later: ir.ArrayValue) -> ir.ArrayValue:
    return former.isnull().ifelse(later, former.concat(later))


def _block(number: ir.Value, size: int) -> ir.IntegerValue:
    return ((number - number % size) / size).cast("int64")
