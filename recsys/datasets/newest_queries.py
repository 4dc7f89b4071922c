"""Whom to recommend to: each user as they come next, at the end of all events that are known."""

from collections.abc import Sequence
from datetime import datetime

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from recsys.datasets.database import epoch_us, load, store
from recsys.datasets.event_log import TIME
from recsys.datasets.past import CONTRIBUTES, MOMENT
from recsys.datasets.query_tables import ID, QUERY, QueryLog, file_name
from recsys.datasets.source import SPLIT
from recsys.datasets.table_forms import TIME_UNITS
from recsys.features.column_names import OWN_PREFIX

_PLACE = 1_000_000
"""Microseconds that a place in a user's own order stands for; see `TableShape.time`."""


def newest_queries(
    connection: Backend, log: QueryLog, at: datetime | None, users: Sequence[str] | None = None
) -> ir.Table:
    """Return one query per user, numbered in the order of the users, with the context of the user's newest one.

    Args:
        log: of events before `at` alone.
        at: when the queries begin, UTC, without zone; None where the events have no times: then each begins after the
            user's last event.
        users: ids as text; None: every user that has an event.
    """
    raw, queries = log.raw, log.queries
    own = [name for name in queries.columns if name not in {column for side in raw.sides for column in side.columns}]
    user = file_name(raw.schema.user, raw)
    known = queries.select(*own).filter(queries[user].notnull())
    if users is not None:
        asked = load(connection, f"{OWN_PREFIX}asked_users", pa.table({"id": pa.array(users, pa.string())}))
        known = known.filter(known[user].cast("string").isin(asked["id"]))
    place = f"{OWN_PREFIX}newest"
    newest_first = [known[TIME].desc(), known[ID].desc()]
    ranked = known.mutate(**{place: ibis.row_number().over(group_by=known[user], order_by=newest_first)})
    newest = ranked.filter(ranked[place] == 0).drop(place)
    columns = _moment(newest, log, at) | {
        QUERY: ibis.row_number().over(order_by=newest[user]).cast("int32"),
        CONTRIBUTES: ibis.literal(False),
        SPLIT: ibis.null("string"),
    }
    stored = store(connection, f"{OWN_PREFIX}newest_queries", newest.mutate(**columns))
    return store(connection, f"{OWN_PREFIX}whole_newest_queries", raw.joined(stored, stored[MOMENT]))


def _moment(queries: ir.Table, log: QueryLog, at: datetime | None) -> dict[str, ir.Value]:
    """When the queries begin, in the files' own column too."""
    layout = log.raw.layout
    if layout.position:
        places = queries[layout.position] + 1
        return {
            layout.position: places,
            TIME: queries[TIME] + ibis.interval(seconds=1),
            MOMENT: queries[MOMENT] + _PLACE,
        }
    if layout.time is None or at is None:
        return {}
    moment = ibis.literal(at)
    found: dict[str, ir.Value] = {TIME: moment.cast("timestamp(6)"), MOMENT: epoch_us(moment)}
    column = queries[layout.time.column] if layout.time.column in queries.columns else None
    if column is not None:
        each = TIME_UNITS[layout.time.unit]
        value = (epoch_us(moment) / each) if each else moment
        found[layout.time.column] = value.cast(column.type())
    return found
