"""Values that a schema declares meet a column in the column's own type."""

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from recsys.datasets.declared_values import compared
from recsys.errors import DataError, UsageError
from tests.datasets.small_table import feature, read_table

DAY = datetime.date(1970, 1, 2)
# Two values of every type, the declared one first, and the ways in which it may be declared.
COLUMNS: list[tuple[pa.Array, list[Any]]] = [
    (pa.array([-1.0, 2.0]), [-1, -1.0, "-1", "-1.0", "-1e0"]),
    (pa.array([0.1, 2.0], pa.float32()), [0.1, "0.1"]),
    (pa.array([-1.5, 2.0], pa.float64()).cast(pa.float16()), [-1.5]),
    (pa.array([-1, 2], pa.int8()), [-1, -1.0, "-1"]),
    (pa.array([2**63 + 1, 2], pa.uint64()), [2**63 + 1, str(2**63 + 1)]),
    (pa.array([9007199254740993, 9007199254740992]), [9007199254740993, "9007199254740993"]),
    (pa.array([1, 0]), [True, 1, "1"]),
    (pa.array([Decimal("-1.50"), Decimal("2")], pa.decimal128(10, 2)), [-1.5, "-1.5", "-1.50"]),
    (pa.array([-1, 2]).dictionary_encode(), [-1]),
    (pa.array(["-1", "-1.0"]), [-1, "-1"]),
    (pa.array(["x", "y"]).dictionary_encode(), ["x"]),
    (pa.array(["True", "False"]), [True, "True"]),
    (pa.array(["no", "yes"]), [False, "no"]),
    (pa.array([True, False]), [True, 1, 1.0, "true", "True", "yes", "1"]),
    (pa.array([DAY, datetime.date(1970, 1, 3)]), [DAY, "1970-01-02", datetime.datetime(1970, 1, 2)]),
    (pa.array([86_400, 0], pa.timestamp("s")), [DAY, "1970-01-02", "1970-01-02T00:00:00"]),
    (pa.array([86_400, 0], pa.timestamp("s")).cast(pa.timestamp("ns", "UTC")), [DAY, "1970-01-02T01:00+01:00"]),
]  # fmt: skip


DATABASE = ibis.duckdb.connect(threads=1)


def met(column: pa.Array, comparison: str, declared: Any, folder: Path) -> list[bool]:
    return all_met(column, [(comparison, declared)], folder)[0]


def all_met(column: pa.Array, conditions: list[tuple[str, Any]], folder: Path) -> list[list[bool]]:
    """For each condition, in which rows it is met; all in one query."""
    path = folder / "rows.parquet"
    pa.parquet.write_table(pa.table({"column": column}), path)
    rows = DATABASE.read_parquet([path])
    place = "rows.parquet: column `column`"
    found = [compared(rows["column"], comparison, declared, place) for comparison, declared in conditions]
    query = DATABASE.compile(rows.select(**{f"met_{number}": each for number, each in enumerate(found)}))
    return [list(each) for each in zip(*DATABASE.con.sql(query).fetchall(), strict=True)]


@pytest.mark.parametrize(("column", "ways"), COLUMNS, ids=lambda one: str(getattr(one, "type", "")))
def test_a_value_is_met_in_the_columns_own_type_however_it_is_declared(
    column: pa.Array, ways: list[Any], tmp_path: Path
) -> None:
    conditions = [(comparison, declared) for declared in ways for comparison in ("==", "!=")]
    found = dict(zip(map(str, conditions), all_met(column, conditions, tmp_path), strict=True))
    assert found == {str(each): [each[0] == "==", each[0] == "!="] for each in conditions}


