"""The last events of a key whatever their time, but for the row itself: lists for rows without a usable time.

What is listed lies among the last `length` events of a key and one more. So a key has one short list, out of which each
row takes all but itself when it is read: the lists of all rows are never stored beside one another.
"""

from collections.abc import Collection, Mapping

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import store
from recsys.datasets.past.keys import key_names, keyed
from recsys.datasets.past.past_feature import AGE, AGE_DAYS, CONTRIBUTES, LABEL, MOMENT, ROW, ListedRows
from recsys.datasets.past.points import unique_name
from recsys.datasets.past.recent_lists import Listing, list_column, listed
from recsys.features.column_names import OWN_PREFIX

_OWN = "own"


def store_newest(connection: Backend, events: ir.Table, listing: Listing, columns: Collection[str]) -> ir.Table:
    """Store (keys, rows, moments, values): of every key its last events as lists, oldest first, one more than asked."""
    keys = key_names(listing.group.by)
    rows = events.filter(events[CONTRIBUTES], events[listing.value].notnull())
    if listing.rows is ListedRows.LIKED:
        rows = rows.filter(rows[LABEL] == 1)
    values = {list_column(of): rows[of] for of in (listing.value, *columns) if of not in (AGE, AGE_DAYS)}
    found = keyed(rows, listing.group.by, moment=rows[MOMENT], own=rows[ROW], **values)
    # The value itself breaks ties of time, then the row, so that equal data gives equal lists. Without a time an event
    # is no newer than any other.
    order = [found.moment.notnull(), found.moment, found[list_column(listing.value)], found[_OWN]]
    number = ibis.row_number().over(group_by=keys, order_by=[ibis.desc(each) for each in order])
    last = found.mutate(number=number)
    last = last.filter(last.number <= listing.length)
    lists = {
        name: last[name].collect(order_by=ibis.desc(last.number), include_null=True)
        for name in (_OWN, "moment", *values)
    }
    return store(connection, unique_name(), last.group_by(keys).aggregate(**lists))


def join_others(rows: ir.Table, listing: Listing, newest: ir.Table, columns: Mapping[str, str]) -> ir.Table:
    """Join to the rows what `store_newest` knows of their keys, each row left out of its own lists.

    Args:
        rows: those asked about, and what was joined to them.
        columns: the events' columns, and the names that their lists get; null where the key has no events.
    """
    held = newest.rename({_held(name): name for name in newest.columns})
    keys = zip(listing.group.by, key_names(listing.group.by), strict=True)
    joined = rows.left_join(held, [rows[name] == held[_held(key)] for name, key in keys])
    own = joined[_held(_OWN)]
    # Of the same number may be an event of another table, as which the row does not contribute.
    place = joined[CONTRIBUTES].ifelse(own.index(joined[ROW]), -1)

    def others(name: str) -> ir.ArrayValue:
        values = joined[_held(name)]
        last = values[ibis.greatest(values.length() - listing.length, 0) :]
        return (place < 0).ifelse(last, values[:place].concat(values[place + 1 :]))

    lists = {name: listed(others, of, joined[MOMENT], listing.group.before) for of, name in columns.items()}
    return joined.select(*rows.columns, **lists)


def _held(name: str) -> str:
    return f"{OWN_PREFIX}past_newest_{name}"
