"""Minimum, maximum and number of distinct values in a window: what no difference of two sums tells.

Events and points of a key lie in one order of time, and each point looks at the frame of events in its window.
"""

from collections.abc import Callable, Collection, Sequence

import ibis
import ibis.expr.types as ir

from recsys.datasets.past.keys import keyed, past_events
from recsys.datasets.past.past_feature import MOMENT
from recsys.datasets.past.points import AT, POINT
from recsys.datasets.past.quantities import Measure, Quantity
from recsys.datasets.past.standard_sql import distinct_in_frame, has_duckdb_words


def in_frames(
    points: ir.Table, events: ir.Table, by: Sequence[str], window: int, ago: int, quantities: Collection[Quantity]
) -> ir.Table:
    """Return (POINT, a column `Quantity.column` each), a line per line of `points`.

    Args:
        points: POINT, AT and the keys.
        window: of all the quantities, as is `ago`.
    """
    rows = past_events(events)
    values = {one.column: _numbers(rows, one) for one in quantities}
    happened = keyed(rows, by, moment=rows[MOMENT], **values, **{POINT: ibis.null("int64")})
    nothing = {name: ibis.null(happened[name].type()) for name in values}
    asking = points.mutate(moment=points[AT] - ago, **nothing).select(*happened.columns)
    both = ibis.union(happened, asking, distinct=False)
    keys = [name for name in points.columns if name not in (POINT, AT)]
    frame = ibis.window(group_by=keys, order_by="moment", range=(-window, -1))
    distinct = _distinct if has_duckdb_words(points) else distinct_in_frame
    found = both.select(
        POINT, **{one.column: _over(both[one.column], one.measure, frame, distinct) for one in quantities}
    )
    return found.filter(found[POINT].notnull())


def _numbers(rows: ir.Table, one: Quantity) -> ir.Value:
    return rows[one.of] if one.measure is Measure.DISTINCT else rows[one.of].cast("float64")


def _distinct(values: ir.Value, frame: object) -> ir.IntegerValue:
    return values.nunique().over(frame)


def _over(
    values: ir.Value, measure: Measure, frame: object, distinct: Callable[[ir.Value, object], ir.IntegerValue]
) -> ir.Value:
    if measure is Measure.DISTINCT:
        return distinct(values, frame)
    return (values.min() if measure is Measure.MINIMUM else values.max()).over(frame)
