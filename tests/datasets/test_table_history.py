"""History over a table of reviews, as a newcomer declares it; every value worked out by hand."""

from pathlib import Path
from typing import Any

import pytest

from recsys.errors import DataError, UsageError
from tests.datasets.small_table import feature, read_table

# Two users, two items; the third and fourth review are of one moment.
REVIEWS: dict[str, list[Any]] = {
    "user_id": ["ann", "ann", "bob", "ann", "bob", "ann"],
    "item_id": ["x", "y", "x", "x", "y", "y"],
    "rating": [5, 3, 5, 4, 1, 5],
    "timestamp": [100, 200, 300, 300, 400, 90_000],
    "text": ["Great mug", "meh", "", None, "Broke", "fine"],
    "everyone": ["all of them"] * 6,
}
COUNTED: dict[str, dict[str, Any]] = {
    "user_mean": {"kind": "mean", "of": "label", "by": ["user_id"], "prior_rows": 0},
    "user_count": {"kind": "count", "by": ["user_id"]},
    "item_mean": {"kind": "mean", "of": "label", "by": ["item_id"], "prior_rows": 0},
    "item_count": {"kind": "count", "by": ["item_id"]},
}
# What the six reviews' past says, -1 for no past: likes are 1 0 1 0 0 1.
PAST = {
    "user_mean": [-1, 1, -1, 0.5, 1, 1 / 3],
    "user_count": [0, 1, 0, 2, 1, 3],
    "item_mean": [-1, -1, 1, 1, 0, 0],
    "item_count": [0, 0, 1, 1, 1, 2],
}


def reviews(
    folder: Path, counted: dict[str, dict[str, Any]], label: str = "liked", **columns: Any
) -> dict[str, list[Any]]:
    """The counted features of the reviews, in the order of `REVIEWS`."""
    table = {
        "label": "rating >= 5",
        "time": {"column": "timestamp", "unit": "seconds"},
        "segment": {"column": "everyone", "names": {"all of them": "everybody"}},
        "splits": {"column": "timestamp", "train": [100, 200, 300, 400], "validation": [90_000], "test": []},
        "words": {"text_words": "text"},
        "history": {"scope": "live", "features": counted},
    }
    told = [
        feature(name, "sparse_list", table="item_id", max_length=2)
        if one["kind"] == "recent"
        else feature(name, fill=-1)
        for name, one in counted.items()
    ]
    words = feature("text_words", "sparse_list", max_length=5)
    features = [feature("user_id", "sparse"), feature("item_id", "sparse"), words, *told]
    rows, _ = read_table(
        folder,
        {**REVIEWS, **columns},
        table,
        label=label,
        segment="everyone",
        segments=["everybody"],
        time="timestamp",
        features=features,
    )
    rows = rows.sort_values(["timestamp", "user_id"], ascending=[True, False], ignore_index=True)
    return {
        name: rows[name].map(lambda v: list(v) if hasattr(v, "__len__") else v).tolist()
        for name in ("text_words", label, *counted)
    }


@pytest.mark.parametrize("of", ["label", "liked"])
def test_the_mean_of_the_declared_label_is_that_of_strictly_earlier_rows(tmp_path: Path, of: str) -> None:
    counted = {name: {**one, **({"of": of} if "of" in one else {})} for name, one in COUNTED.items()}
    told = reviews(tmp_path, counted)

    assert told["liked"] == [1, 0, 1, 0, 0, 1]
    for name, expected in PAST.items():
        found = [-1 if value is None or value != value else value for value in told[name]]
        assert found == pytest.approx(expected), name


def test_the_mean_of_the_labels_own_column_is_that_of_its_values(tmp_path: Path) -> None:
    told = reviews(tmp_path, {"stars": {"kind": "mean", "of": "rating", "by": ["user_id"], "prior_rows": 0}})
    assert told["stars"][1::2] == pytest.approx([5, 4, 4])
    # Where the schema calls the label by the name of that column, the name means the label.
    told = reviews(
        tmp_path, {"stars": {"kind": "mean", "of": "rating", "by": ["user_id"], "prior_rows": 0}}, label="rating"
    )
    assert told["stars"][1::2] == pytest.approx([1, 0.5, 1 / 3])


@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_in_no_mean(tmp_path: Path, nothing: float | None) -> None:
    counted = {"paid": {"kind": "mean", "of": "sum", "by": ["user_id"], "prior_rows": 0}}
    told = reviews(tmp_path, counted, sum=[2.0, nothing, 1.0, 4.0, 1.0, 1.0])
    assert told["paid"][1::2] == pytest.approx([2, 2, 3])


def test_what_users_liked_last_is_listed_by_the_declared_label(tmp_path: Path) -> None:
    told = reviews(tmp_path, {"recent": {"kind": "recent", "of": "item_id", "by": ["user_id"], "length": 2}})
    assert told["recent"] == [[], ["x"], [], ["x"], ["x"], ["x"]]


