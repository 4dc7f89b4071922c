"""Events that bring their labels, read as queries and items, so that whole lists can be asked about.

What never varies within a user is the user's, what never varies within an item is the item's; of the rest, what
`table.query.keep` names is known with the user's newest event.
"""

from collections.abc import Sequence
from dataclasses import replace

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.computed_features import ComputedFeatures, own_name
from recsys.datasets.database import epoch_us, fetch_one, store
from recsys.datasets.declared_history import HistoryRule
from recsys.datasets.declared_tables import Keep
from recsys.datasets.event_log import IS_PAST, TIME, EventLog, event_split, user_key
from recsys.datasets.event_tables import RawEvents, reduced
from recsys.datasets.past import CONTRIBUTES, MOMENT, ROW, UNIT
from recsys.datasets.query_tables import ID, ITEM, QUERY, QueryLog, chosen_events, file_name, numbered_queries
from recsys.datasets.source import SPLIT
from recsys.datasets.table import labelled_log
from recsys.datasets.table_files import FILE_SPLIT
from recsys.features.column_names import OWN_PREFIX
from recsys.progress import Progress

_IS_CHOSEN = f"{OWN_PREFIX}is_chosen"


def labelled_queries(connection: Backend, raw: RawEvents, progress: Progress) -> QueryLog:
    """Number the users, one query each, and the items, and store the events with all that is counted of them.

    Raises:
        DataError: see `labelled_log`.
    """
    users, items = _known(connection, raw)
    log, whole = _numbered(connection, raw, items, progress)
    return QueryLog(log, _queries(connection, raw, users), whole)


def labelled_choices(connection: Backend, raw: RawEvents, progress: Progress) -> QueryLog:
    """Number the queries of events with label 1, as `table.query` says, and the items, for lists that are judged.

    Raises:
        DataError: see `labelled_log`.
    """
    users, items = _known(connection, raw)
    log, whole = _numbered(connection, raw, items, progress)
    schema, rule = raw.schema, raw.layout.query
    assert rule is not None
    shape = raw.shape(raw.rows)
    split = event_split(shape)
    user = file_name(schema.user, raw)
    known = {name: Keep.MAXIMUM for name in users if name != user}
    # The split of an event is that of all events, not of those that were chosen: it comes along like that of a file.
    layout = replace(
        raw.layout, label=None, splits=None, history=HistoryRule(), query=replace(rule, keep={**known, **rule.keep})
    )
    rows = raw.rows.mutate(**{FILE_SPLIT: split, _IS_CHOSEN: shape.label() == 1})
    rows = rows.filter(rows[_IS_CHOSEN]).drop(_IS_CHOSEN)
    positives = replace(raw, rows=rows, layout=layout)
    events = chosen_events(connection, positives, ComputedFeatures(layout, schema))
    queries = numbered_queries(connection, events, positives).mutate(**{CONTRIBUTES: ibis.literal(False)})
    own = own_name(schema.item)
    numbers = whole.select(ITEM, **{own: whole[file_name(schema.item, raw)]})
    chosen = events.select(ID, own, own_name(schema.user)).join(queries.select(ID, QUERY), ID).join(numbers, own)
    return QueryLog(log, queries, whole, store(connection, f"{OWN_PREFIX}choices", chosen))


def _numbered(
    connection: Backend, raw: RawEvents, items: Sequence[str], progress: Progress
) -> tuple[EventLog, ir.Table]:
    """The log with numbers of items, and the items."""
    log, _ = labelled_log(connection, raw, progress)
    schema, rows = raw.schema, log.rows
    item = file_name(schema.item, raw)
    distinct = (
        raw.rows.filter(raw.rows[item].notnull())
        .group_by(item)
        .aggregate(**{name: raw.rows[name].max() for name in items if name != item})
    )
    numbered = distinct.mutate(**{ITEM: ibis.row_number().over(order_by=distinct[item]).cast("int32")})
    whole = store(connection, f"{OWN_PREFIX}whole_items", raw.joined(store(connection, f"{OWN_PREFIX}items", numbered)))
    own = {own_name(name): rows[name] for name in (schema.user, schema.item)} | {TIME: rows[schema.time]}
    events = rows.mutate(**own, **({} if ROW in rows.columns else {ROW: ibis.row_number()}))
    numbers = whole.select(ITEM, **{own_name(schema.item): whole[item]})
    events = store(connection, f"{OWN_PREFIX}numbered_events", events.join(numbers, own_name(schema.item)))
    return EventLog(raw, log.computed, events), whole


def _known(connection: Backend, raw: RawEvents) -> tuple[list[str], list[str]]:
    """The columns of the files that are the user's, and those that are the item's."""
    layout, schema, rows = raw.layout, raw.schema, raw.rows
    roles = {layout.label.column if layout.label else "", layout.position, schema.weight or ""}
    roles |= {schema.graded.column} if schema.graded else set()
    roles |= {layout.time.column if layout.time else "", layout.splits.column if layout.splits else ""}
    names = [name for name in rows.columns if not name.startswith(OWN_PREFIX) and name not in roles]
    user, item = file_name(schema.user, raw), file_name(schema.item, raw)
    of_users = _constant(connection, rows, user, [name for name in names if name != item])
    of_items = _constant(connection, rows, item, [name for name in names if name not in of_users])
    return of_users, of_items


def _constant(connection: Backend, rows: ir.Table, key: str, names: Sequence[str]) -> list[str]:
    """Those of the columns that have one value for each value of `key`."""
    others = [name for name in names if name != key]
    if not others:
        return [key]
    varies = {name: (rows[name].min() != rows[name].max()).fill_null(False) for name in others}
    grouped = rows.filter(rows[key].notnull()).group_by(key).aggregate(**varies)
    found = fetch_one(connection, grouped.aggregate(**{name: grouped[name].any() for name in others}))
    return [key, *(name for name in others if not found[name])]


def _queries(connection: Backend, raw: RawEvents, users: Sequence[str]) -> ir.Table:
    schema, layout, rows = raw.schema, raw.layout, raw.rows
    time, user = raw.shape(rows).time(), file_name(schema.user, raw)
    keep = layout.query.keep if layout.query else {}
    kept = {name: reduced(rows[name], how, [time]) for name, how in keep.items() if name not in users}
    moment = layout.time.column if layout.time else layout.position
    if moment and moment not in kept:
        kept[moment] = rows[moment].max()
    found = (
        rows.filter(rows[user].notnull())
        .group_by(user)
        .aggregate(**{name: rows[name].max() for name in users if name != user}, **kept, **{TIME: time.max()})
    )
    columns = {
        QUERY: ibis.row_number().over(order_by=found[user]).cast("int32"),
        ID: found[user].cast("string"),
        MOMENT: ibis.null("int64") if layout.order == "none" else epoch_us(found[TIME]),
        UNIT: user_key(found[user]),
        CONTRIBUTES: ibis.literal(False),
        SPLIT: ibis.null("string"),
        IS_PAST: ibis.literal(False),
    }
    stored = store(connection, f"{OWN_PREFIX}queries", found.mutate(**columns))
    return store(connection, f"{OWN_PREFIX}whole_queries", raw.joined(stored, stored[MOMENT]))