@pytest.mark.parametrize(
    ("column", "declared"),
    [
        (pa.array([1.0]), "none"),
        (pa.array([1.0]), DAY),
        (pa.array([1.0], pa.float32()), 1e300),
        (pa.array([1]), 1.5),
        (pa.array([1], pa.int8()), 300),
        (pa.array([1], pa.uint8()), -1),
        (pa.array([1]), "a"),
        (pa.array([1]), float("nan")),
        (pa.array([Decimal("1.50")], pa.decimal128(10, 2)), 1.505),
        (pa.array([True]), 2),
        (pa.array([True]), "x"),
        (pa.array([DAY]), 1),
        (pa.array([DAY]), "1970-01-02T12:00"),
        (pa.array([86_400], pa.timestamp("s")), "soon"),
        (pa.array([b"x"]), "x"),
        (pa.array([{"a": 1}]), 1),
    ],
    ids=str,
)
def test_a_value_that_a_column_cannot_hold_is_refused_with_column_type_and_value(
    column: pa.Array, declared: Any, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"column `column` has type .*, which cannot hold the declared value") as raised:
        met(column, "==", declared, tmp_path)
    assert repr(declared) in str(raised.value)


@pytest.mark.parametrize(
    ("column", "comparison", "declared", "expected"),
    [
        (pa.array([3, 4]), ">", "3.5", [False, True]),
        (pa.array([3.7, 4.0], pa.float32()), ">", "3.7", [False, True]),
        (pa.array([3.7, 3.6], pa.float32()), ">=", 3.7, [True, False]),
        (pa.array([100, -100], pa.int8()), "<", 300, [True, True]),
        (pa.array([Decimal("3.5"), Decimal("4.5")]), ">=", "3.55", [False, True]),
        (pa.array([9007199254740993, 9007199254740992]), ">", "9007199254740992", [True, False]),
        (pa.array([DAY, datetime.date(1970, 1, 1)]), ">=", "1970-01-02", [True, False]),
        (pa.array([DAY, datetime.date(1970, 1, 3)]), ">", "1970-01-02T12:00", [False, True]),
        (pa.array([True, False]), ">=", 1, [True, False]),
        (pa.array(["b", "a"]), ">", "a", [True, False]),
        (pa.nulls(2), ">", 3, [None, None]),
    ],
)
def test_an_order_is_that_of_the_columns_type(
    column: pa.Array, comparison: str, declared: Any, expected: list[bool], tmp_path: Path
) -> None:
    assert met(column, comparison, declared, tmp_path) == expected


