"""The steps that sources share: splits by time, segments by activity, sampled negatives."""

from datetime import datetime

import ibis
import numpy as np
import pyarrow as pa
import pytest

from recsys.datasets.database import fetch, load, temporary_database
from recsys.datasets.negatives import draw_negatives, hashed_uniforms
from recsys.datasets.segments import ACTIVITY_SEGMENTS, earlier_count, segment_by_activity
from recsys.datasets.split import TimeSplit
from recsys.errors import UsageError

SPLIT = TimeSplit.from_days("2011-03-01", "2011-03-28", "2011-04-10", "2011-05-01")


@pytest.fixture
def connection(tmp_path):
    with temporary_database(tmp_path, "100MB", 1) as opened:
        yield opened


def column(connection, table: pa.Table, expression) -> list:
    loaded = load(connection, "made", table)
    return fetch(connection, loaded.mutate(found=expression(loaded)).order_by("n"))["found"].to_pylist()


def test_splits_are_half_open_to_the_microsecond_whatever_the_machines_zone(connection, monkeypatch):
    # 2011-03-27 had only 23 hours in Europe: local midnights would move the border.
    monkeypatch.setenv("TZ", "Europe/London")
    times = [
        datetime(2011, 2, 28, 23, 59, 59, 999999),
        datetime(2011, 3, 1),
        datetime(2011, 3, 27, 23, 59, 59, 999999),
        datetime(2011, 3, 28),
        datetime(2011, 4, 10),
        datetime(2011, 4, 30, 23, 59, 59, 999999),
        datetime(2011, 5, 1),
    ]
    table = pa.table({"n": range(7), "time": pa.array(times, pa.timestamp("us"))})

    names = column(connection, table, lambda rows: SPLIT.name_of(rows.time))

    assert names == [None, "train", "train", "validation", "test", "test", None]


@pytest.mark.parametrize("last", ["2011-04-10", "2011-04-09"])
def test_dates_out_of_order_are_refused(last):
    with pytest.raises(UsageError, match=f"test_end {last}; expected each to be later"):
        TimeSplit.from_days("2011-03-01", "2011-03-28", "2011-04-10", last)


def test_a_date_that_is_no_day_is_refused():
    with pytest.raises(UsageError, match=r"'2011-02-30' is no day .*expected one written like '2011-06-30'"):
        TimeSplit.from_days("2011-02-30", "2011-03-28", "2011-04-10", "2011-05-01")


def test_activity_counts_strictly_earlier_times_only(connection):
    table = pa.table({"n": range(5), "user": [1, 1, 1, 2, 1], "time": [10, 20, 20, 5, 30]})

    counts = column(connection, table, lambda rows: earlier_count(rows.user, rows.time))

    assert counts == [0, 1, 1, 0, 3]


def test_segments_begin_at_their_lower_bounds(connection):
    table = pa.table({"n": [0, 1, 3, 4, 15, 16, 900]})

    names = column(connection, table, lambda rows: segment_by_activity(rows.n, ACTIVITY_SEGMENTS))

    assert names == ["new", "light", "light", "regular", "regular", "heavy", "heavy"]


@pytest.mark.parametrize("bounds", [{"new": 1}, {"new": 0, "light": 5, "heavy": 5}, {}])
def test_segment_bounds_that_leave_a_gap_or_overlap_are_refused(bounds):
    with pytest.raises(UsageError, match="expected the first at 0"):
        segment_by_activity(ibis.literal(1), bounds)


def drawn(lists=(0, 0, 1), items=(10, 11, 12), keys=(7, 8), seed=0, per_positive=4, weights=(1, 1, 1, 1, 1)):
    return draw_negatives(
        np.array(lists),
        np.array(items),
        np.array(keys, dtype=np.uint64),
        np.array([10, 11, 12, 13, 14]),
        np.array(weights, dtype=float),
        per_positive,
        seed,
    )


def test_each_positive_gets_its_negatives_and_none_stands_on_its_list():
    lists, items = drawn(per_positive=200)

    assert np.bincount(lists).tolist() == [400, 200]
    assert set(items[lists == 0].tolist()) == {12, 13, 14}
    assert set(items[lists == 1].tolist()) == {10, 11, 13, 14}


def test_negatives_are_drawn_in_proportion_to_their_weights_among_those_not_on_the_list():
    _, items = drawn(lists=(0,), items=(10,), keys=(7,), per_positive=20_000, weights=(5, 1, 2, 3, 4))

    shares = np.bincount(items, minlength=15)[11:] / len(items)
    # The standard error of a share of 20,000 draws is below 0.0036; four of them.
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.015)


def test_a_list_keeps_its_negatives_when_other_lists_come_and_go():
    alone = drawn(lists=(0,), items=(12,), keys=(8,))[1]
    lists, items = drawn()

    assert items[lists == 1].tolist() == alone.tolist()


def test_another_seed_draws_other_negatives():
    assert drawn(per_positive=50)[1].tolist() == drawn(per_positive=50)[1].tolist()
    assert drawn(per_positive=50)[1].tolist() != drawn(per_positive=50, seed=1)[1].tolist()


def test_a_list_that_holds_every_candidate_gets_no_negatives():
    lists, items = drawn(lists=(0, 0, 0, 0, 0, 1), items=(10, 11, 12, 13, 14, 10))

    assert 0 not in lists
    assert np.bincount(lists).tolist() == [0, 4]
    assert 10 not in items


def test_hashed_numbers_look_uniform_in_every_argument():
    keys, numbers = np.meshgrid(np.arange(100, dtype=np.uint64), np.arange(100))
    uniform = hashed_uniforms(0, keys.ravel(), numbers.ravel(), 0)

    assert len(np.unique(uniform)) == 10_000
    # Counts in 20 equal bins: chi-squared with 19 degrees of freedom exceeds 43.8 once in a thousand seeds.
    counts = np.histogram(uniform, bins=20, range=(0, 1))[0]
    assert ((counts - 500) ** 2 / 500).sum() < 43.8
    assert not np.allclose(uniform, hashed_uniforms(0, keys.ravel(), numbers.ravel(), 1))
