"""Sums over the past as differences of two sums: all before the window's end less all before its begin.

Per key, the events of one moment are one line, and lines are summed up in the order of time. The last line strictly
before an edge in time (an ASOF join) then holds all that happened before it: one pass per key and edge, whatever the
number of features.
"""

from collections.abc import Collection, Sequence

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import store
from recsys.datasets.past.keys import key_names, keyed, past_events
from recsys.datasets.past.opening import NOTHING_BEFORE, Opening, last_of, opening_name
from recsys.datasets.past.past_feature import MOMENT
from recsys.datasets.past.points import AT, unique_name
from recsys.datasets.past.quantities import Measure, Quantity, exact_of, whole
from recsys.datasets.past.standard_sql import has_duckdb_words, last_before

_SO_FAR = {"preceding": None, "following": 0}
_NEXT, _COUNT = "next_moment", "lines_rows"


def store_lines(
    connection: Backend,
    events: ir.Table,
    by: Sequence[str],
    quantities: Collection[Quantity],
    opening: Opening = NOTHING_BEFORE,
) -> ir.Table:
    """Store per key and moment of the events: what is known of all events up to it, itself included.

    Args:
        opening: the last line of each key before these events.

    Returns:
        The keys, `moment`, and a column `Quantity.line` per measure; sums as `exact` has them.
    """
    keys = key_names(by)
    # Of a measure that is asked with and without a window, the one with: it may need a column more.
    in_spans = sorted(quantities, key=lambda one: one.window)
    measured = {one.line: one for one in in_spans if not one.is_framed}
    rows = past_events(events)
    values = {_value(one.of): rows[one.of] for one in measured.values() if one.of}
    values |= {_exact(one.of): exact_of(rows, one.of) for one in measured.values() if one.measure is Measure.SUM}
    single = keyed(rows, by, moment=rows[MOMENT], **values)
    lines = single.group_by([*keys, "moment"]).aggregate(
        **{_COUNT: single.count()},
        **{name: _of_one_moment(single, one) for name, one in measured.items() if one.measure is not Measure.DISTINCT},
    )
    for name, one in measured.items():
        if one.measure is Measure.DISTINCT:
            value = _value(one.of)
            seen = single.filter(single[value].notnull()).group_by([*keys, value]).aggregate(moment=single.moment.min())
            seen = _not_seen_before(connection, seen, [*keys, value], opening_name("values", by, one.of), opening)
            first = seen.group_by([*keys, "moment"]).aggregate(**{name: seen.count()})
            joined = lines.left_join(first, [*keys, "moment"])
            lines = joined.select(*(lines[column] for column in lines.columns), **{name: first[name].fill_null(0)})
    return _since_opening(
        connection, lines.drop(_COUNT), keys, measured, opening_name("lines", by, sorted(measured)), opening
    )


def _since_opening(
    connection: Backend, lines: ir.Table, keys: list[str], measured: dict[str, Quantity], name: str, opening: Opening
) -> ir.Table:
    """Store the lines summed up, each key from its last line of before on, and keep the last ones."""
    others = None
    before = opening.known.get(name)
    if before is not None:
        # Stored, as only the database knows how wide its sums are.
        lines = store(connection, unique_name(), lines)
        # Keys to which nothing came are most of them, and have nothing to be summed up.
        others = before.anti_join(lines, keys) if keys else before.limit(0)
        met = before.semi_join(lines, keys) if keys else before
        lines = ibis.union(lines, met.select(*lines.columns), distinct=False)
    summed = store(connection, unique_name(), _summed_up(lines, keys, measured))
    last = last_of(summed, keys, "moment", 1)
    last = last.drop(_NEXT) if _NEXT in last.columns else last
    if others is None:
        opening.keep(connection, name, last)
        return summed
    opening.keep(connection, name, ibis.union(last, others.select(*last.columns), distinct=False))
    if _NEXT in summed.columns:
        others = others.mutate(**{_NEXT: ibis.null(summed[_NEXT].type())})
    return store(connection, unique_name(), ibis.union(summed, others.select(*summed.columns), distinct=False))


