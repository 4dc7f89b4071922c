"""Every kind of feature over random tables: equal to plain Python, blind to the future, and the same in any company."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ibis.backends.duckdb import Backend

from recsys.datasets.database import temporary_database
from recsys.datasets.past import MOMENT, ROW, PastFeature, PastKind
from tests.datasets.naive_past import Row, naive_value
from tests.datasets.past_tables import EVENT, EVENTS, FEATURES, HOUR, LEFT_OUT, OF_FOLDS, some_of, told


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with temporary_database(Path(tmp_path_factory.mktemp("past")), "400MB", 1) as connection:
        yield connection


@settings(max_examples=8, deadline=None)
@given(some_of([*FEATURES, *OF_FOLDS, *LEFT_OUT]), EVENTS, EVENTS)
def test_every_feature_equals_what_plain_python_counts(
    connection: Backend, features: list[PastFeature], asked: list[Row], events: list[Row]
) -> None:
    found = told(connection, asked, events, features)
    for row, values in zip(asked, found, strict=True):
        for feature in features:
            expected = naive_value(feature, row, events, features)
            if feature.kind is PastKind.CO_OCCURRENCE:
                # Rounded to float32, and of square roots.
                expected = pytest.approx(expected, rel=1e-6)
            assert values[feature.name] == expected, (feature, row)


@settings(max_examples=10, deadline=None)
@given(some_of(LEFT_OUT), EVENTS)
def test_a_row_that_is_an_event_sees_all_others(
    connection: Backend, features: list[PastFeature], events: list[Row]
) -> None:
    found = told(connection, events, events, features)
    for row, values in zip(events, found, strict=True):
        for feature in features:
            assert values[feature.name] == naive_value(feature, row, events, features), (feature, row)


@settings(max_examples=8, deadline=None)
@given(some_of(FEATURES), EVENTS, st.lists(EVENT, max_size=8), st.integers(-4, 40))
def test_nothing_at_or_after_a_row_s_time_changes_its_features(
    connection: Backend, features: list[PastFeature], events: list[Row], later: list[Row], quarter: int
) -> None:
    now = quarter * 6 * HOUR
    earlier = [row for row in events if row[MOMENT] is not None and row[MOMENT] < now]
    others = [{ROW: 100 + number, **row} for number, row in enumerate(later)]
    other_future = [row for row in others if row[MOMENT] is None or row[MOMENT] >= now]
    asked = [row | {MOMENT: min(row[MOMENT], now)} for row in events if row[MOMENT] is not None]

    assert told(connection, asked, events, features) == told(connection, asked, [*earlier, *other_future], features)


@settings(max_examples=6, deadline=None)
@given(some_of([*FEATURES, *OF_FOLDS, *LEFT_OUT]), EVENTS.filter(bool), st.randoms())
def test_a_row_alone_has_the_bits_of_the_row_among_others(
    connection: Backend, features: list[PastFeature], events: list[Row], random: Random
) -> None:
    among_others = told(connection, events, events, features)
    number = random.randrange(len(events))

    assert told(connection, [events[number]], events[::-1], features) == [among_others[number]]
