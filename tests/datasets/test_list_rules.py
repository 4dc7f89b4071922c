"""Lists that stand beside one another, prepared: encoded in step, refused or dropped by name, and read back."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.datasets.decode import raw_rows
from recsys.datasets.encode import encode
from recsys.datasets.encoded import EncodedDataset, open_encoded
from recsys.errors import DataError, UsageError
from recsys.features.raw import raw_to_batch
from recsys.inspection.day_profiles import Share, day_profiles
from tests.datasets.small_table import feature, read_table
from tests.grouped_rows import GROUP, grouped_schema, lists_of_batch, naive, raw_table
from tests.worlds import MadeSource

# "mug" and 1 are the most frequent, so their rows are those of `VOCABULARIES`.
ROWS: list[Any] = [
    [("mug", 1, 5.0, 3.0), ("mug", 1, None, 0.5), ("lamp", 2, -5.0, float("nan")), ("mug", 1, 0.25, -2.0)],
    None,
    [],
    [(None, 1, float("inf"), None), ("lamp", None, 1.0, 10.0)],
]


def prepared(folder: Path, rows: pa.Table, **schema: Any) -> EncodedDataset:
    encode(MadeSource(rows), grouped_schema(**schema), folder / "encoded", memory_limit="200MB", threads=1)
    return open_encoded(folder / "encoded")


def lists_of(dataset: EncodedDataset) -> list[dict[str, Any]]:
    (path,) = dataset.files("train")
    return pq.read_table(path, partitioning=None).select(GROUP).to_pylist()


def test_prepared_lists_keep_in_step_and_say_what_was_missing(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, raw_table(ROWS))

    assert lists_of(dataset) == [naive(row) for row in ROWS]
    assert dataset.vocabulary("shop").ids.to_pylist() == [1, 2]
    assert dataset.contract.scaling == {}
    found = {what: number for what, number in dataset.manifest.counts.items() if what.split(": ")[-1] in GROUP}
    assert found == {
        "ids missing in lists: recent": 1,
        "ids missing in lists: shops": 1,
        "lists missing: recent": 1,
        "lists missing: shops": 1,
        "lists cut: recent": 1,
        "lists cut: shops": 1,
        "lists cut: ratings": 1,
        "lists cut: ages": 1,
        "values filled: ratings": 2,
        "values filled: ages": 2,
    }
    (day,) = day_profiles(dataset).values()
    assert (day.without_value["ratings"], day.without_value["recent"]) == (Share(2, 6), Share(2, 4))


def test_prepared_lists_come_back_as_raw_ones_that_are_encoded_alike(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, raw_table(ROWS))
    vocabularies = {table: dataset.vocabulary(table) for table in dataset.contract.table_rows}

    decoded = pa.concat_tables(raw_rows(dataset, "train"))

    assert lists_of_batch(raw_to_batch(decoded, dataset.contract, vocabularies)) == [naive(row) for row in ROWS]


def ratings(*values: list[float | None] | None) -> dict[str, pa.Array]:
    return {"ratings": pa.array([*values], pa.list_(pa.float64()))}


@pytest.mark.parametrize(
    ("changed", "schema", "said"),
    [
        (
            ratings([1, 1, 1], None, [], [1, 1]),
            {},
            r"`ratings` holds \[1.0, 1.0, 1.0\] in 1 of 4 rows; expected as many elements as `recent` has in the row",
        ),
        (
            ratings([1] * 4, [1], [], [1, 1]),
            {},
            r"`ratings` holds \[1.0\] in 1 of 4 rows; expected as many elements as `recent`",
        ),
        (ratings([1] * 4, None, [], [1, 7]), {}, r"`ratings` holds \[1.0, 7.0\] in 1 of 4 rows.*numbers in \[-5, 5\]"),
        (
            ratings([1] * 4, None, [], [1, None]),
            {"ratings": {"fill": None}},
            r"`ratings` holds \[1.0, None\] in 1 of 4 rows; expected a finite number in every place",
        ),
        (
            ratings([1] * 4, None, [], [1, 1e9]),
            {"ratings": {"minimum": None, "maximum": None}},
            r"`ratings` holds \[1.0, 1000000000.0\] in 1 of 4 rows; expected numbers in \[-1,000,000, 1,000,000\]",
        ),
        ({"ratings": pa.array([1.0] * 4)}, {}, "`ratings` has type float64; expected an array of numbers"),
        ({"ratings": pa.array([["a"]] * 4)}, {}, "`ratings` has type array<string>; expected an array of numbers"),
    ],
)
def test_lists_that_break_their_declaration_stop_the_preparation(
    tmp_path: Path, changed: dict[str, pa.Array], schema: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        prepared(tmp_path, raw_table(ROWS, **changed), **schema)


def test_elements_are_clipped_or_their_rows_dropped_where_that_is_declared(tmp_path: Path) -> None:
    far = raw_table(ROWS, **ratings([9, 9, -9, 1], None, [], [1, 7]))
    broken = raw_table(ROWS, **ratings([1] * 4, [1], [], [1, 1]))

    clipped = prepared(tmp_path / "clip", far, invalid={"ratings": "clip"})
    dropped = prepared(tmp_path / "drop", broken, invalid={"ratings": "drop"}, most_dropped=0.5)

    assert [row["ratings"] for row in lists_of(clipped)] == [[5, -5, 1], [], [], [1, 5]]
    assert clipped.manifest.counts["values clipped: ratings"] == 2
    assert [row["ratings"] for row in lists_of(dropped)] == [[1, 1, 1], [], [1, 1]]
    assert dropped.manifest.counts["rows dropped: ratings"] == 1


MET, STARS = (
    feature("met", "sparse_list", table="item_id", max_length=4),
    {"name": "stars", "kind": "dense_list", "beside": "met", "fill": 0, "used_by": ["user_tower"]},
)


def plain(column: pd.Series) -> list[list[Any] | None]:
    """The lists of a frame's column, None where a list or an element of it is missing."""
    lists = [one.tolist() if hasattr(one, "tolist") else None for one in column]
    return [None if one is None else [None if each != each else each for each in one] for one in lists]


