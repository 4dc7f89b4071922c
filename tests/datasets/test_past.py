"""Features of the past, worked out by hand on a few rows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recsys.datasets.database import load, store, temporary_database
from recsys.datasets.past import (
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
from recsys.errors import DataError
from recsys.progress import silent

DAY = 86_400_000_000
# Two rows at moment 1, two at moment 2, two at moment 3.
ROWS: dict[str, list[object]] = {
    "user": ["a", "a", "a", "b", "b", None],
    "genres": [["x"], ["x", "y"], ["y"], ["y"], [], ["x"]],
    "item": [10, 20, 30, 10, 20, 90],
    LABEL: [1, 0, 1, 1, 1, 1],
    MOMENT: [1, 1, 2, 2, 3, 3],
    CONTRIBUTES: [True] * 6,
    UNIT: [1, 1, 1, 2, 2, -1],
    ROW: [0, 1, 2, 3, 4, 5],
}
# So many folds that every user has one alone: a training row sees the rows of all other users.
ALONE = 10**9


def told(tmp_path: Path, *features: PastFeature, **changes: Sequence[object]) -> pd.DataFrame:
    with temporary_database(tmp_path, "200MB", 1) as connection:
        rows = load(connection, "made", pa.table({**ROWS, **changes}))
        result = add_past(connection, rows, rows, features, silent).order_by(ROW)
        return connection.con.sql(connection.compile(result)).df()


def count(*by: str, folds: int = 0) -> PastFeature:
    return PastFeature("told", PastKind.COUNT, by, folds=folds)


def mean(*by: str, prior_rows: float, folds: int = 0) -> PastFeature:
    return PastFeature("told", PastKind.MEAN, by, of=LABEL, prior_rows=prior_rows, folds=folds)


def lists(frame: pd.DataFrame, name: str = "told") -> list[list[object]]:
    return [[None if value is np.ma.masked else value for value in one] for one in frame[name]]


def test_a_count_holds_strictly_earlier_rows_and_not_those_of_the_same_moment(tmp_path: Path) -> None:
    assert told(tmp_path, count("user"))["told"].tolist() == [0, 0, 2, 0, 1, 0]


def test_a_null_key_has_no_past(tmp_path: Path) -> None:
    users = [None, "a", None, "a", None, "a"]
    assert told(tmp_path, count("user"), user=users)["told"].tolist() == [0, 0, 0, 1, 0, 2]


def test_a_list_key_counts_a_past_row_once_per_shared_value(tmp_path: Path) -> None:
    # Row 5 (x, moment 3): rows 0 and 1 hold x. Row 2 (y, moment 2): row 1 holds y.
    assert told(tmp_path, count("genres"))["told"].tolist() == [0, 0, 1, 1, 0, 2]
    both = [["x", "y"]] * 6
    assert told(tmp_path, count("genres"), genres=both)["told"].tolist() == [0, 0, 4, 4, 8, 8]


def test_a_mean_is_drawn_toward_the_mean_of_the_whole_past(tmp_path: Path) -> None:
    means = told(tmp_path, mean("user", prior_rows=2))["told"]

    assert means[:2].isna().all(), "there is no past at all"
    assert means[2] == pytest.approx((1 + 2 * 1 / 2) / (2 + 2))
    assert means[3] == pytest.approx(1 / 2), "no past of its own: the whole past's mean"
    assert means[4] == pytest.approx((1 + 2 * 3 / 4) / (1 + 2))


def test_a_mean_without_prior_is_null_where_the_group_has_no_past(tmp_path: Path) -> None:
    means = told(tmp_path, mean("user", prior_rows=0))["told"]

    assert means.isna().tolist() == [True, True, False, True, False, True]
    assert means[2] == pytest.approx(1 / 2)


def test_a_share_says_how_much_of_the_whole_had_the_other_keys_too(tmp_path: Path) -> None:
    share = PastFeature("told", PastKind.SHARE, ("user", "genres"), within=("user",))
    shares = told(tmp_path, share, genres=[["x"], ["y"], ["y"], ["y"], ["y"], ["y"]])["told"]

    assert shares.isna().tolist() == [True, True, False, True, False, True]
    assert shares[2] == 1 / 2, "one of the user's two earlier rows has y"
    assert shares[4] == 1


def test_a_share_is_drawn_toward_that_of_all_users(tmp_path: Path) -> None:
    share = PastFeature("told", PastKind.SHARE, ("user", "genres"), within=("user",), prior_rows=2)
    shares = told(tmp_path, share, genres=[["x"], ["y"], ["y"], ["y"], ["y"], ["y"]])["told"]

    assert shares[3] == 1 / 2, "no past of its own: one of two rows has y"
    assert shares[4] == pytest.approx((1 + 2 * 3 / 4) / (1 + 2))


def test_a_row_that_does_not_contribute_is_in_nobodys_past_but_has_one(tmp_path: Path) -> None:
    only_first = [True, False, False, False, False, False]
    rows = told(tmp_path, count("user"), **{CONTRIBUTES: only_first})
    assert rows["told"].tolist() == [0, 0, 1, 0, 0, 0]


def test_recent_items_are_the_last_liked_ones_oldest_first(tmp_path: Path) -> None:
    recent = PastFeature("told", PastKind.RECENT, ("user",), of="item", length=2, rows=ListedRows.LIKED)
    changes: dict[str, list[object]] = {
        "user": ["a"] * 6,
        "item": [10, 20, 30, 40, 50, 60],
        LABEL: [1, 1, 0, 1, 1, 1],
        MOMENT: [1, 2, 3, 4, 4, 5],
    }

    # Row 2 was not liked; rows 3 and 4 are of one moment and do not see each other.
    assert lists(told(tmp_path, recent, **changes)) == [[], [10], [10, 20], [10, 20], [10, 20], [40, 50]]


def test_lists_beside_a_list_agree_with_it_element_by_element(tmp_path: Path) -> None:
    def last(name: str, of: str) -> PastFeature:
        return PastFeature(name, PastKind.RECENT, ("user",), of=of, beside="item", length=3)

    changes: dict[str, list[object]] = {
        "user": ["a"] * 6,
        "item": [30, 20, None, 10, 20, 60],
        LABEL: [1, 0, 0, 0, 1, 1],
        "price": [None, 2.0, 3.0, 4.0, 5.0, 6.0],
        MOMENT: [day * DAY for day in (0, 0, 1, 2, 4, 5)],
    }
    found = told(
        tmp_path, *map(last, ("items", "labels", "prices", "ages"), ("item", LABEL, "price", AGE_DAYS)), **changes
    )

    assert lists(found, "items")[-1] == [30, 10, 20], "no event without an item, and equal times by the item"
    assert lists(found, "labels")[-1] == [1, 0, 1]
    assert lists(found, "prices")[-1] == [None, 4.0, 5.0]
    assert lists(found, "ages")[-1] == [5, 3, 1]


def test_distinct_recent_items_stand_where_they_occurred_last(tmp_path: Path) -> None:
    recent = PastFeature("told", PastKind.RECENT, ("user",), of="item", length=2, distinct=True)
    changes: dict[str, list[object]] = {"user": ["a"] * 6, "item": [1, 2, 1, 3, 4, 5], MOMENT: [1, 2, 3, 4, 4, 5]}

    # Of one moment, the smaller is the later: a list by recency begins with it.
    assert lists(told(tmp_path, recent, **changes)) == [[], [1], [1, 2], [2, 1], [2, 1], [4, 3]]


def test_a_list_is_cut_from_a_past_of_any_length(tmp_path: Path) -> None:
    number = 100
    rows: dict[str, list[object]] = {
        "user": ["a"] * number,
        "genres": [[]] * number,
        "item": [*range(number)],
        LABEL: [1] * number,
        MOMENT: [*range(number)],
        CONTRIBUTES: [True] * number,
        UNIT: [1] * number,
        ROW: [*range(number)],
    }
    recent = [
        PastFeature(f"{length}", PastKind.RECENT, ("user",), of="item", length=length) for length in (1, 16, 17, 200)
    ]
    found = told(tmp_path, *recent, **rows)

    for length in (1, 16, 17, 200):
        assert lists(found, f"{length}") == [[*range(max(0, row - length), row)] for row in range(number)]


def test_before_the_day_an_event_of_the_same_day_is_no_past(tmp_path: Path) -> None:
    hours: list[object] = [hour * DAY // 24 for hour in (1, 13, 23, 25, 47, 49)]
    days = PastFeature("days", PastKind.DAYS_SINCE_LAST, ("user",), before=Before.DAY)
    week = PastFeature("told", PastKind.COUNT, ("user",), before=Before.DAY, window=DAY)
    found = told(tmp_path, week, days, user=["a"] * 6, **{MOMENT: hours})

    assert found["told"].tolist() == [0, 0, 0, 3, 3, 2]
    assert found["days"].tolist()[3:] == [1, 1, 1], "by the calendar, whatever the hour"


def test_the_same_season_a_year_ago_is_a_window_that_ends_then(tmp_path: Path) -> None:
    season = PastFeature("told", PastKind.COUNT, ("user",), window=10, ago=100)
    moments: list[object] = [0, 9, 10, 100, 110, 111]

    # [-10, 0), [0, 10) and [1, 11)
    assert told(tmp_path, season, user=["a"] * 6, **{MOMENT: moments})["told"].tolist() == [0, 0, 0, 0, 2, 2]


def test_what_was_bought_together_before_the_day_goes_together(tmp_path: Path) -> None:
    changes: dict[str, list[object]] = {
        "user": ["a", "a", "b", "b", "a", "b"],
        "item": [1, 2, 1, 3, 2, 2],
        "invoice": ["i", "i", "j", "j", "k", "l"],
        MOMENT: [0, 0, 1, 1, DAY, DAY + 1],
    }
    features = (
        PastFeature("recent", PastKind.RECENT, ("user",), of="item", length=5, distinct=True),
        PastFeature("told", PastKind.CO_OCCURRENCE, ("item",), of="item", to="recent", together="invoice"),
    )
    found = told(tmp_path, *features, **changes)

    # Item 1 is on two invoices, item 2 on one of them, until the day is over.
    assert found["told"].tolist()[:4] == [0, 0, 0, 0]
    assert found["told"][4] == np.float32(np.sqrt(1 / 2)), (
        "user a bought 1 and 2: 1 goes with 2, 2 is no company of its own"
    )
    assert found["told"][5] == np.float32(np.sqrt(1 / 2)), "user b bought 1 and 3: 3 never came with 2"


def test_a_group_of_several_days_is_known_as_far_as_it_went(tmp_path: Path) -> None:
    changes: dict[str, list[object]] = {
        "user": ["a"] * 6,
        "item": [1, 2, 3, 2, 3, 3],
        "invoice": ["i", "i", "i", None, None, None],
        MOMENT: [0, 0, 2 * DAY, DAY, DAY, 3 * DAY],
    }
    features = (
        PastFeature("recent", PastKind.RECENT, ("user",), of="item", length=4),
        PastFeature("told", PastKind.CO_OCCURRENCE, ("item",), of="item", to="recent", together="invoice"),
    )
    found = told(tmp_path, *features, **changes)

    assert found["told"][4] == 0, "on the second day, item 3 had not come to the invoice yet"
    assert found["recent"][5].tolist() == [2, 2, 3, 3]
    assert found["told"][5] == 2, "3 met 2 in the end, which is listed twice"


def test_too_many_items_for_all_their_pairs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.datasets.past.co_occurrence._LARGEST_BYTES", 63)
    features = (
        PastFeature("recent", PastKind.RECENT, ("user",), of="item", length=5),
        PastFeature("told", PastKind.CO_OCCURRENCE, ("item",), of="item", to="recent", together="user"),
    )
    with pytest.raises(DataError, match="among the 4 values of `item`; expected at most 3"):
        told(tmp_path, *features)


def test_numbers_too_large_to_be_summed_exactly_are_refused(tmp_path: Path) -> None:
    prices: list[object] = [1.0, -1e30, None, 2.0, 3.0, 4.0]
    with pytest.raises(DataError, match=r"`price` holds a number of size 1e\+30; expected at most 1.15292e\+18"):
        told(tmp_path, PastFeature("told", PastKind.SUM, ("user",), of="price"), price=prices)


def test_out_of_fold_a_row_sees_all_rows_of_other_users_whatever_the_time(tmp_path: Path) -> None:
    assert told(tmp_path, count(folds=ALONE))["told"].tolist() == [3, 3, 3, 4, 4, 5]
    # Item 10 is row 0 of user 1 and row 3 of user 2; item 20 is row 1 of user 1 and row 4 of user 2.
    assert told(tmp_path, count("item", folds=ALONE))["told"].tolist() == [*(1, 1, 0), *(1, 1, 0)]


def test_an_out_of_fold_mean_is_drawn_toward_the_mean_of_the_other_folds(tmp_path: Path) -> None:
    means = told(tmp_path, mean("item", prior_rows=2, folds=ALONE))["told"]

    assert means[0] == pytest.approx((1 + 2 * 3 / 3) / (1 + 2)), "row 3; users 2 and -1 have three labels, all 1"
    assert means[2] == pytest.approx(3 / 3), "nobody else has the item: the others' mean"
    assert means[4] == pytest.approx((0 + 2 * 3 / 4) / (1 + 2)), "row 1; users 1 and -1 have labels 1, 0, 1, 1"


def test_out_of_fold_a_later_row_sees_every_training_row_and_no_later_one(tmp_path: Path) -> None:
    # User 1's third row and user 2's second are no training rows.
    training = [True, True, False, True, False, True]
    assert told(tmp_path, count(folds=ALONE), **{CONTRIBUTES: training})["told"].tolist() == [2, 2, 4, 3, 4, 3]


def test_out_of_fold_a_list_key_counts_a_row_once_per_shared_value(tmp_path: Path) -> None:
    # Row 3 (y) shares y with rows 1 and 2; row 1 (x, y) shares x with row 5 and y with row 3; row 4 has no genre.
    assert told(tmp_path, count("genres", folds=ALONE))["told"].tolist() == [1, 2, 1, 2, 0, 2]


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_no_out_of_fold_feature_changes_when_labels_of_the_row_s_own_user_do(tmp_path: Path, folds: int) -> None:
    users = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] * 3
    many: dict[str, list[object]] = {
        "user": list(users),
        "genres": [["x"]] * 30,
        "item": [10] * 30,
        LABEL: [0, 1] * 15,
        MOMENT: list(range(30)),
        CONTRIBUTES: [True] * 30,
        UNIT: list(users),
        ROW: list(range(30)),
    }
    features = (
        PastFeature("by_item", PastKind.MEAN, ("item",), of=LABEL, prior_rows=1, folds=folds),
        PastFeature("by_genre", PastKind.MEAN, ("genres",), of=LABEL, prior_rows=1, folds=folds),
    )
    before = told(tmp_path, *features, **many)
    for user in (1, 5, 10):
        flipped: list[object] = [
            1 - label if one == user else label for one, label in zip(users, [0, 1] * 15, strict=True)
        ]
        after = told(tmp_path, *features, **{**many, LABEL: flipped})
        own = [row for row, one in enumerate(users) if one == user]
        for name in ("by_item", "by_genre"):
            assert after[name][own].tolist() == before[name][own].tolist()
            assert after[name].tolist() != before[name].tolist(), "others do see this user"


def test_sums_depend_neither_on_threads_nor_on_the_order_of_rows(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    number = 50_000
    rows = pa.table(
        {
            "user": generator.integers(0, 50, number),
            "price": generator.standard_normal(number) * 1e6,
            MOMENT: generator.integers(0, 1000, number),
            CONTRIBUTES: np.ones(number, dtype=bool),
            UNIT: generator.integers(0, 50, number),
            ROW: np.arange(number),
        }
    )
    features = (
        PastFeature("mean", PastKind.MEAN, ("user",), of="price", window=100, prior_rows=0.3),
        PastFeature("folded", PastKind.SUM, (), of="price", folds=3),
        PastFeature("listed", PastKind.RECENT, ("user",), of="price", length=3),
    )
    found = []
    for threads, order in ((1, np.arange(number)), (2, generator.permutation(number))):
        with temporary_database(tmp_path, "400MB", threads) as connection:
            table = load(connection, "made", rows.take(order))
            result = add_past(connection, table, table, features, silent).order_by(ROW)
            found.append(connection.con.sql(connection.compile(result)).to_arrow_table())
    assert found[0].equals(found[1])


def test_values_of_an_enum_stay_such_in_lists(tmp_path: Path) -> None:
    recent = PastFeature("told", PastKind.RECENT, ("user",), of="name", length=2)
    with temporary_database(tmp_path, "200MB", 1) as connection:
        load(connection, "texts", pa.table({**ROWS, "name": ["p", "q", "p", "q", "p", "q"]}))
        connection.raw_sql("CREATE TYPE names AS ENUM ('p', 'q')")
        connection.raw_sql("CREATE TABLE made AS SELECT * REPLACE (name::names AS name) FROM texts")
        rows = connection.table("made")
        store(connection, "found", add_past(connection, rows, rows, [recent], silent))
        forms = connection.con.sql("SELECT DISTINCT typeof(told), typeof(name) FROM found").fetchall()
    assert forms == [("ENUM('p', 'q')[]", "ENUM('p', 'q')")]


def test_a_number_of_a_window_can_be_asked_for_alone(tmp_path: Path) -> None:
    distinct = PastFeature("told", PastKind.DISTINCT, ("genres",), of="item", window=1)
    # Row 2 (y): row 1 a moment ago. Row 5 (x): nothing a moment ago.
    assert told(tmp_path, distinct)["told"].tolist() == [0, 0, 1, 1, 0, 0]
