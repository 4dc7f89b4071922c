"""No row's own label is in its own features: the committed schemas of MovieLens-100K over a handful of rows."""

from collections.abc import Collection
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import UsageError
from recsys.features.graded import GRADE
from tests.datasets.small_table import feature, read_rows, read_table

SCHEMAS = Path(__file__).parents[2] / "data" / "schemas"
TRAIN, ROWS = 24, 32
FLIPPED = {1: 5, 2: 4, 3: 5, 4: 2, 5: 1}


def write_ratings(folder: Path, flipped: Collection[int]) -> None:
    """Write ratings by four users of eight films in the order of time, two at each moment."""
    random = Random(5)
    pairs = random.sample([(user, film) for user in range(1, 5) for film in range(10, 18)], ROWS)
    rows = [
        {
            "place": number,
            "user_id": user,
            "item_id": film,
            "timestamp": 880_000_000 + number // 2 * 40_000,
            "rating": FLIPPED[stars] if number in flipped else stars,
            "age": 20 + 8 * user,
            "gender": "MF"[user % 2],
            "occupation": ["writer", "student"][user // 3],
            "zip_prefix": str(user),
            "title": f"Film {film}",
            "release_year": 1990,
            "genres": [["Drama"], ["Comedy", "Drama"]][film % 2],
        }
        for number, (user, film) in enumerate(pairs)
        if (stars := random.randrange(1, 6))
    ]
    for kind in ("random", "temporal"):
        (folder / kind).mkdir(exist_ok=True, parents=True)
        for split, start, end in (("train", 0, TRAIN), ("valid", TRAIN, 28), ("test", 28, ROWS)):
            pq.write_table(pa.Table.from_pylist(rows[start:end]), folder / kind / f"{split}.parquet")


def features_of(folder: Path, name: str, flipped: Collection[int] = ()) -> pd.DataFrame:
    """The features of all rows, without label and grade, in the order of time; `place` says which row is which."""
    write_ratings(folder, flipped)
    declared = (SCHEMAS / f"{name}.yaml").read_text()
    place = "\n  - {name: place, kind: dense, fill: 0, used_by: [interaction_network]}\ntable:\n"
    (folder / "schema.yaml").write_text(declared.replace("\ntable:\n", place))
    rows, _ = read_rows(folder, folder / "schema.yaml")
    return rows.sort_values("place", ignore_index=True).drop(columns=["label", GRADE]).map(plain)


def plain(value: Any) -> Any:
    return str(list(value)) if hasattr(value, "__len__") and not isinstance(value, str) else value


def test_a_row_s_own_label_and_labels_of_later_splits_change_nothing_that_it_is_told(tmp_path: Path) -> None:
    name, row = "ml_100k_random", 7
    before, after = features_of(tmp_path, name), features_of(tmp_path, name, {row, *range(TRAIN, ROWS)})

    pd.testing.assert_frame_equal(before.loc[[row]], after.loc[[row]])
    changed = before.index[(before != after).any(axis=1)]
    assert len(changed) > ROWS / 2, "the label is told to all others that share its user or film"
    assert before["rated_item_ids"].str.count(",").max() > 3


def test_live_history_is_told_of_no_label_at_or_after_a_row_s_time(tmp_path: Path) -> None:
    # The second row of a moment is as late as the first.
    first = 10
    name = "ml_100k_live_history"
    before, after = features_of(tmp_path, name), features_of(tmp_path, name, range(first, ROWS))

    pd.testing.assert_frame_equal(before.loc[: first + 1], after.loc[: first + 1])
    assert not before.equals(after)
    assert before["rater_ids"].str.count(",").max() > 1


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        pytest.param({"by": ["item_id"], "leave_one_out": True}, ["item_id"], id="of the same item"),
        pytest.param({"by": ["item_id"], "leave_one_out": True, "prior_rows": 5}, ["user_id"], id="by the prior"),
        pytest.param({"by": ["item_id"], "folds": 2}, ["item_id"], id="other users of the same item"),
        pytest.param({"by": ["item_id"], "folds": 2, "prior_rows": 5}, ["group"], id="other users, by the prior"),
    ],
)
def test_a_mean_that_holds_the_label_of_the_row_that_it_is_told_to_is_refused(
    tmp_path: Path, inner: dict[str, Any], outer: list[str]
) -> None:
    with pytest.raises(UsageError, match=r"history\.features\.told: is made of `middle`.*its own label"):
        read_residuals(tmp_path, inner, outer)


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ({"by": ["item_id"], "leave_one_out": True}, ["user_id"]),
        ({"by": ["item_id"], "folds": 2, "prior_rows": 5}, ["user_id"]),
        ({"by": ["user_id"]}, ["user_id"]),
    ],
)
def test_a_mean_that_holds_none_is_told(tmp_path: Path, inner: dict[str, Any], outer: list[str]) -> None:
    rows, _ = read_residuals(tmp_path, inner, outer)

    assert "told" in rows


