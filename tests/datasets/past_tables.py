"""Random small tables of events and rows, and features that ask them for everything."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st
from ibis.backends.duckdb import Backend

from recsys.datasets.database import load
from recsys.datasets.past import (
    AGE,
    AGE_DAYS,
    CONTRIBUTES,
    LABEL,
    MOMENT,
    ROW,
    UNIT,
    Before,
    ListedRows,
    PastFeature,
    PastKind,
    add_past,
)
from recsys.datasets.past.points import unique_name
from recsys.progress import silent
from tests.datasets.naive_past import DAY, Row

# So many folds that every user has one alone.
ALONE = 10**9
HOUR = DAY // 24

SCHEMA = pa.schema(
    {
        ROW: pa.int64(),
        MOMENT: pa.int64(),
        CONTRIBUTES: pa.bool_(),
        UNIT: pa.int64(),
        LABEL: pa.int8(),
        "User": pa.string(),
        'the "item"': pa.int32(),
        "genres": pa.list_(pa.string()),
        "price": pa.float64(),
        "stars": pa.int32(),
        "invoice": pa.string(),
    }
)
ITEM = 'the "item"'

MOMENTS = st.none() | st.integers(-8, 40).map(lambda number: number * 6 * HOUR)
EVENT = st.fixed_dictionaries(
    {
        MOMENT: MOMENTS,
        CONTRIBUTES: st.sampled_from([True, True, True, False]),
        UNIT: st.integers(1, 3),
        LABEL: st.integers(0, 1),
        "User": st.sampled_from(["a", "b", None]),
        ITEM: st.sampled_from([1, 2, 3, 4, None]),
        "genres": st.none() | st.lists(st.sampled_from(["x", "y", None]), max_size=3),
        "price": st.none() | st.integers(-16, 16).map(lambda eighths: eighths / 8),
        "stars": st.none() | st.integers(1, 5),
        "invoice": st.sampled_from(["i", "j", "k", None]),
    }
)
EVENTS = st.lists(EVENT, max_size=14).map(lambda rows: [{ROW: number, **row} for number, row in enumerate(rows)])


def _of_kinds(suffix: str, **keys: Any) -> list[PastFeature]:
    def one(name: str, kind: PastKind, by: tuple[str, ...], **more: Any) -> PastFeature:
        return PastFeature(f"{name}{suffix}", kind, by, **keys, **more)

    return [
        one("count", PastKind.COUNT, ("User", ITEM)),
        one("count of genres", PastKind.COUNT, ("genres", "User")),
        one("sum", PastKind.SUM, ("User",), of="price"),
        one("sum of stars", PastKind.SUM, ("genres",), of="stars"),
        one("mean", PastKind.MEAN, (ITEM,), of="price"),
        one("smoothed mean", PastKind.MEAN, ("genres",), of=LABEL, prior_rows=1.5),
        one("share", PastKind.SHARE, ("User", "genres"), within=("User",)),
        one("smoothed share", PastKind.SHARE, ("User", ITEM), within=("User",), prior_rows=2.0),
        one("share of all", PastKind.SHARE, (ITEM,)),
        one("distinct", PastKind.DISTINCT, ("User",), of=ITEM),
        one("distinct of genres", PastKind.DISTINCT, ("genres",), of="invoice"),
    ]


def _of_times(suffix: str, **keys: Any) -> list[PastFeature]:
    def one(name: str, kind: PastKind, by: tuple[str, ...], **more: Any) -> PastFeature:
        return PastFeature(f"{name}{suffix}", kind, by, **keys, **more)

    return [
        *_of_kinds(suffix, **keys),
        one("min", PastKind.MINIMUM, (ITEM,), of="price"),
        one("max", PastKind.MAXIMUM, ("genres",), of="stars"),
        one("last", PastKind.DAYS_SINCE_LAST, ("User",)),
        one("first", PastKind.DAYS_SINCE_FIRST, ("genres",)),
        one("first of all", PastKind.DAYS_SINCE_FIRST, ()),
        one("items", PastKind.RECENT, ("User",), of=ITEM, length=2),
        one("ages", PastKind.RECENT, ("User",), of=AGE_DAYS, beside=ITEM, length=2),
        one("fractions of ages", PastKind.RECENT, ("User",), of=AGE, beside=ITEM, length=2),
        one("liked", PastKind.RECENT, (ITEM,), of="User", length=3, rows=ListedRows.LIKED),
        one("last items", PastKind.RECENT, ("User",), of=ITEM, length=2, distinct=True),
        one("last ages", PastKind.RECENT, ("User",), of=AGE_DAYS, beside=ITEM, length=2, distinct=True),
    ]


FEATURES = [
    *_of_times(""),
    *_of_times(" of two days", window=2 * DAY),
    *_of_times(" of a day, before the day", window=DAY, before=Before.DAY),
    *_of_times(" a day ago", ago=DAY),
    *_of_times(" of 30 hours, 12 hours ago, before the day", window=30 * HOUR, ago=12 * HOUR, before=Before.DAY),
    PastFeature("affinity", PastKind.CO_OCCURRENCE, (ITEM,), of=ITEM, to="last items", together="invoice"),
]
OF_FOLDS = _of_kinds(" out of fold", folds=ALONE)


def _listed_of_others(name: str, by: tuple[str, ...], **keys: Any) -> PastFeature:
    return PastFeature(f"{name} of others", PastKind.RECENT, by, length=2, leave_one_out=True, **keys)


LEFT_OUT = [
    *_of_kinds(" of others", leave_one_out=True),
    _listed_of_others("items", ("User",), of=ITEM),
    _listed_of_others("prices", ("User",), of="price", beside=ITEM),
    _listed_of_others("ages", ("User",), of=AGE, beside=ITEM),
    _listed_of_others("repeats", ("User", ITEM), of="stars"),
    _listed_of_others("liked", (ITEM,), of="User", rows=ListedRows.LIKED),
]


def some_of(features: Sequence[PastFeature]) -> st.SearchStrategy[list[PastFeature]]:
    """A few features, as each costs time; with a co-occurrence comes its list."""
    listed = {one.name: one for one in features}
    chosen = st.lists(st.sampled_from([*features]), min_size=1, max_size=4, unique_by=lambda one: one.name)
    return chosen.map(
        lambda found: [*{one.name: one for one in [*found, *(listed[of.to] for of in found if of.to)]}.values()]
    )


def told(
    connection: Backend, asked: Sequence[Row], events: Sequence[Row], features: Sequence[PastFeature]
) -> list[Row]:
    """The features of the rows, in the order of ROW."""
    tables = [load(connection, unique_name(), pa.Table.from_pylist([*rows], SCHEMA)) for rows in (asked, events)]
    found = add_past(connection, *tables, features, silent).order_by(ROW)
    result = connection.con.sql(connection.compile(found)).to_arrow_table()
    assert result.column_names == [*SCHEMA.names, *(one.name for one in features)]
    return result.select([one.name for one in features]).to_pylist()