def test_texts_are_in_no_order_with_a_number(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has type string, which cannot hold the declared value '3'"):
        met(pa.array(["10"]), ">", "3", tmp_path)


@pytest.mark.parametrize("declared", [-1, "-1", [-1], [-1, 999]])
def test_missing_values_are_filled_and_counted(tmp_path: Path, declared: Any) -> None:
    rows, counts = read_table(tmp_path, table={"missing": {"price": declared}})

    assert rows["price"].isna().tolist() == [False, True, False, declared == [-1, 999]]
    assert counts["declared missing: price: -1"] == 1


def test_a_declared_value_that_occurs_nowhere_is_reported(tmp_path: Path) -> None:
    by_group = {"column": "group", "train": ["new", "mid"], "validation": "old", "test": "late"}
    named = {"column": "item_id", "names": {"a": "new", "b": "old", "c": "old", "d": "old"}}
    rows, counts = read_table(
        tmp_path,
        {"bought": [1, 0, 0, 0]},
        {"missing": {"price": [-1, -2]}, "segment": named, "splits": by_group},
        segment="by_item",
    )

    assert rows["by_item"].tolist() == ["new", "old", "new", "old"]
    assert {key for key in counts if "nowhere" in key} == {
        "declared, but found nowhere: missing.price: -2",
        "declared, but found nowhere: segment.names: d",
        "declared, but found nowhere: splits.train: mid",
        "declared, but found nowhere: splits.test: late",
    }


def test_missing_words_of_a_list_and_of_a_text_to_be_cut_are_left_out(tmp_path: Path) -> None:
    features = [
        *(feature(name, "sparse") for name in ("user_id", "item_id")),
        *(feature(name, "sparse_list", max_length=3) for name in ("genres", "tags", "words")),
    ]
    columns = {
        "genres": ["Comedy, Drama", "(none)", " Horror ,, ", None],
        "tags": [[1, -1, 2], [-1], None, [3]],
        "text": ["A mug", "(none)", "", None],
    }
    block = {
        "lists": {"genres": {"column": "genres", "separator": ","}},
        "words": {"words": "text"},
        "missing": {"genres": "(none)", "tags": -1, "words": "(none)"},
    }
    rows, counts = read_table(tmp_path, columns, block, features=features)

    def lists(name: str) -> list[Any]:
        return [None if value is None else list(value) for value in rows[name].replace({np.nan: None})]

    assert lists("genres") == [["Comedy", "Drama"], None, ["Horror"], None]
    assert lists("tags") == [[1, 2], [], None, [3]]
    assert lists("words") == [["a", "mug"], None, [], None]
    assert counts["declared missing: tags: -1"] == 2


def test_a_missing_value_of_a_vector_is_one_of_each_element(tmp_path: Path) -> None:
    features = [feature("user_id", "sparse"), feature("item_id", "sparse"), feature("vector", width=2, fill=0)]
    columns = {"vector": [[1.0, -1.0], [-1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]}
    rows, _ = read_table(tmp_path, columns, {"missing": {"vector": -1}}, features=features)

    assert rows["vector[0]"].isna().tolist() == [False, True, False, False]
    assert rows["vector[1]"].isna().tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("bought", "rule"),
    [
        ([True, False, True, False], "bought == 1"),
        ([True, False, True, False], "bought == true"),
        ([True, False, True, False], "bought != 0"),
        ([True, False, True, False], "bought"),
        (["True", "False", "True", "False"], "bought == True"),
        (["True", "False", "True", "False"], "bought == true"),
        (["yes", "no", "yes", "no"], "bought == yes"),
        ([1.0, 0.0, 1.0, 0.0], "bought == 1"),
        ([1, 0, 1, 0], "bought == true"),
        (["1", "0", "1", "0"], "bought == 1"),
        (["buy now", "look", "buy now", "look"], "bought == 'buy now'"),
    ],
)
def test_a_label_rule_means_the_same_on_every_type_of_column(tmp_path: Path, bought: list[Any], rule: str) -> None:
    rows, _ = read_table(tmp_path, {"bought": bought}, {"label": rule})
    assert rows["bought"].tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("fold", "train", "validation"),
    [
        ([True, True, False, False], True, False),
        ([True, True, False, False], "true", "false"),
        ([True, True, False, False], 1, 0),
        (["True", "True", "False", "False"], True, False),
        ([1.0, 1.0, 0.0, 0.0], 1, 0),
        (pa.array([1, 1, 2, 2]).cast(pa.int32()).cast(pa.date32()), "1970-01-02", "1970-01-03"),
    ],
)
def test_splits_are_told_by_values_of_the_columns_type(tmp_path: Path, fold: Any, train: Any, validation: Any) -> None:
    values = {"column": "fold", "train": train, "validation": validation, "test": []}
    rows, _ = read_table(tmp_path, {"fold": fold}, {"splits": values})
    assert rows["split"].tolist() == ["train", "train", "validation", "validation"]


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ([True, False, True, False], {"true": "new", "false": "old"}),
        ([1.0, 2.0, 1.0, 2.0], {"1": "new", "2": "old"}),
        ([1.0, 2.0, 1.0, 2.0], {"1.0": "new", "2.0": "old"}),
        ([1, 2, 1, 2], {"1": "new", "2": "old"}),
    ],
)
def test_segments_are_named_by_values_of_the_columns_type(
    tmp_path: Path, column: list[Any], names: dict[str, str]
) -> None:
    rows, _ = read_table(tmp_path, {"group": column}, {"segment": {"column": "group", "names": names}})
    assert rows["group"].tolist() == ["new", "old", "new", "old"]


