"""What DuckDB has words for and Spark has not, said in words that both have.

DuckDB keeps its own words, which are faster there. Both ways give the same rows, bit for bit.
"""

from collections.abc import Mapping, Sequence

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

_AT, _NEWEST, _POINT, _LISTED, _PLACE = "both_at", "both_newest", "both_point", "listed", "place"


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator]
def monotonically_increasing_id() -> dt.int64:
    """A number that no other row has, Spark's own function; numbering rows in turn takes one process for all."""


def has_duckdb_words(rows: ir.Table) -> bool:
    """Whether the engine that holds the rows is DuckDB."""
    return bool(rows.get_backend().name == "duckdb")


def unique_number(rows: ir.Table) -> ir.IntegerValue:
    """A number for each row that no other has."""
    return ibis.row_number() if has_duckdb_words(rows) else monotonically_increasing_id()


def last_before(
    points: ir.Table, lines: ir.Table, same: Mapping[str, str], at: ir.IntegerValue, moment: str
) -> ir.Table:
    """Return the points beside the last line strictly before `at` that has their keys, null where there is none.

    Points and lines of a key stand in one order of time, and each point looks back at the newest line.

    Args:
        points: none of whose columns has the name of a line's.
        same: the points' key -> the lines' key of the same meaning.
        moment: the lines' column of times, each once per key.
    """
    keys = {f"both_{number}": pair for number, pair in enumerate(same.items())}
    point = ibis.struct({name: points[name] for name in points.columns})
    happened = lines.select(
        **{name: lines[theirs] for name, (_, theirs) in keys.items()},
        **{_AT: lines[moment], _NEWEST: lines[moment], _POINT: ibis.null(point.type())},
    )
    asking = points.select(
        **{name: points[ours] for name, (ours, _) in keys.items()},
        **{_AT: at, _NEWEST: ibis.null(lines[moment].type()), _POINT: point},
    )
    both = ibis.union(happened, asking, distinct=False)
    # At one moment the points come first, as a line of that moment is not before them.
    order = [both[_AT], both[_POINT].isnull()]
    so_far = ibis.window(group_by=[*keys], order_by=order, preceding=None, following=0)
    found = both.mutate(**{_NEWEST: both[_NEWEST].max().over(so_far)})
    found = found.filter(found[_POINT].notnull())
    found = found.select(_NEWEST, **{name: found[_POINT][name] for name in points.columns})
    is_same = [found[ours] == lines[theirs] for ours, theirs in same.items()]
    joined = found.left_join(lines, [*is_same, found[_NEWEST] == lines[moment]])
    return joined.select(*points.columns, *lines.columns)


def distinct_in_frame(values: ir.Value, frame: object) -> ir.IntegerValue:
    """How many distinct values a frame has, nulls left out."""
    if values.type().is_floating():
        # Adding 0 makes -0.0 the 0.0 that it equals.
        values = values + 0.0
    return values.collect().over(frame).unique().length().cast("int64")


def lists_in_order(
    rows: ir.Table, keys: Sequence[str], order: ir.IntegerValue, values: Mapping[str, ir.Value]
) -> ir.Table:
    """Return (keys, a list for each of `values`, nulls among it) in the order of `order`, which no two rows share."""
    packed = ibis.struct({_PLACE: order, **values}).collect()
    lists = rows.group_by(keys).aggregate(**{_LISTED: packed})
    lists = lists.mutate(**{_LISTED: lists[_LISTED].sort()})
    return lists.select(*keys, **{name: _field(lists[_LISTED], name) for name in values})


def _field(lists: ir.ArrayValue, name: str) -> ir.ArrayValue:
    return lists.map(lambda one: one[name])
