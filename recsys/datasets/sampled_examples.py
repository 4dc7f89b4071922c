"""Examples of events that know only what was chosen: each query's positives, sampled negatives, and lists to rank."""

from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from ibis.backends.duckdb import Backend

from recsys.datasets.candidate_lists import CandidateLists, GroupedValues, Ints, ItemDays
from recsys.datasets.computed_features import own_name
from recsys.datasets.database import fetch, fetch_one, load_batches
from recsys.datasets.declared_examples import CandidateRule
from recsys.datasets.event_log import IS_PAST, TIME
from recsys.datasets.event_tables import RawEvents
from recsys.datasets.negatives import text_keys
from recsys.datasets.pair_rows import HAD_BEFORE, PairRows
from recsys.datasets.query_tables import EVENTS_BEFORE, ID, ITEM, QUERY, QueryLog, file_name, read_queries
from recsys.datasets.sampled_pairs import COUNT, IS_POSITIVE, IS_RANKING, PAIRS, RANKING, PairSampler, Queries
from recsys.datasets.source import SPLIT, TRAIN
from recsys.errors import DataError
from recsys.features.column_names import OWN_PREFIX
from recsys.progress import Progress

SECONDS_A_DAY = 86_400
EXTRAS = ("user_key", "query", "log_sampling_rate", "is_new_to_user")
"""What the rows have beside the schema's columns."""


def sampled_rows(
    connection: Backend, raw: RawEvents, progress: Progress
) -> tuple[ir.Table, tuple[str, ...], dict[str, int]]:
    """Return the examples, their extra columns, and counts for the manifest.

    Raises:
        DataError: there is nothing to learn from, or the lists to rank would be too long.
    """
    log = read_queries(connection, raw, progress)
    counts = _counts(connection, log)
    sampler = _sampler(connection, log)
    pairs = load_batches(connection, f"{OWN_PREFIX}examples", PAIRS, sampler.batches(progress))
    rows = PairRows(log, log.queries).rows(connection, pairs, progress)
    power = raw.layout.negatives.power if raw.layout.negatives else 0.0
    known: dict[str, ir.Value] = {
        raw.schema.label: rows[IS_POSITIVE],
        SPLIT: rows[IS_RANKING].ifelse(rows[SPLIT].substitute(RANKING), rows[SPLIT]),
        "query": rows[QUERY].cast("int64") - _first_asked(connection, log),
        # An item that is no candidate is listed only as a positive.
        "log_sampling_rate": (ibis.greatest(rows[COUNT], 1).ln() * power).cast("float32"),
    }
    if HAD_BEFORE in rows.columns:
        known["is_new_to_user"] = (rows[HAD_BEFORE] == 0).cast("int8")
    extras = tuple(name for name in EXTRAS if name == "user_key" or name in known)
    return rows.mutate(**known), extras, counts


def _first_asked(connection: Backend, log: QueryLog) -> int:
    """The number of the first query that has examples, from which on they are counted, whatever came before."""
    asked = log.queries.filter(log.queries[SPLIT].notnull())
    return int(fetch_one(connection, asked.aggregate(first=asked[QUERY].min()))["first"] or 0)


def _sampler(connection: Backend, log: QueryLog) -> PairSampler:
    layout = log.raw.layout
    rule = layout.candidates or CandidateRule()
    assert layout.negatives is not None
    asked = log.queries.filter(log.queries[SPLIT].notnull()).order_by(QUERY)
    columns = number_columns(connection, asked.select(number=QUERY, day=day_of(asked[TIME]), id=asked[ID], split=SPLIT))
    queries = Queries(columns["number"], columns["day"], text_keys(columns["id"]), columns["split"])
    events = log.log.rows
    lines = number_columns(connection, events.select(query=QUERY, item=ITEM).distinct().order_by(["query", "item"]))
    return PairSampler(
        queries,
        GroupedValues(lines["query"], lines["item"]),
        CandidateLists(rule, item_days(connection, log)),
        _shown(connection, log, rule.column) if rule.column else None,
        layout.negatives,
        None if rule.nearest else layout.ranking,
    )


def item_days(connection: Backend, log: QueryLog) -> ItemDays:
    """How often each item occurs on each day, and in training."""
    events = log.log.rows
    named = events.select(item=ITEM, day=day_of(events[TIME]), is_known=(events[SPLIT] == TRAIN) | events[IS_PAST])
    counted = named.group_by(["day", "item"]).aggregate(
        events=named.count(), training=named["is_known"].fill_null(False).cast("int64").sum()
    )
    found = number_columns(connection, counted.order_by(["day", "item"]))
    before = log.items[EVENTS_BEFORE].fill_null(0) if EVENTS_BEFORE in log.items.columns else ibis.literal(0)
    training = number_columns(connection, log.items.select(ITEM, before=before).order_by(ITEM))["before"].copy()
    np.add.at(training, found["item"], found["training"])
    return ItemDays(found["day"], found["item"], found["events"], training)


def _shown(connection: Backend, log: QueryLog, column: str) -> GroupedValues:
    found = shown_items(connection, log, log.queries, column)
    return GroupedValues(found["number"], found["item"])


def shown_items(connection: Backend, log: QueryLog, queries: ir.Table, column: str) -> dict[str, Ints]:
    """The items of each query's own list, as far as any event has them: `number` of the query and `item`, (N,) each."""
    if column not in queries.columns or not queries[column].type().is_array():
        raise DataError(
            f"{log.raw.where}: `table.candidates.column` is {column}; expected a list of items that the query has. "
            f"Keep it for the query: `table.query.keep: {{{column}: max}}`."
        )
    listed = queries.select(number=QUERY, name=queries[column].unnest().cast("string"))
    items = log.items.select(item=ITEM, name=log.items[file_name(log.raw.schema.item, log.raw)].cast("string"))
    return number_columns(connection, listed.join(items, "name").select("number", "item").order_by(["number", "item"]))


def _counts(connection: Backend, log: QueryLog) -> dict[str, int]:
    events = log.log.rows
    found = fetch_one(
        connection,
        events.aggregate(
            events=events.count(),
            queries=events[QUERY].nunique(),
            users=events[own_name(log.raw.schema.user)].nunique(),
            items=events[ITEM].nunique(),
        ),
    )
    return {name: int(number) for name, number in found.items()}


def day_of(time: ir.TimestampValue) -> ir.IntegerValue:
    """Days since 1970-01-01, by the midnight of UTC."""
    return (time.epoch_seconds() // SECONDS_A_DAY).cast("int32")


def number_columns(connection: Backend, rows: ir.Table) -> dict[str, Any]:
    """Whole numbers as int64, texts as objects."""
    table = fetch(connection, rows)
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    return {name: _array(values) for name, values in columns.items()}


def _array(values: pa.Array) -> Ints | npt.NDArray[np.object_]:
    if pa.types.is_integer(values.type):
        return np.asarray(values.cast(pa.int64()).to_numpy())
    return np.array(values.to_pylist(), dtype=object)