@pytest.mark.parametrize(
    ("column", "segments"),
    [
        ([True, False, True, False], ["True", "False"]),
        ([1.0, 2.0, 1.0, 2.0], ["1", "2"]),
        ([1, 2, 1, 2], ["1", "2"]),
        (["1", "2", "1", "2"], ["1", "2"]),
        ([datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)] * 2, ["2026-01-01", "2026-01-02"]),
    ],
)
def test_segments_without_names_are_values_of_the_columns_type(
    tmp_path: Path, column: list[Any], segments: list[str]
) -> None:
    rows, counts = read_table(tmp_path, {"group": column}, segments=segments)
    assert rows["group"].tolist() == segments * 2
    assert not [key for key in counts if "nowhere" in key]


def test_a_segment_without_rows_is_reported(tmp_path: Path) -> None:
    _, counts = read_table(tmp_path, segments=["new", "old", "ancient"])
    assert [key for key in counts if "nowhere" in key] == ["declared, but found nowhere: segments: ancient"]


def test_one_segment_for_every_row_is_declared_by_no_bins(tmp_path: Path) -> None:
    rows, _ = read_table(tmp_path, table={"segment": {"column": "price", "bins": []}}, segments=["everybody"])
    assert rows["group"].tolist() == ["everybody"] * 4


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"missing": {"prise": -1}}, r"table`.missing: `prise` \(did you mean `price`\?\) is not a feature"),
        ({"missing": {"price": None}}, r"missing: `price` is None; expected a value of the column"),
        ({"columns": {"Price": "cost"}}, r"table`.columns: `Price` \(did you mean `price`\?\) is not a feature"),
        ({"columns": {"bought": "b"}}, r"`bought` is not a feature that the files hold \(the columns of label"),
        ({"lists": {"price": {"column": "price", "separator": ","}}}, "`price` is not a list"),
        ({"words": {"title": "title"}}, "`title` is not a feature of kind sparse_list"),
        ({"time": {"colum": "at"}}, r"time: unknown key `colum` \(did you mean `column`\?\)"),
        ({"time": {"column": "at", "unit": "second"}}, r"'second' \(did you mean `seconds`\?\)"),
        ({"segment": {"column": "group", "name": {}}}, r"segment: unknown key `name` \(did you mean `names`\?\)"),
        ({"segment": {"column": "group", "names": {"x": "nwe"}}}, r"leads to `nwe` \(did you mean `new`\?\)"),
        ({"splits": {"validation_start": 1, "tset_start": 2}}, r"`tset_start` \(did you mean `test_start`\?\)"),
        ({"splits": None, "files": {"train": "a", "valid": "b", "test": "c"}}, r"'valid'.*\(did you mean `validation`"),
        ({"histroy": {}}, r"unknown key `histroy` \(did you mean `history`\?\)"),
        ({"history": {"scope": "live", "feature": {}}}, r"`feature` \(did you mean `features`\?\)"),
        ({"label": "price > 3"}, "the feature `price` reads `price`, which the label is made of"),
        ({"columns": {"price": "bought"}}, "the feature `price` reads `bought`, which the label is made of"),
    ],
)  # fmt: skip
def test_a_name_that_is_misspelt_is_refused_with_the_nearest_one(
    tmp_path: Path, block: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        read_table(tmp_path, table=block)


def test_a_feature_that_is_also_the_segment_cannot_have_other_values(tmp_path: Path) -> None:
    features = [feature(name, "sparse") for name in ("user_id", "item_id", "group")]
    rows, _ = read_table(tmp_path, features=features)
    assert rows["group"].tolist() == ["new", "old", "new", "old"]

    named = {"column": "group", "names": {"new": "old", "old": "new"}}
    with pytest.raises(UsageError, match="`group` is the segment and a feature, with different values"):
        read_table(tmp_path, table={"segment": named}, features=features)
