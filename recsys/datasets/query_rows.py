"""Rows of user, item and time as queries and items of a log of choices, which need not know either of them."""

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.computed_features import own_name
from recsys.datasets.database import epoch_us, fetch_one, store
from recsys.datasets.event_log import TIME, user_key
from recsys.datasets.past import CONTRIBUTES, MOMENT, UNIT
from recsys.datasets.query_tables import ITEM, QUERY, QueryLog, file_name
from recsys.datasets.row_columns import RowColumns
from recsys.errors import DataError
from recsys.features.column_names import OWN_PREFIX


def asked_queries(connection: Backend, rows: ir.Table, place: str, log: QueryLog, row_columns: RowColumns) -> ir.Table:
    """Return a query per row, numbered by its `place`, with the columns that queries of the log have.

    A column that is kept for queries and that the rows lack has the value of the user's newest query before the row.

    Raises:
        DataError: it is lacking, and nothing is known of order.
    """
    raw = log.raw
    layout, schema, rule = raw.layout, raw.schema, raw.layout.query
    assert rule is not None
    shape = raw.shape(rows)
    user, time = file_name(schema.user, raw), shape.time()
    columns: dict[str, ir.Value] = {
        QUERY: rows[place],
        user: shape.feature(schema.user),
        TIME: time,
        MOMENT: ibis.null("int64") if layout.order == "none" else epoch_us(time),
        UNIT: user_key(shape.feature(schema.user)),
        CONTRIBUTES: ibis.literal(False),
    }
    column = layout.time.column if layout.time else layout.position
    columns |= {column: rows[column]} if column else {}
    lacking = [name for name in rule.keep if row_columns.lacking(name, rows.columns)]
    columns |= {
        name: shape.column(name, "kept for the query", "table.query.keep") for name in rule.keep if name not in lacking
    }
    if rule.column and rule.column not in columns:
        is_there = rule.column in rows.columns
        columns[rule.column] = rows[rule.column].cast("string") if is_there else ibis.null("string")
    asked = store(connection, f"{OWN_PREFIX}asked_queries", rows.select(**columns))
    if lacking and layout.order == "none":
        raise DataError(
            f"Raw rows: column `{lacking[0]}` is missing, which is kept for queries (`table.query.keep`), and without "
            "an order no query is the user's newest. Add it."
        )
    if lacking:
        asked = store(connection, f"{OWN_PREFIX}asked_contexts", _with_newest(asked, lacking, user, log))
    return store(connection, f"{OWN_PREFIX}asked_whole_queries", raw.joined(asked, asked[MOMENT]))


def _with_newest(asked: ir.Table, names: Sequence[str], user: str, log: QueryLog) -> ir.Table:
    """The queries with columns of the same user's newest query of the log before them."""
    key, at = f"{OWN_PREFIX}newest_user", f"{OWN_PREFIX}newest_moment"
    known = log.queries
    # Queries of one moment: the last by their numbers.
    newest = known.group_by(**{key: known[user].cast("string"), at: known[MOMENT]}).aggregate(
        **{name: known[name].last(order_by=known[QUERY], include_null=True) for name in names}
    )
    keyed = asked.mutate(**{f"{OWN_PREFIX}asked_user": asked[user].cast("string")})
    joined = keyed.asof_join(
        newest, on=keyed[MOMENT] > newest[at], predicates=keyed[f"{OWN_PREFIX}asked_user"] == newest[key]
    )
    return joined.select(*asked.columns, *names)


def asked_items(
    connection: Backend, rows: ir.Table, place: str, log: QueryLog, given: Sequence[str]
) -> tuple[ir.Table, ir.Table]:
    """Return the items of the log and those that the rows alone have; and the pairs of queries and items.

    Args:
        given: features of the past that the rows bring.
    """
    raw, known = log.raw, log.items
    name, asked_name = file_name(raw.schema.item, raw), f"{OWN_PREFIX}asked_item"
    own = {own_name(each): rows[each] for each in given}
    asked = rows.select(**{QUERY: rows[place], asked_name: raw.shape(rows).feature(raw.schema.item), **own})
    asked = store(connection, f"{OWN_PREFIX}asked_pairs", asked)
    distinct = asked.select(**{name: asked[asked_name]}).distinct()
    new = distinct.anti_join(known, distinct[name] == known[name])
    first = fetch_one(connection, known.aggregate(items=known.count()))["items"]
    numbered = new.mutate(**{ITEM: (ibis.row_number().over(order_by=new[name]) + first).cast("int32")})
    stored = store(connection, f"{OWN_PREFIX}new_items", numbered)
    joined = raw.joined(stored)
    items = store(connection, f"{OWN_PREFIX}asked_items", known.union(joined.select(*known.columns)))
    # A row without an item is one of its own kind.
    pairs = asked.join(items, asked[asked_name].identical_to(items[name])).select(QUERY, ITEM, *own)
    return items, store(connection, f"{OWN_PREFIX}scored_pairs", pairs)
