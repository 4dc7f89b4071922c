"""The last distinct values before a row: each once, where it occurred last.

How far back the last twenty of them lie is not known beforehand (a listener may repeat two songs for years), so the
events pass by once in their order, and of each key the last distinct values are kept.
"""

from collections.abc import Iterator, Sequence

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from recsys.datasets.database import load_batches, store, stream
from recsys.datasets.past.points import unique_name

_BATCH_ROWS = 200_000
_SCHEMA = pa.schema({"cut": pa.int64(), "event": pa.int64()})


def store_last_distinct(
    connection: Backend,
    ordered: ir.Table,
    spans: ir.Table,
    keys: Sequence[str],
    value: str,
    values: Sequence[str],
    length: int,
) -> ir.Table:
    """Return the spans with a list of each of `values`: of the last `length` distinct ones of `value`, oldest first.

    Args:
        ordered: keys, number (from 0 per key, in the order of time) and `values`.
        spans: keys, first and end: the numbers that a point may see.
    """
    everything = ibis.window(order_by=[*keys, "number"])
    codes = ordered.select(value).distinct().mutate(code=ibis.row_number())
    numbered = ordered.mutate(event=ibis.row_number().over(everything)).inner_join(codes, value)
    numbered = store(connection, unique_name(), numbered)
    # The last event that a point may see; spans of many points end with the same.
    last = spans.mutate(number=spans.end - 1).inner_join(numbered.select(*keys, "number", "event"), [*keys, "number"])
    last = store(connection, unique_name(), last.drop("number"))
    passing = numbered.left_join(last.select("event").distinct().mutate(is_cut=True), "event")
    passing = passing.select("event", "number", "code", passing.is_cut.fill_null(False).name("is_cut"))
    batches = stream(connection, connection.compile(passing.order_by("event")), _BATCH_ROWS)
    members = load_batches(connection, unique_name(), _SCHEMA, _members(batches, length))
    seen = numbered.select("event", "number", *values)
    joined = members.inner_join(seen, "event")
    lists = {name: joined[name].collect(order_by=joined.event, include_null=True) for name in ("number", *values)}
    cuts = joined.group_by("cut").aggregate(**lists)
    both = last.inner_join(cuts, last.event == cuts.cut)
    # What occurred last before the window's begin is listed first.
    outside = both.number.filter(lambda number: number < both["first"]).length()
    return both.select(*spans.columns, **{name: both[name][outside:] for name in values})


def _members(batches: Iterator[pa.RecordBatch], length: int) -> Iterator[pa.RecordBatch]:
    """Yield (cut, event): for each event that is a cut, the last events of the last distinct values up to it."""
    last = dict[int, int]()
    for batch in batches:
        cuts, events = list[int](), list[int]()
        for event, number, code, is_cut in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if number == 0:
                last = {}
            # Taken out and put in again, a value comes last.
            last.pop(code, None)
            last[code] = event
            if len(last) > length:
                del last[next(iter(last))]
            if is_cut:
                cuts.extend([event] * len(last))
                events.extend(last.values())
        yield pa.record_batch([pa.array(cuts, pa.int64()), pa.array(events, pa.int64())], schema=_SCHEMA)