def read_residuals(folder: Path, inner: dict[str, Any], outer: list[str]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Rows that are told a mean of how events went against another mean."""
    mean = {"kind": "mean", "of": "bought", "prior_rows": 0, **inner}
    told = {"kind": "mean", "of": "residual", "by": outer, "prior_rows": 0}
    table = {
        "derive": {"residual": "bought - middle"},
        "history": {"scope": "train_only", "features": {"middle": mean, "told": told}},
    }
    return read_table(
        folder,
        table=table,
        features=[feature("user_id", "sparse"), feature("item_id", "sparse"), feature("told", fill=0)],
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"folds": 2}, "has `leave_one_out` and `folds`; expected one"),
        ({"window": "7d"}, "has `leave_one_out` and `window`; expected one"),
        ({"before": "day"}, "has `leave_one_out` and `before`; expected one"),
    ],
)
def test_leave_one_out_looks_whatever_the_time(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_residuals(tmp_path, {"by": ["item_id"], "leave_one_out": True, **more}, ["user_id"])


def test_leave_one_out_is_refused_where_rows_have_live_history_or_are_no_events(tmp_path: Path) -> None:
    counted = {"price": {"kind": "count", "by": ["item_id"], "leave_one_out": True}}
    with pytest.raises(UsageError, match="`leave_one_out` stands in a history of scope live; expected train_only"):
        read_table(tmp_path, table={"history": {"scope": "live", "features": counted}})
    choices = {"label": None, "query": {"next": "event"}, "negatives": {"per_positive": 1, "power": 0}}
    with pytest.raises(UsageError, match=r"history\.features\.price: has `leave_one_out`.*Expected `folds`"):
        read_table(tmp_path, table={**choices, "history": {"scope": "train_only", "features": counted}})


def test_a_list_has_all_training_rows_but_the_row_itself_and_ages_in_parts_of_days(tmp_path: Path) -> None:
    by = {"kind": "recent", "by": ["user_id"], "length": 2, "rows": "all", "leave_one_out": True}
    counted = {
        "met": {**by, "of": "item_id"},
        "prices": {**by, "of": "price", "beside": "item_id"},
        "ages": {**by, "of": "age_days", "beside": "item_id"},
    }
    features = [
        feature("user_id", "sparse"),
        feature("item_id", "sparse"),
        {**feature("met", "sparse_list", table="item_id", max_length=2), "used_by": ["user_tower"]},
        *(
            {**feature(name, "dense_list", beside="met", fill=0), "used_by": ["user_tower"]}
            for name in ("prices", "ages")
        ),
    ]
    hours = [0, 12, 24, 42, 72, 96]
    columns = {
        "user_id": [1, 1, 1, 1, 1, 2],
        "item_id": ["a", "b", "a", "c", "d", "a"],
        "price": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "group": ["new"] * 6,
        "bought": [1, 0, 1, 0, 1, 0],
        "at": pa.array([hour * 3_600_000_000 for hour in hours], pa.timestamp("us")),
    }
    table = {"history": {"scope": "train_only", "features": counted}}
    rows, _ = read_table(tmp_path, columns, table, features=features)

    # The first four rows are for training; the last, of another user, has met nothing.
    assert rows["met"].map(list).tolist() == [["a", "c"], ["a", "c"], ["b", "c"], ["b", "a"], ["a", "c"], []]
    assert rows["prices"].map(list).tolist() == [[3, 4], [3, 4], [2, 4], [2, 3], [3, 4], []]
    ages = [[-1, -1.75], [-0.5, -1.25], [0.5, -0.75], [1.25, 0.75], [2, 1.25], []]
    assert rows["ages"].map(list).tolist() == ages