def test_words_of_a_text_are_read_beside_the_history(tmp_path: Path) -> None:
    told = reviews(tmp_path, COUNTED)
    assert told["text_words"][:3] == [["great", "mug"], ["meh"], []]


def test_history_is_counted_by_the_segment_and_by_any_column_of_the_files(tmp_path: Path) -> None:
    by = {
        "by_segment": {"kind": "count", "by": ["segment"]},
        "by_own_name": {"kind": "count", "by": ["everyone"]},
        "by_file": {"kind": "count", "by": ["mood"]},
    }
    told = reviews(tmp_path, by, mood=["a", "b", "a", "a", None, "b"])
    assert told["by_segment"] == told["by_own_name"] == [0, 1, 2, 2, 4, 5]
    assert told["by_file"] == [0, 0, 1, 1, 0, 1]


@pytest.mark.parametrize(
    "name", ["past_rows", "values", "key_0", "history_row", "table_file_split", "rule_0", "f0", "id"]
)
def test_columns_may_have_names_that_the_counting_uses_itself(tmp_path: Path, name: str) -> None:
    counted = {
        "recent": {"kind": "recent", "of": "item_id", "by": [name], "length": 2},
        "mean": {"kind": "mean", "of": "label", "by": [name], "prior_rows": 0},
    }
    told = reviews(tmp_path, counted, **{name: REVIEWS["user_id"]})
    assert told["recent"] == [[], ["x"], [], ["x"], ["x"], ["x"]]
    assert told["mean"][1::2] == pytest.approx([1, 0.5, 1 / 3])


@pytest.mark.parametrize(
    "name", ["history_row", "history_moment", "history_fold", "table_file_split", "past_rows", "values"]
)
def test_features_may_have_names_that_the_counting_uses_itself(tmp_path: Path, name: str) -> None:
    features = [feature("user_id", "sparse"), feature("item_id", "sparse"), feature(name), feature("told", fill=-1)]
    history = {"scope": "live", "features": {"told": {"kind": "count", "by": ["item_id"]}}}
    rows, _ = read_table(tmp_path, {name: [7, 8, 9, 10]}, {"history": history}, features=features)

    assert rows[name].tolist() == [7, 8, 9, 10]
    assert rows["told"].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("counted", "error", "message"),
    [
        (
            {"kind": "mean", "of": "text", "by": ["user_id"], "prior_rows": 0},
            DataError,
            "`text` has type string; expected numbers, of which",
        ),
        (
            {"kind": "mean", "of": "labell", "by": ["user_id"], "prior_rows": 0},
            DataError,
            r"column `labell` is missing.*history feature `told`",
        ),
        (
            {"kind": "mean", "of": "label", "by": ["user"], "prior_rows": 0},
            DataError,
            r"column `user` is missing.*Did you mean `user_id`",
        ),
        (
            {"kind": "count", "by": ["text_words", "tags"]},
            DataError,
            "by the lists text_words, tags; expected at most one",
        ),
        ({"kind": "count", "by": ["label"]}, UsageError, "by names the label `label`"),
        ({"kind": "count", "by": ["rating"]}, UsageError, "by names the label `rating`"),
        ({"kind": "count", "by": ["told"]}, UsageError, "`told` is made of itself"),
    ],
)
def test_history_that_cannot_be_meant_is_refused(
    tmp_path: Path, counted: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        reviews(tmp_path, {"told": counted}, tags=[[1]] * 6)


def test_the_last_of_a_list_is_not_listed_by_a_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="by the lists text_words; expected none"):
        reviews(tmp_path, {"told": {"kind": "recent", "of": "item_id", "by": ["text_words"], "length": 2}})


def test_a_column_called_label_that_is_another_one_makes_of_label_ambiguous(tmp_path: Path) -> None:
    history = {"scope": "live", "features": {"told": {**COUNTED["user_mean"]}}}
    features = [feature("user_id", "sparse"), feature("item_id", "sparse"), feature("told", fill=-1)]
    with pytest.raises(
        DataError, match=r"`label` of the history feature `told` may be .*Write `liked` for the declared"
    ):
        read_table(tmp_path, {"label": [0] * 4}, {"history": history}, label="liked", features=features)

    history["features"]["told"]["of"] = "liked"
    rows, _ = read_table(tmp_path, {"label": [0] * 4}, {"history": history}, label="liked", features=features)
    assert rows["told"].tolist()[1::2] == [1, 1]


@pytest.mark.parametrize("name", ["Price", "PRICE"])
def test_columns_that_differ_in_large_letters_alone_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"rows.parquet: the columns `price` and `{name}` are told apart by small"):
        read_table(tmp_path, {name: [1, 2, 3, 4]})


def test_columns_with_names_of_our_own_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column `recsys\.history_row` begins with `recsys\.`"):
        read_table(tmp_path, {"recsys.history_row": [1, 2, 3, 4]})
