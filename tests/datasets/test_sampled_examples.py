"""Examples of events that know only what was chosen: queries, candidates, negatives, splits, lists to rank."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recsys.errors import DataError, UsageError
from tests.datasets.small_table import feature, read_table

DAY = 86_400
IDS = [feature("user_id", "sparse"), feature("item_id", "sparse")]
IMPLICIT: dict[str, Any] = {
    "label": None,
    "query": {"next": "event"},
    "negatives": {"per_positive": 2},
    "segment": {"column": "seen", "bins": [1]},
    "history": {"scope": "live", "features": {"seen": {"kind": "count", "by": ["user_id"]}}},
    "splits": {"validation_start": "1970-01-09", "test_start": "1970-01-10"},
}


def purchases(number: int = 40, users: int = 4, items: int = 8, seed: int = 0) -> dict[str, Any]:
    """Purchases of ten days; every item is bought on the first."""
    rng = np.random.default_rng(seed)
    item = np.concatenate([np.arange(items), rng.integers(0, items, number - items)])
    seconds = np.sort(np.concatenate([np.arange(items), rng.integers(DAY, 10 * DAY, number - items)]))
    return {
        "user_id": rng.integers(0, users, number).tolist(),
        "item_id": [f"i{each}" for each in item],
        "at": pa.array(seconds, pa.int64()).cast(pa.timestamp("s")),
    }


def read(folder: Path, columns: dict[str, Any] | None = None, **table: Any) -> tuple[pd.DataFrame, dict[str, int]]:
    columns = columns or purchases()
    rows, counts = read_table(folder, columns, {**IMPLICIT, **table}, features=IDS)
    return rows, counts


def test_each_event_is_a_positive_with_negatives_that_are_none_of_its_query(tmp_path: Path) -> None:
    rows, counts = read(tmp_path)
    lists = rows.groupby("query")
    assert counts["queries"] == counts["events"] == lists.ngroups
    assert (lists["bought"].sum() == 1).all()
    assert (lists.size() == 3).all()
    for _, query in lists:
        assert query["user_id"].nunique() == query["at"].nunique() == query["split"].nunique() == 1
        assert query[query.bought == 1].item_id.iloc[0] not in set(query[query.bought == 0].item_id)


def test_negatives_depend_neither_on_other_queries_nor_on_later_events(tmp_path: Path) -> None:
    whole, _ = read(tmp_path, candidates={"within": "30d"})
    columns = purchases()
    kept = 30
    part, _ = read(
        tmp_path,
        {name: column[:kept] for name, column in columns.items()},
        candidates={"within": "30d"},
        splits={"validation_start": "1970-01-03", "test_start": "1970-01-04"},
    )
    names = ["user_id", "item_id", "at", "bought"]
    last = part["at"].max()
    told = [
        sorted(map(tuple, rows[rows["at"] <= last][names].astype(str).to_numpy().tolist())) for rows in (whole, part)
    ]
    assert told[0] == told[1]


def test_negatives_are_drawn_by_a_power_of_the_candidates_count_and_say_their_rate(tmp_path: Path) -> None:
    days = 400
    # Item a is bought on nine days of ten, b on the tenth, c on a last day by somebody who asks for neither.
    item = ["a" if day % 10 else "b" for day in range(days)] + ["c"] * 60
    at = [day * 60 for day in range(days)] + [2 * DAY + each for each in range(60)]
    columns = {
        "user_id": [1] * days + [2] * 60,
        "item_id": item,
        "at": pa.array(at, pa.int64()).cast(pa.timestamp("s")),
    }
    rows, _ = read(
        tmp_path,
        columns,
        candidates={"within": "7d"},
        negatives={"per_positive": 20, "power": 1.0},
        splits={"validation_start": "1970-01-04", "test_start": "1970-01-05"},
    )
    drawn = rows[(rows.user_id == 2) & (rows.bought == 0)]
    shares = Counter(drawn.item_id)
    assert shares["a"] / len(drawn) == pytest.approx(0.9, abs=0.03)
    assert set(shares) == {"a", "b"}
    rate = drawn.groupby("item_id")["log_sampling_rate"].first()
    assert rate["a"] - rate["b"] == pytest.approx(np.log(360 / 40), rel=1e-5)


def test_candidates_are_what_was_bought_within_so_many_days_before_the_day(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, candidates={"within": "2d"}, ranking={})
    events = pd.DataFrame(purchases())
    events["day"] = pd.to_datetime(events["at"]).dt.floor("D")
    ranked = rows[rows.split.str.startswith("ranking")]
    assert len(ranked)
    for _, query in ranked.groupby("query"):
        day = query["at"].iloc[0].floor("D")
        before = events[(events.day < day) & (events.day >= day - pd.Timedelta(days=2))]
        assert sorted(query.item_id) == sorted(set(before.item_id))


def test_the_top_candidates_are_those_with_the_most_events(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, candidates={"top": 3}, ranking={"test_queries": 1})
    listed = rows[rows.split == "ranking_test"]
    train = pd.DataFrame(purchases())
    train = train[pd.to_datetime(train["at"]) < "1970-01-09"]
    counts = train.groupby("item_id").size()
    assert listed["query"].nunique() == 1
    assert counts[sorted(listed.item_id)].min() >= counts.drop(list(listed.item_id)).max()


def test_candidates_of_a_column_are_the_querys_own(tmp_path: Path) -> None:
    columns = purchases() | {"shown": [["i0", "i1", "i2", "unheard of"]] * 40}
    rows, _ = read(
        tmp_path,
        columns,
        query={"next": "event", "keep": {"shown": "max"}},
        candidates={"column": "shown"},
        ranking={},
    )
    assert set(rows[rows.bought == 0].item_id) == {"i0", "i1", "i2"}


def test_an_invoice_is_one_query_that_begins_with_its_first_line(tmp_path: Path) -> None:
    columns = purchases() | {"invoice": [str(place // 3) for place in range(40)]}
    columns["user_id"] = [place // 3 % 4 for place in range(40)]
    columns["country"] = ["Eire" if place // 3 % 2 else "Malta" for place in range(40)]
    rows, _ = read_table(
        tmp_path,
        columns,
        {**IMPLICIT, "query": {"column": "invoice", "keep": {"country": "max"}}},
        features=[*IDS, feature("country", "sparse")],
    )
    events = pd.DataFrame(columns)
    events["at"] = pd.to_datetime(events["at"])
    for invoice, lines in events.groupby("invoice"):
        mine = rows[(rows["at"] == lines["at"].min()) & (rows.user_id == lines.user_id.iloc[0])]
        assert set(mine[mine.bought == 1].item_id) == set(lines.item_id), invoice
        assert set(mine.country) == {lines.country.iloc[0]}
        earlier = events[(events.user_id == lines.user_id.iloc[0]) & (events["at"] < lines["at"].min())]
        assert set(mine.group) == {"old" if len(earlier) else "new"}


def test_a_session_ends_where_a_pause_is_longer_than_declared(tmp_path: Path) -> None:
    minutes = [0, 10, 10, 41, 100, 130, 200]
    columns = {
        "user_id": [1] * 7,
        "item_id": list("abcdefg"),
        "at": pa.array([60 * minute for minute in minutes], pa.int64()).cast(pa.timestamp("s")),
    }
    rows, _ = read(
        tmp_path,
        columns,
        query={"session": "30m"},
        splits={"validation_start": "1970-01-02", "test_start": "1970-01-03"},
    )
    lists = [set(query[query.bought == 1].item_id) for _, query in rows.groupby("query")]
    assert lists == [{"a", "b", "c"}, {"d"}, {"e", "f"}, {"g"}]


def test_the_last_events_of_each_user_are_test_and_validation(tmp_path: Path) -> None:
    columns = {
        "user_id": [1] * 5 + [2] * 3 + [3] * 2,
        "item_id": list("abcdeabcab"),
        "place": [1, 2, 3, 4, 5, 7, 8, 9, 1, 2],
    }
    history = {"scope": "live", "features": {"seen": {"kind": "count", "by": ["user_id"]}}}
    rows, _ = read_table(
        tmp_path,
        columns,
        {**IMPLICIT, "time": None, "position": "place", "splits": {"leave_last": 1}, "history": history},
        features=[*IDS, feature("seen")],
    )
    positives = rows[rows.bought == 1].sort_values(["user_id", "at"])
    assert (
        positives.split.tolist()
        == ["train"] * 3 + ["validation", "test", "train", "validation", "test"] + ["train"] * 2
    )
    assert positives.seen.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("by", ["user", "row", "time"])
def test_shares_divide_by_user_by_row_or_by_time(tmp_path: Path, by: str) -> None:
    columns = purchases(number=600, users=100)
    splits = {"shares": {"train": 0.6, "validation": 0.2, "test": 0.2}, "by": by}
    rows, _ = read(tmp_path, columns, splits=splits)
    positives = rows[rows.bought == 1]
    shares = positives.split.value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.6, abs=0.005 if by == "time" else 0.12)
    if by == "user":
        assert (positives.groupby("user_id").split.nunique() == 1).all()
    if by == "time":
        assert positives[positives.split == "train"]["at"].max() <= positives[positives.split == "test"]["at"].min()
    again, _ = read(tmp_path, {name: column[::-1] for name, column in columns.items()}, splits=splits)
    if by != "time":
        key = ["user_id", "item_id", "at", "split"]
        assert sorted(map(str, positives[key].to_numpy().tolist())) == sorted(
            map(str, again[again.bought == 1][key].to_numpy().tolist())
        )


def test_without_any_order_the_past_is_counted_out_of_fold(tmp_path: Path) -> None:
    columns = {"user_id": [*range(40)] * 2, "item_id": list("abcabdea") * 10}
    table = {
        **IMPLICIT,
        "time": None,
        "splits": {"shares": {"train": 0.6, "validation": 0.2, "test": 0.2}, "by": "user"},
        "segment": {"column": "sold", "bins": [1]},
        "history": {"scope": "train_only", "features": {"sold": {"kind": "count", "by": ["item_id"], "folds": 2}}},
    }
    rows, _ = read_table(tmp_path, columns, table, features=[*IDS, feature("sold")])
    events = pd.DataFrame(columns)
    is_train = events.user_id.map(rows.groupby("user_id").split.first()) == "train"
    train = events[is_train].groupby("item_id").size()
    later = rows[rows.split != "train"].groupby("item_id")["sold"].first()
    assert later.to_dict() == {item: train.get(item, 0) for item in later.index}

    table["history"] = {"scope": "live", "features": {"sold": {"kind": "count", "by": ["item_id"]}}}
    with pytest.raises(
        UsageError, match=r"the events have no time, so none of them is known to be earlier.*`folds: 10`"
    ):
        read_table(tmp_path, columns, table, features=[*IDS, feature("sold")])


def test_a_column_that_only_events_have_is_refused_for_items_that_were_not_chosen(tmp_path: Path) -> None:
    columns = purchases() | {"price": [1.0] * 40}
    with pytest.raises(UsageError, match=r"`price` is read from `price`, which only events have.*Say whose it is"):
        read_table(tmp_path, columns, IMPLICIT, features=[*IDS, feature("price")])


def test_items_bring_their_side_tables_to_negatives_too(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,size\n" + "".join(f"i{k},{k}\n" for k in range(8)), encoding="utf-8")
    rows, _ = read_table(
        tmp_path,
        purchases(),
        {**IMPLICIT, "tables": {"items": {"files": "items.csv", "key": "item_id"}}, "derive": {"odd": "size % 2"}},
        features=[*IDS, feature("size"), feature("odd")],
    )
    assert (rows["size"] == rows.item_id.str[1:].astype(int)).all()
    assert (rows["odd"] == rows["size"] % 2).all()


def test_prices_that_changed_are_those_of_the_querys_time_for_negatives_too(tmp_path: Path) -> None:
    lines = "".join(f"i{k},1970-01-01,{k}\ni{k},1970-01-06,{k + 100}\n" for k in range(8))
    (tmp_path / "prices.csv").write_text("item_id,since,cost\n" + lines, encoding="utf-8")
    time = {"column": "since", "unit": "timestamp"}
    rows, _ = read_table(
        tmp_path,
        purchases(),
        {**IMPLICIT, "tables": {"prices": {"files": "prices.csv", "key": "item_id", "time": time}}},
        features=[*IDS, feature("cost")],
    )
    expected = rows.item_id.str[1:].astype(int) + np.where(rows["at"] >= "1970-01-06", 100, 0)
    assert (rows["cost"] == expected).all()


def test_lists_that_would_be_too_long_are_refused_before_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.datasets.sampled_pairs._MOST_RANKED_ROWS", 10)
    with pytest.raises(DataError, match=r"Rank fewer queries .*or the nearest items alone"):
        read(tmp_path, ranking={})