def test_texts_are_cut_into_lists_that_keep_in_step(tmp_path: Path) -> None:
    columns = {"met": ["a| b", "a||c", "", None], "stars": ["1|0.5", "2| |-1", " ", None]}
    cut = {name: {"column": name, "separator": "|"} for name in columns}
    features = [feature("user_id", "sparse"), feature("item_id", "sparse"), MET, STARS]

    rows, _ = read_table(tmp_path, columns, {"lists": cut}, features=features)

    assert plain(rows["met"]) == [["a", "b"], ["a", None, "c"], [], None]
    assert plain(rows["stars"]) == [[1, 0.5], [2, None, -1], [], None]


def test_ids_that_stand_for_nothing_known_keep_their_places_in_a_group(tmp_path: Path) -> None:
    columns = {"met": [["a", "?"], ["?"], ["b"], []], "stars": [[1.0, 2.0], [3.0], [-1.0], []]}
    features = [feature("user_id", "sparse"), feature("item_id", "sparse"), MET, STARS]

    rows, _ = read_table(tmp_path, columns, {"missing": {"met": ["?"], "stars": [-1]}}, features=features)

    assert plain(rows["met"]) == [["a", None], [None], ["b"], []]
    assert plain(rows["stars"]) == [[1, 2], [3], [None], []]


def test_words_stand_beside_no_list(tmp_path: Path) -> None:
    features = [feature("user_id", "sparse"), feature("item_id", "sparse"), MET, STARS]

    with pytest.raises(UsageError, match="words: `met` is not a feature of kind sparse_list that stands beside no oth"):
        read_table(tmp_path, {"met": ["a b"] * 4}, {"words": {"met": "met"}}, features=features)
