"""Features of the past, on six rows worked out by hand."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from recsys.datasets.database import load, temporary_database
from recsys.datasets.history_features import CONTRIBUTES, MOMENT, ROW, UNIT, HistoryFeature, HistoryKind, add_history
from recsys.progress import silent

# Two rows at moment 1, two at moment 2, two at moment 3.
ROWS: dict[str, list[object]] = {
    "user": ["a", "a", "a", "b", "b", None],
    "genres": [["x"], ["x", "y"], ["y"], ["y"], [], ["x"]],
    "item": [10, 20, 30, 10, 20, 90],
    "label": [1, 0, 1, 1, 1, 1],
    MOMENT: [1, 1, 2, 2, 3, 3],
    CONTRIBUTES: [True] * 6,
    UNIT: [1, 1, 1, 2, 2, -1],
    ROW: [0, 1, 2, 3, 4, 5],
}


def told(tmp_path: Path, *features: HistoryFeature, **changes: list[object]) -> pd.DataFrame:
    with temporary_database(tmp_path, "200MB", 1) as connection:
        rows = load(connection, "made", pa.table({**ROWS, **changes}))
        result = add_history(connection, rows, features, "label", silent).order_by(ROW)
        return connection.con.sql(connection.compile(result)).df()


def count(*by: str) -> HistoryFeature:
    return HistoryFeature("told", HistoryKind.COUNT, by)


def mean(*by: str, prior_rows: float, folds: int = 0) -> HistoryFeature:
    return HistoryFeature("told", HistoryKind.MEAN, by, of="label", prior_rows=prior_rows, folds=folds)


# So many folds that every user has one alone: a training row sees the rows of all other users.
ALONE = 10**9


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


def test_a_row_that_does_not_contribute_is_in_nobodys_past_but_has_one(tmp_path: Path) -> None:
    only_first = [True, False, False, False, False, False]
    rows = told(tmp_path, count("user"), **{CONTRIBUTES: only_first})
    assert rows["told"].tolist() == [0, 0, 1, 0, 0, 0]


def test_recent_items_are_the_last_liked_ones_oldest_first(tmp_path: Path) -> None:
    recent = HistoryFeature("told", HistoryKind.RECENT, ("user",), of="item", length=2)
    changes: dict[str, list[object]] = {
        "user": ["a"] * 6,
        "item": [10, 20, 30, 40, 50, 60],
        "label": [1, 1, 0, 1, 1, 1],
        MOMENT: [1, 2, 3, 4, 4, 5],
    }
    lists = [list(one) for one in told(tmp_path, recent, **changes)["told"]]

    # Row 2 was not liked; rows 3 and 4 are of one moment and do not see each other.
    assert lists == [[], [10], [10, 20], [10, 20], [10, 20], [40, 50]]


def test_no_feature_of_the_past_changes_when_a_label_of_now_or_later_does(tmp_path: Path) -> None:
    features = (
        HistoryFeature("mean", HistoryKind.MEAN, ("genres",), of="label", prior_rows=1),
        HistoryFeature("recent", HistoryKind.RECENT, ("user",), of="item", length=3),
    )
    flipped = [1, 0, 0, 0, 0, 0]  # every label from moment 2 on
    before, after = told(tmp_path, *features), told(tmp_path, *features, label=flipped)

    names = ["mean", "recent"]
    pd.testing.assert_frame_equal(before[names][:4], after[names][:4])
    assert before["mean"][5] != after["mean"][5], "moment 3 does see moment 2"


def test_out_of_fold_a_row_sees_all_rows_of_other_users_whatever_the_time(tmp_path: Path) -> None:
    everyone = HistoryFeature("told", HistoryKind.COUNT, (), folds=ALONE)
    assert told(tmp_path, everyone)["told"].tolist() == [3, 3, 3, 4, 4, 5]
    # Item 10 is row 0 of user 1 and row 3 of user 2; item 20 is row 1 of user 1 and row 4 of user 2.
    assert told(tmp_path, HistoryFeature("told", HistoryKind.COUNT, ("item",), folds=ALONE))["told"].tolist() == [
        *(1, 1, 0),
        *(1, 1, 0),
    ]


def test_an_out_of_fold_mean_is_drawn_toward_the_mean_of_the_other_folds(tmp_path: Path) -> None:
    means = told(tmp_path, mean("item", prior_rows=2, folds=ALONE))["told"]

    assert means[0] == pytest.approx((1 + 2 * 3 / 3) / (1 + 2)), "row 3; users 2 and -1 have three labels, all 1"
    assert means[2] == pytest.approx(3 / 3), "nobody else has the item: the others' mean"
    assert means[4] == pytest.approx((0 + 2 * 3 / 4) / (1 + 2)), "row 1; users 1 and -1 have labels 1, 0, 1, 1"


def test_out_of_fold_a_later_row_sees_every_training_row_and_no_later_one(tmp_path: Path) -> None:
    # User 1's third row and user 2's second are no training rows.
    training = [True, True, False, True, False, True]
    counts = told(tmp_path, HistoryFeature("told", HistoryKind.COUNT, (), folds=ALONE), **{CONTRIBUTES: training})

    assert counts["told"].tolist() == [2, 2, 4, 3, 4, 3]


def test_out_of_fold_a_list_key_counts_a_row_once_per_shared_value(tmp_path: Path) -> None:
    # Row 3 (y) shares y with rows 1 and 2; row 1 (x, y) shares x with row 5 and y with row 3; row 4 has no genre.
    counts = told(tmp_path, HistoryFeature("told", HistoryKind.COUNT, ("genres",), folds=ALONE))
    assert counts["told"].tolist() == [1, 2, 1, 2, 0, 2]


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_no_out_of_fold_feature_changes_when_labels_of_the_row_s_own_user_do(tmp_path: Path, folds: int) -> None:
    users = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] * 3
    many: dict[str, list[object]] = {
        "user": list(users),
        "genres": [["x"]] * 30,
        "item": [10] * 30,
        "label": [0, 1] * 15,
        MOMENT: list(range(30)),
        CONTRIBUTES: [True] * 30,
        UNIT: list(users),
        ROW: list(range(30)),
    }
    features = (
        HistoryFeature("by_item", HistoryKind.MEAN, ("item",), of="label", prior_rows=1, folds=folds),
        HistoryFeature("by_genre", HistoryKind.MEAN, ("genres",), of="label", prior_rows=1, folds=folds),
    )
    before = told(tmp_path, *features, **many)
    for user in (1, 5, 10):
        flipped: list[object] = [
            1 - label if one == user else label for one, label in zip(users, [0, 1] * 15, strict=True)
        ]
        after = told(tmp_path, *features, **{**many, "label": flipped})
        own = [row for row, one in enumerate(users) if one == user]
        for name in ("by_item", "by_genre"):
            assert after[name][own].tolist() == before[name][own].tolist()
            assert after[name].tolist() != before[name].tolist(), "others do see this user"
