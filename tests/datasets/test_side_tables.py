"""Tables beside the events: joined by a key, as of a time, or made of the events; filters, repeats, derived columns."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import DataError, UsageError
from tests.datasets.small_table import feature, read_table

IDS = [feature("user_id", "sparse"), feature("item_id", "sparse")]


def test_columns_of_a_side_table_stand_beside_each_event_and_are_unknown_without_a_row(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("sku,brand,kg\na,007,1.5\nb,010,2\n", encoding="utf-8")
    tables = {"products": {"files": "products.csv", "key": "item_id", "column": "sku", "columns": {"maker": "brand"}}}
    features = [*IDS, feature("maker", "sparse")]
    rows, _ = read_table(tmp_path, table={"tables": tables}, features=features)

    assert rows["maker"].tolist()[:3] == ["007", "010", "007"]
    assert rows["maker"].isna().tolist() == [False, False, False, True]


def test_a_number_and_the_text_of_it_are_one_key(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user_id,age\n1,20\n2,30\n", encoding="utf-8")
    rows, _ = read_table(
        tmp_path,
        {"user_id": ["1", "1", "2", "2"]},
        {"tables": {"users": {"files": "users.csv", "key": "user_id"}}},
        features=[*IDS, feature("age")],
    )
    assert rows["age"].tolist() == [20, 20, 30, 30]


def test_a_dated_table_tells_what_held_at_the_events_time(tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text(
        "item_id,valid_from,cost\na,1970-01-03,7\na,1970-01-01,5\nb,1970-01-03,9\n", encoding="utf-8"
    )
    time = {"column": "valid_from", "unit": "timestamp"}
    tables = {"prices": {"files": "prices.csv", "key": "item_id", "time": time}}
    rows, _ = read_table(tmp_path, table={"tables": tables}, features=[*IDS, feature("cost", fill=-1)])

    # Item a on the 1st and, at the very time of its new price, on the 3rd; item b before its first price.
    assert rows["cost"].fillna(-1).tolist() == [5, -1, 7, -1]


@pytest.mark.parametrize(("which", "ages"), [("first", [20, 20, 30, 30]), ("last", [21, 21, 30, 30])])
def test_of_duplicates_the_declared_one_counts(tmp_path: Path, which: str, ages: list[int]) -> None:
    (tmp_path / "users.csv").write_text("user_id,age\n1,20\n2,30\n1,21\n", encoding="utf-8")
    table: dict[str, Any] = {"tables": {"users": {"files": "users.csv", "key": "user_id", "duplicates": which}}}
    rows, _ = read_table(tmp_path, table=table, features=[*IDS, feature("age")])
    assert rows["age"].tolist() == ages

    del table["tables"]["users"]["duplicates"]
    with pytest.raises(DataError, match=r"users` has 2 rows of user_id 1; expected one.*`duplicates: first` or `last`"):
        read_table(tmp_path, table=table, features=[*IDS, feature("age")])


def test_a_table_of_the_events_holds_each_keys_first_value(tmp_path: Path) -> None:
    tables = {"names": {"key": "item_id", "columns": {"first_name": "name"}}}
    rows, _ = read_table(
        tmp_path,
        {"name": ["lamp", "mug", "lamp, new", "rug"]},
        {"tables": tables, "words": {"words": "first_name"}},
        features=[*IDS, feature("words", "sparse_list", max_length=3)],
    )
    assert [list(words) for words in rows["words"]] == [["lamp"], ["mug"], ["lamp"], ["rug"]]


def test_a_column_of_two_tables_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,price\na,1\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"`price` stands in the events and in the side table `items`.*`items_price: price`"
    ):
        read_table(tmp_path, table={"tables": {"items": {"files": "items.csv", "key": "item_id"}}})


def test_events_that_a_condition_leaves_out_are_counted_and_seen_by_none(tmp_path: Path) -> None:
    history = {"scope": "live", "features": {"seen": {"kind": "count", "by": ["item_id"]}}}
    rows, counts = read_table(
        tmp_path,
        {"ok": [True, False, True, True], "item_id": ["a", "a", "a", "a"], "bought": [1, 0, 0, 0]},
        {"where": ["ok"], "history": history, "splits": {"validation_start": "1970-01-04", "test_start": "1970-01-05"}},
        features=[*IDS, feature("seen")],
    )
    assert rows["seen"].tolist() == [0, 1, 2]
    assert counts["events that `where` leaves out"] == 1


def test_repeats_become_one_event_with_the_kept_values(tmp_path: Path) -> None:
    day = pa.array([0, 0, 0, 86400, 172800, 259200], pa.int64()).cast(pa.timestamp("s"))
    rows, counts = read_table(
        tmp_path,
        {
            "user_id": [1, 1, 1, 1, 2, 2],
            "item_id": ["a", "a", "a", "b", "a", "b"],
            "price": [3.0, 5.0, 4.0, 1.0, 2.0, 2.0],
            "bought": [1, 1, 1, 0, 1, 0],
            "group": ["new"] * 6,
            "at": day,
        },
        {
            "merge": {
                "by": ["user_id", "item_id", "at"],
                "keep": {"price": "max", "bought": "max", "group": "max"},
            }
        },
    )
    assert rows["price"].tolist() == [5, 1, 2, 2]
    assert counts["repeats that were merged"] == 2


def test_derived_columns_read_files_side_tables_and_one_another(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,usual\na,4\nb,2\nc,0\n", encoding="utf-8")
    rows, _ = read_table(
        tmp_path,
        {"price": [5.0, 2.0, 2.0, 9.0]},
        {
            "tables": {"items": {"files": "items.csv", "key": "item_id"}},
            "derive": {"gap": "price - usual", "ratio": "coalesce(gap / usual, -1)"},
        },
        features=[*IDS, feature("gap"), feature("ratio")],
    )
    assert rows["gap"].tolist() == [1, 0, -2, 9]
    assert rows["ratio"].tolist() == [0.25, 0, -0.5, -1]


def test_features_are_derived_of_the_past_and_counted_of_derived_features(tmp_path: Path) -> None:
    history = {
        "seen": {"kind": "count", "by": ["user_id"]},
        "again": {"kind": "sum", "of": "is_again", "by": ["user_id"]},
        "pair": {"kind": "count", "by": ["user_id", "item_id"]},
    }
    derive = {"is_again": "cast(pair > 0 as int)", "share": "coalesce(again / seen, 0)"}
    rows, _ = read_table(
        tmp_path,
        {"user_id": [1, 1, 1, 1], "item_id": ["a", "a", "b", "a"]},
        {"history": {"scope": "live", "features": history}, "derive": derive},
        features=[*IDS, feature("share")],
    )
    # The second event is the first that its user had before; the fourth one does not count itself.
    assert rows["share"].tolist() == pytest.approx([0, 0, 1 / 2, 1 / 3])


def test_a_segment_follows_from_the_past(tmp_path: Path) -> None:
    history = {"scope": "live", "features": {"seen": {"kind": "count", "by": ["user_id"]}}}
    rows, _ = read_table(
        tmp_path,
        {"user_id": [1, 1, 1, 2]},
        {"history": history, "segment": {"column": "seen", "bins": [1]}},
    )
    assert rows["group"].tolist() == ["new", "old", "old", "new"]


def test_segments_of_missing_and_other_values_are_those_declared(tmp_path: Path) -> None:
    segment = {"column": "mood", "names": {"a": "new"}, "missing": "old", "other": "old"}
    rows, _ = read_table(tmp_path, {"mood": ["a", None, "z", "a"]}, {"segment": segment})
    assert rows["group"].tolist() == ["new", "old", "old", "new"]


def test_segments_are_learned_of_vectors_the_largest_first(tmp_path: Path) -> None:
    (tmp_path / "vectors").mkdir()
    vectors = np.array([[0, 0], [0, 1], [9, 9]], dtype=np.float32)
    table = pa.table({"item_id": ["a", "b", "c"], "vector": list(vectors)})
    pq.write_table(table, tmp_path / "vectors" / "items.parquet")
    segment = {"vectors": "vectors/items.parquet", "key": "item_id"}
    rows, _ = read_table(tmp_path, table={"segment": segment})
    assert rows["group"].tolist() == ["new", "new", "new", "old"]

    pq.write_table(table.slice(0, 1), tmp_path / "vectors" / "items.parquet")
    with pytest.raises(DataError, match="has 1 vectors, of which 2 segments are to be made"):
        read_table(tmp_path, table={"segment": segment})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"derive": {"price": "price * 2"}}, r"derive.price: is made of itself"),
        ({"derive": {"a": "b + 1", "b": "a + 1"}}, "`table`.derive.a: is made of itself, by way of a, b"),
        ({"derive": {"price": "2"}}, "`price` stands in the files and under `table.derive`"),
        ({"where": ["price"]}, "is of type float64; expected a condition"),
        ({"where": ["prise > 0"]}, "column `prise` is missing"),
        ({"derive": {"told": "random()"}}, "random"),
        ({"derive": {"price": "bought * 2"}}, "the feature would leak the answer"),
        ({"tables": {"items": {"key": "item_id"}}}, "the key `columns` is missing"),
        ({"merge": {"by": ["item_id"], "keep": {"bought": "median"}}}, "`bought` is 'median'"),
        ({"time": None}, "`validation_start` needs times, and `table.time` is not declared"),
        ({"time": None, "position": "at", "splits": {"leave_last": 1}, "query": {"session": "1h"}}, "`session` needs"),
        ({"time": None, "splits": {"leave_last": 1}}, "`leave_last` needs an order"),
        ({"label": None}, "every event is a positive, and no `negatives`"),
        ({"negatives": {"per_positive": 1}}, "has `label` and `negatives`; expected one"),
        ({"candidates": {"within": "7 days"}}, "`within` is '7 days'; expected a span of time such as 90d"),
        ({"candidates": {"top": 5}}, "has `candidates` and no `query`"),
        ({"segment": {"column": "group", "missing": "nwe"}}, r"`missing` is nwe \(did you mean `new`"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_key(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, DataError), match=message):
        read_table(tmp_path, table=table)