def _not_seen_before(connection: Backend, seen: ir.Table, columns: list[str], name: str, opening: Opening) -> ir.Table:
    """The values of `seen` that are new to their key."""
    if name in opening.known:
        seen = seen.anti_join(opening.known[name], columns)
    opening.keep(connection, name, opening.taken_up(connection, name, seen.select(*columns)))
    return seen


def at_edges(points: ir.Table, lines: ir.Table, keys: Sequence[str], quantities: Collection[Quantity]) -> ir.Table:
    """Return the columns of `points` and a column `Quantity.column` each, a line per line of `points`.

    Args:
        points: AT, the keys and perhaps more.
        lines: of `store_lines`, for these quantities and perhaps more.
    """
    needed = dict[int, set[str]]()
    for one in quantities:
        needed.setdefault(one.ago, set()).add(one.line)
        if one.window:
            needed.setdefault(one.ago + one.window, set()).add(one.line)
    joined = points
    for edge, columns in needed.items():
        names = ["moment", *sorted(columns)]
        names += [_NEXT] if _NEXT in lines.columns else []
        part = lines.select(
            *(lines[key].name(f"{_at(edge, key)}") for key in keys),
            *(lines[name].name(_at(edge, name)) for name in names),
        )
        known, same = joined.columns, {key: _at(edge, key) for key in keys}
        at, moment = joined[AT] - edge, _at(edge, "moment")
        if has_duckdb_words(points):
            both = joined.asof_join(
                part,
                on=at > part[moment],
                predicates=[joined[ours] == part[theirs] for ours, theirs in same.items()],
            )
        else:
            both = last_before(joined, part, same, at, moment)
        joined = both.select(*known, *(_at(edge, name) for name in names))
    return joined.select(*points.columns, **{one.column: _in_span(joined, one) for one in quantities})


def _value(of: str) -> str:
    return f"of_{of.encode().hex()}"


def _exact(of: str) -> str:
    return f"exact_of_{of.encode().hex()}"


def _at(edge: int, name: str) -> str:
    return f"{name}_at_{edge}"


def _of_one_moment(single: ir.Table, one: Quantity) -> ir.Value:
    if one.measure is Measure.ROWS:
        return single.count()
    if one.measure in (Measure.FIRST, Measure.LAST):
        return single.moment.min()
    if one.measure is Measure.SUM:
        return single[_exact(one.of)].sum()
    values = single[_value(one.of)]
    if one.measure is Measure.COUNTED:
        return values.count()
    numbers = values.cast("float64")
    return numbers.min() if one.measure is Measure.MINIMUM else numbers.max()


def _summed_up(lines: ir.Table, keys: Sequence[str], measured: dict[str, Quantity]) -> ir.Table:
    so_far = ibis.window(group_by=keys, order_by="moment", **_SO_FAR)
    found = dict[str, ir.Value]()
    for name, one in measured.items():
        values = lines[name]
        if one.measure is Measure.MINIMUM or one.measure is Measure.FIRST:
            found[name] = values.min().over(so_far)
        elif one.measure is Measure.MAXIMUM or one.measure is Measure.LAST:
            found[name] = values.max().over(so_far)
        else:
            total = values.sum().over(so_far)
            found[name] = total if one.measure is Measure.SUM else whole(total)
    if any(one.measure is Measure.FIRST and one.window for one in measured.values()):
        found[_NEXT] = lines.moment.lead().over(ibis.window(group_by=keys, order_by="moment"))
    return lines.select(*keys, "moment", **found)


def _in_span(joined: ir.Table, one: Quantity) -> ir.Value:
    """The quantity, from the lines before its edges."""
    end = joined[_at(one.ago, one.line)]
    begin_edge = one.ago + one.window
    if one.measure is Measure.FIRST and one.window:
        # The line after the last one before the window, which may lie behind the window's end.
        before = joined[_at(begin_edge, "moment")]
        first = before.notnull().ifelse(joined[_at(begin_edge, _NEXT)], end)
        return (first < joined[AT] - one.ago).ifelse(first, None)
    if one.measure is Measure.LAST and one.window:
        return (end >= joined[AT] - begin_edge).ifelse(end, None)
    if one.measure in (Measure.FIRST, Measure.LAST, Measure.MINIMUM, Measure.MAXIMUM):
        return end
    return end.fill_null(0) - joined[_at(begin_edge, one.line)].fill_null(0) if one.window else end.fill_null(0)
