"""The last events of a key whatever their time, but for the row itself: lists for rows without a usable time.

What is listed lies among the last `length` events of a key and one more, so a key has one short list, out of which each
row is given all but itself.
"""

from collections.abc import Collection

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import store
from recsys.datasets.past.keys import key_names, keyed
from recsys.datasets.past.past_feature import AGE, AGE_DAYS, CONTRIBUTES, LABEL, MOMENT, ROW, ListedRows
from recsys.datasets.past.points import unique_name
from recsys.datasets.past.recent_lists import Listing, list_column, listed


def store_lists_of_others(
    connection: Backend, asked: ir.Table, events: ir.Table, listing: Listing, columns: Collection[str]
) -> ir.Table:
    """Store (ROW, a `list_column` of each of `columns`) of the rows whose key has events, oldest first."""
    keys = key_names(listing.group.by)
    newest = store(connection, unique_name(), _newest(events, listing, columns))
    rows = keyed(asked, listing.group.by, **{name: asked[name] for name in (ROW, MOMENT, CONTRIBUTES)})
    joined = rows.inner_join(newest, keys)
    # Behind all where the row is none of them, or an event of another table that has the same number.
    own = joined[CONTRIBUTES].ifelse(joined["own"].index(joined[ROW]), -1)
    place = (own < 0).ifelse(joined["own"].length(), own)

    def others(values: ir.ArrayValue) -> ir.ArrayValue:
        without = values[:place].concat(values[place + 1 :])
        return without[ibis.greatest(without.length() - listing.length, 0) :]

    names = [name for name in newest.columns if name == "moment" or name.startswith("list_")]
    cut = joined.select(ROW, MOMENT, **{name: others(joined[name]) for name in names})
    chosen = {list_column(of): listed(cut, of, cut[MOMENT], listing.group.before) for of in columns}
    return store(connection, unique_name(), cut.select(ROW, **chosen))


def _newest(events: ir.Table, listing: Listing, columns: Collection[str]) -> ir.Table:
    """(keys, own, moment, values): of every key its last events, one more than are listed, as lists."""
    keys = key_names(listing.group.by)
    rows = events.filter(events[CONTRIBUTES], events[listing.value].notnull())
    if listing.rows is ListedRows.LIKED:
        rows = rows.filter(rows[LABEL] == 1)
    values = {list_column(of): rows[of] for of in (listing.value, *columns) if of not in (AGE, AGE_DAYS)}
    found = keyed(rows, listing.group.by, moment=rows[MOMENT], own=rows[ROW], **values)
    # The value itself breaks ties of time, then the row, so that equal data gives equal lists.
    order = [found.moment, found[list_column(listing.value)], found.own]
    number = ibis.row_number().over(group_by=keys, order_by=[ibis.desc(each) for each in order])
    last = found.mutate(number=number)
    last = last.filter(last.number <= listing.length)
    lists = {
        name: last[name].collect(order_by=ibis.desc(last.number), include_null=True)
        for name in ("own", "moment", *values)
    }
    return last.group_by(keys).aggregate(**lists)
