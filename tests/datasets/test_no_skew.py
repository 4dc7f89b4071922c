"""Random tables, end to end: what a row knows is what had happened before it, in training and in scoring alike."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from recsys.datasets.database import fetch, temporary_database
from recsys.datasets.event_rows import EventRowReader, events_opened
from recsys.datasets.past import CONTRIBUTES, LABEL, MOMENT, UNIT
from recsys.datasets.table import TableSource
from recsys.datasets.table_layout import TableLayout
from recsys.datasets.table_rows import RowReader
from recsys.features.schema import FeatureSchema
from recsys.progress import silent
from tests.datasets.naive_past import Row, naive_value
from tests.datasets.small_table import feature

DAY = 86_400
HISTORY: dict[str, Any] = {
    "user_rows": {"kind": "count", "by": ["user_id"]},
    "item_mean": {"kind": "mean", "of": "label", "by": ["item_id"], "prior_rows": 2},
    "kind_price": {"kind": "mean", "of": "price", "by": ["user_id", "kind"], "prior_rows": 0},
    "item_week": {"kind": "count", "by": ["item_id"], "window": "3d", "before": "day"},
    "user_kinds": {"kind": "distinct", "of": "kind", "by": ["user_id"]},
    "item_share": {"kind": "share", "by": ["user_id", "item_id"], "within": ["user_id"]},
    "user_away": {"kind": "days_since_last", "by": ["user_id"]},
    "recent": {"kind": "recent", "of": "item_id", "by": ["user_id"], "length": 3, "rows": "all"},
    "item_users": {"kind": "recent", "of": "user_id", "by": ["item_id"], "length": 3, "rows": "all"},
    "was_new": {"kind": "mean", "of": "is_new", "by": ["item_id"], "prior_rows": 1},
}
DERIVE = {
    "is_new": "cast(user_rows = 0 as int)",
    "gap": "coalesce(kind_price, 0) - price",
    "seconds_of_day": "at % 86400",
}
EXPLICIT: dict[str, Any] = {
    "files": "events.parquet",
    "label": "rating > 3",
    "time": {"column": "at", "unit": "seconds"},
    "segment": {"column": "user_rows", "bins": [1, 3]},
    "splits": {"validation_start": "1970-01-07", "test_start": "1970-01-09"},
    "derive": DERIVE,
    "history": {"scope": "live", "features": HISTORY},
}
SPARSE, LISTS = ["user_id", "item_id", "kind"], ["recent", "item_users"]
DENSE = ["price", "user_rows", "item_mean", "kind_price", "item_week", "user_kinds", "item_share", "user_away"]


def schema_of(dense: list[str], sparse: list[str], table: dict[str, Any]) -> tuple[FeatureSchema, TableLayout]:
    tables = {"recent": "item_id", "item_users": "user_id"}
    document = {
        "name": "random",
        "segment": "activity",
        "segments": ["new", "light", "heavy"],
        "label": "label",
        "time": "time",
        "user": "user_id",
        "item": "item_id",
        "features": [
            *(feature(name, "sparse") for name in sparse),
            *(feature(name, "sparse_list", max_length=9, table=tables[name]) for name in LISTS),
            *(feature(name, fill=0) for name in dense),
        ],
        "table": table,
    }
    # As a file would hold it.
    document = json.loads(json.dumps(document))
    schema = FeatureSchema.from_document(document, "Schema")
    return schema, TableLayout.from_document(document, schema)


RATINGS, RATINGS_LAYOUT = schema_of([*DENSE, "was_new", "gap", "seconds_of_day"], SPARSE, EXPLICIT)
BASKETS, BASKETS_LAYOUT = schema_of(
    ["user_rows", "user_baskets", "item_week", "user_away", "bought", "affinity", "per_basket", "seconds_of_day"],
    ["user_id", "item_id", "country"],
    {
        "files": "events.parquet",
        "time": {"column": "at", "unit": "seconds"},
        "query": {"column": "basket", "keep": {"country": "max"}},
        "candidates": {"within": "5d"},
        "negatives": {"per_positive": 1, "power": 0.5},
        "segment": {"column": "user_baskets", "bins": [1, 2]},
        "splits": {"train_start": "1970-01-03", "validation_start": "1970-01-07", "test_start": "1970-01-09"},
        "derive": {"per_basket": "user_rows / user_baskets", "seconds_of_day": "at % 86400"},
        "history": {
            "scope": "live",
            "features": {
                **{name: HISTORY[name] for name in ("user_rows", "item_week", "user_away", "recent")},
                "item_users": {**HISTORY["item_users"], "distinct": True},
                "user_baskets": {"kind": "distinct", "of": "basket", "by": ["user_id"]},
                "bought": {"kind": "count", "by": ["user_id", "item_id"]},
                "affinity": {"kind": "co_occurrence", "of": "item_id", "to": "recent", "together": "basket"},
            },
        },
    },
)

# A few tables of many rows, as a table costs a second or two whatever its size; a smaller one would say no more.
CHEAP = settings(max_examples=2, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
# So few that users, items and times meet; a fifth of a day, so that some events share a day and some a moment.
moments = st.integers(0, 60).map(lambda step: step * DAY // 5)
ids = st.sampled_from(["a", "b", "c"])
rating = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(["u", "v", "007"]),
        "item_id": ids,
        "kind": st.sampled_from(["x", "y", None]),
        "price": st.sampled_from([0.1, 0.7, 2.5, None]),
        "rating": st.integers(1, 5),
        "at": moments,
    }
)
ratings = st.lists(rating, min_size=15, max_size=40)
basket = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(["u", "v", "007"]),
        "country": st.sampled_from(["se", "fr"]),
        "at": moments,
        "item_ids": st.lists(ids, min_size=1, max_size=3, unique=True),
    }
)
baskets = st.lists(basket, min_size=8, max_size=20)


def ratings_table(rows: list[Row]) -> pa.Table:
    names = ["user_id", "item_id", "kind", "price", "rating", "at"]
    forms = [pa.string(), pa.string(), pa.string(), pa.float64(), pa.int64(), pa.int64()]
    columns = {name: pa.array([row[name] for row in rows], form) for name, form in zip(names, forms, strict=True)}
    return pa.table(columns)


def baskets_table(rows: list[Row]) -> pa.Table:
    lines = [
        {**row, "basket": row.get("basket", f"b{place}"), "item_id": item}
        for place, row in enumerate(rows)
        for item in row["item_ids"]
    ]
    names = ["user_id", "item_id", "country", "basket", "at"]
    return pa.table({name: [line[name] for line in lines] for name in names})


@contextmanager
def stored(events: pa.Table) -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        pq.write_table(events, Path(folder, "events.parquet"))
        yield Path(folder)


def training_rows(events: pa.Table, schema: FeatureSchema, layout: TableLayout, *more: str) -> list[Row]:
    """The examples as preparation has them before it checks and encodes them."""
    names = [*(one.name for one in schema.features), schema.segment, *more]
    with stored(events) as folder, temporary_database(folder, "500MB", 1) as connection:
        rows = TableSource(folder, layout).read(connection, schema, silent).rows
        return list(fetch(connection, rows.select(*names, seconds=rows[schema.time].epoch_seconds())).to_pylist())


@contextmanager
def scoring(events: pa.Table, schema: FeatureSchema, layout: TableLayout) -> Iterator[EventRowReader]:
    types = dict.fromkeys((one.table for one in schema.sparse), pa.string())
    with stored(events) as folder, TemporaryDirectory() as work:
        reader = RowReader(layout, schema, types)
        with events_opened(reader, folder, Path(work), "500MB", 1, silent) as opened:
            yield opened


def known_of(rows: list[Row], is_meant: Callable[[Row], bool], *without: str) -> list[str]:
    """The different things that are known of some rows, in an order of their own."""
    meant = [{name: value for name, value in row.items() if name not in without} for row in rows if is_meant(row)]
    return sorted({json.dumps(row, sort_keys=True, default=str) for row in meant})


@CHEAP
@given(rows=ratings)
def test_every_feature_of_a_training_row_equals_plain_counting(rows: list[Row]):
    rows = [{**row, "price": place + (row["price"] or 0.0)} for place, row in enumerate(rows)]
    features = {name: entry.counted_as(name) for name, entry in RATINGS_LAYOUT.history.features.items()}
    events: list[Row] = [
        {**row, MOMENT: row["at"] * 10**6, CONTRIBUTES: True, UNIT: 0, LABEL: float(row["rating"] > 3)} for row in rows
    ]
    for event in events:
        event["label"] = event[LABEL]
    # Of features of features, the inner ones first.
    for event in events:
        event["is_new"] = int(naive_value(features["user_rows"], event, events, []) == 0)

    found = {row["price"]: row for row in training_rows(ratings_table(rows), RATINGS, RATINGS_LAYOUT)}

    assert len(found) == len(rows)
    for event in events:
        row = found[event["price"]]
        for name, one in features.items():
            expected = naive_value(one, event, events, [*features.values()])
            # Prices are summed as multiples of 2^-40, so that a mean of them may be off by half of one.
            is_equal = row[name] == expected or (
                isinstance(expected, float) and math.isclose(row[name], expected, rel_tol=1e-12, abs_tol=2**-40)
            )
            assert is_equal, (name, row[name], expected)
        assert row["gap"] == (row["kind_price"] or 0) - event["price"]
        assert row["activity"] == ("new" if not row["user_rows"] else "light" if row["user_rows"] < 3 else "heavy")


@CHEAP
@given(rows=ratings, later=ratings, data=st.data())
def test_nothing_at_or_after_a_rating_changes_what_it_knows(rows: list[Row], later: list[Row], data: st.DataObject):
    rows = [{**row, "price": float(place)} for place, row in enumerate(rows)]
    asked = data.draw(st.sampled_from(rows))
    # Others from then on come, go and change; of the row itself, its label.
    others = [{**row, "at": max(row["at"], asked["at"]), "price": -1.0} for row in later]
    earlier = [row for row in rows if row["at"] < asked["at"]]
    changed = [*earlier, {**asked, "rating": 6 - asked["rating"] if asked["rating"] != 3 else 5}, *others]

    before, after = (
        known_of(
            training_rows(ratings_table(each), RATINGS, RATINGS_LAYOUT), lambda row: row["price"] == asked["price"]
        )
        for each in (rows, [{**row, "price": -1.0} if row in others else row for row in changed])
    )

    assert before == after


@CHEAP
@given(rows=baskets, later=baskets, data=st.data())
def test_nothing_at_or_after_a_basket_changes_what_its_rows_know(
    rows: list[Row], later: list[Row], data: st.DataObject
):
    rows = [{**row, "basket": f"b{place}"} for place, row in enumerate(rows)]
    asked = data.draw(st.sampled_from(rows))
    others = [{**row, "at": max(row["at"], asked["at"]), "basket": f"later{place}"} for place, row in enumerate(later)]
    changed = [*(row for row in rows if row["at"] < asked["at"]), asked, *others]

    kept = {row["basket"]: row["at"] for row in rows if row["at"] < asked["at"]} | {asked["basket"]: asked["at"]}

    def known(each: list[Row]) -> list[str]:
        # A basket is told by its number, which its country carries.
        each = [{**row, "country": row["basket"]} for row in each]
        found = training_rows(baskets_table(each), BASKETS, BASKETS_LAYOUT, "label", "is_new_to_user")
        return known_of(found, lambda row: row["country"] in kept and row["label"] == 1)

    assert known(rows) == known(changed)


@CHEAP
@given(rows=ratings)
def test_a_rating_to_score_knows_to_the_bit_what_it_knew_in_training(rows: list[Row]):
    events = ratings_table(rows)
    trained = training_rows(events, RATINGS, RATINGS_LAYOUT)

    with scoring(events, RATINGS, RATINGS_LAYOUT) as reader:
        read = reader.read(events.drop_columns("rating")).to_pylist()

    assert known_of(read, lambda row: True) == known_of(trained, lambda row: True, "seconds")
    assert [row["user_id"] for row in read] == events["user_id"].to_pylist()


@CHEAP
@given(rows=baskets)
def test_pairs_to_score_know_to_the_bit_what_they_knew_in_training(rows: list[Row]):
    events = baskets_table(rows)
    trained = training_rows(events, BASKETS, BASKETS_LAYOUT)
    if not trained:
        return
    asked = pa.table(
        {
            "user_id": [row["user_id"] for row in trained],
            "item_id": [row["item_id"] for row in trained],
            "country": [row["country"] for row in trained],
            "at": pa.array([row["seconds"] for row in trained], pa.int64()),
        }
    )

    with scoring(events, BASKETS, BASKETS_LAYOUT) as reader:
        read, one = reader.read(asked).to_pylist(), reader.read(asked.slice(0, 1)).to_pylist()

    assert read == [{name: value for name, value in row.items() if name != "seconds"} for row in trained]
    assert one == read[:1]
