"""A user's own files, from a schema file alone."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.datasets.database import temporary_database
from recsys.datasets.staging import stage
from recsys.datasets.table import TableSource
from recsys.datasets.table_layout import TableLayout, load_table_layout
from recsys.errors import DataError, UsageError
from recsys.features.schema import FeatureSchema, load_schema
from recsys.progress import silent

ROOT = Path(__file__).parents[2]

COLUMNS: dict[str, Any] = {
    "user": [1, 1, 2, 2],
    "film": ["m1", "m2", "m1", "m3"],
    "stars": [5.0, 3.0, 4.0, 1.0],
    "age": [24, 24, 25, 25],
    "title": ["The Mug, again", "Lamp", "The Mug, again", ""],
    "kinds": ["a|b", "b", "a|b", ""],
    "when": [0, 86_400, 172_800, 259_200],
    "fold": ["t", "t", "v", "x"],
}


def document(**changes: Any) -> dict[str, Any]:
    """A schema file's content; `changes` replace keys of its `table:` block, None removes one."""
    both = ["interaction_network"]
    table: dict[str, Any] = {
        "files": "*.parquet",
        "columns": {"user_id": "user", "item_id": "film"},
        "label": "stars > 3",
        "time": {"column": "when", "unit": "seconds"},
        "segment": {"column": "age", "bins": [25]},
        "lists": {"kinds": {"column": "kinds", "separator": "|"}},
        "words": {"words": "title"},
        "splits": {"column": "fold", "train": "t", "validation": "v", "test": ["x", "y"]},
    }
    table.update(changes)
    return {
        "name": "films",
        "segment": "segment",
        "segments": ["young", "old"],
        "label": "label",
        "time": "time",
        "user": "user_id",
        "item": "item_id",
        "features": [
            {"name": "user_id", "kind": "sparse", "used_by": both},
            {"name": "item_id", "kind": "sparse", "used_by": both},
            {"name": "kinds", "kind": "sparse_list", "max_length": 3, "used_by": both},
            {"name": "words", "kind": "sparse_list", "max_length": 3, "used_by": both},
            {"name": "age", "kind": "dense", "used_by": both},
        ],
        "table": {key: value for key, value in table.items() if value is not None},
    }


def read(folder: Path, content: dict[str, Any]) -> pd.DataFrame:
    """The rows as `encode` would see them, in time order."""
    path = folder / "schema.yaml"
    # Every JSON text is YAML.
    path.write_text(json.dumps(content), encoding="utf-8")
    schema = load_schema(path)
    layout = load_table_layout(path, schema)
    with temporary_database(folder, "500MB", 1) as connection:
        rows = stage(connection, TableSource(folder, layout).read(connection, schema, silent), schema).table
        return connection.con.sql(connection.compile(rows)).df().sort_values("time", ignore_index=True)


@pytest.fixture
def films(tmp_path: Path) -> Path:
    pq.write_table(pa.table(COLUMNS), tmp_path / "films.parquet")
    return tmp_path


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    columns = dict(COLUMNS)
    edit(columns)
    pq.write_table(pa.table(columns), folder / "films.parquet")


def test_columns_take_the_schemas_names_and_meanings(films: Path) -> None:
    rows = read(films, document())

    assert rows["label"].tolist() == [1, 0, 1, 0]
    assert rows["segment"].tolist() == ["young", "young", "old", "old"]
    assert rows["split"].tolist() == ["train", "train", "validation", "test"]
    assert rows["kinds"].map(list).tolist() == [["a", "b"], ["b"], ["a", "b"], []]
    assert rows["words"].map(list).tolist() == [["the", "mug", "again"], ["lamp"], ["the", "mug", "again"], []]
    assert rows["time"].tolist() == [pd.Timestamp("1970-01-01") + pd.Timedelta(days=day) for day in range(4)]
    assert rows["user_key"].tolist() == [1, 1, 2, 2]


def test_csv_files_read_like_parquet_files(films: Path, tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    pd.DataFrame(COLUMNS).to_csv(tmp_path / "csv" / "films.csv", index=False)

    csv = read(tmp_path / "csv", document(files="*.csv")).astype({"words": str, "kinds": str})
    parquet = read(films, document()).astype({"words": str, "kinds": str})
    # CSV does not tell an empty text from none, so the last row's lists are unknown rather than empty.
    pd.testing.assert_frame_equal(csv[:3], parquet[:3])


def test_large_strings_dictionaries_and_list_columns_are_read(films: Path) -> None:
    kinds = pa.array([["a", "b"], ["b"], ["a", "b"], []], pa.large_list(pa.large_string()))
    film = pa.array(COLUMNS["film"], pa.large_string()).dictionary_encode()
    change(films, lambda columns: columns.update(kinds=kinds, film=film))

    rows = read(films, document(lists=None))
    assert rows["item_id"].tolist() == ["m1", "m2", "m1", "m3"]
    assert rows["kinds"].map(list).tolist() == [["a", "b"], ["b"], ["a", "b"], []]


def test_string_users_get_one_key_each(films: Path) -> None:
    change(films, lambda columns: columns.update(user=["ann", "ann", "bob", "bob"]))
    keys = read(films, document())["user_key"].tolist()

    assert keys[0] == keys[1] != keys[2] == keys[3]
    assert min(keys) >= 0


@pytest.mark.parametrize(
    ("unit", "values"),
    [
        ("ms", [0, 86_400_000, 172_800_000, 259_200_000]),
        ("us", [0, 86_400_000_000, 172_800_000_000, 259_200_000_000]),
        ("timestamp", pd.to_datetime([0, 1, 2, 3], unit="D")),
        # Midnight in UTC is two in the morning in Kyiv: the day is UTC's.
        ("timestamp", pd.to_datetime([0, 1, 2, 3], unit="D", utc=True).tz_convert("Europe/Kyiv")),
        ("seconds", [0.0, 86_400.0, 172_800.0, 259_200.0]),
    ],
)
def test_every_unit_of_time_means_the_same_days(films: Path, unit: str, values: Any) -> None:
    change(films, lambda columns: columns.update(when=pa.array(values)))
    days = read(films, document(time={"column": "when", "unit": unit}))["day"]

    assert days.tolist() == [pd.Timestamp("1970-01-01") + pd.Timedelta(days=day) for day in range(4)]


def test_splits_by_time_are_half_open_and_what_lies_outside_is_counted(films: Path) -> None:
    # Two rows of the first day, with both labels.
    change(films, lambda c: c.update({name: [values[0], *values] for name, values in c.items()}, stars=[1, 5, 3, 4, 1]))
    splits = {"validation_start": "1970-01-02", "test_start": "1970-01-03", "test_end": "1970-01-04"}
    assert read(films, document(splits=splits))["split"].tolist() == ["train", "train", "validation", "test"]

    schema_path = films / "schema.yaml"
    schema = load_schema(schema_path)
    with temporary_database(films, "500MB", 1) as connection:
        source = TableSource(films, load_table_layout(schema_path, schema)).read(connection, schema, silent)
    assert source.counts == {"rows outside every split": 1}


def test_splits_by_files(films: Path) -> None:
    for number, name in enumerate(("a", "b", "c")):
        pq.write_table(pa.table({**COLUMNS, "when": [number] * 4}), films / f"{name}.parquet")
    by_file = {"train": "a.parquet", "validation": "b.parquet", "test": ["c.parquet"]}

    rows = read(films, document(files=by_file, splits=None))
    assert rows["split"].value_counts().to_dict() == {"train": 4, "validation": 4, "test": 4}


def test_segments_by_name_of_the_raw_value(films: Path) -> None:
    named = {"column": "age", "names": {24: "old", 25: "young"}}
    assert read(films, document(segment=named))["segment"].tolist() == ["old", "old", "young", "young"]


def test_a_label_may_be_a_word_or_a_column_of_its_own(films: Path) -> None:
    assert read(films, document(label="film == 'm1'"))["label"].tolist() == [1, 0, 1, 0]
    change(films, lambda columns: columns.update(clicked=[0, 1, 1, 0]))
    assert read(films, document(label="clicked"))["label"].tolist() == [0, 1, 1, 0]


def test_a_rule_is_never_run_as_sql(films: Path) -> None:
    for rule in ("stars > 3; DROP TABLE x", "1=1 OR stars > (SELECT 1)", '"stars" UNION SELECT 1'):
        with pytest.raises(DataError, match="column"):
            read(films, document(label=rule))


def test_train_only_history_knows_no_label_outside_train(films: Path) -> None:
    def with_history(scope: str) -> list[float]:
        content = document(
            history={
                "scope": scope,
                "features": {"film_mean": {"kind": "mean", "of": "stars", "by": ["film"], "prior_rows": 0}},
            }
        )
        feature = {"name": "film_mean", "kind": "dense", "fill": -1, "used_by": ["interaction_network"]}
        content["features"].append(feature)
        return read(films, content)["film_mean"].fillna(-1).tolist()

    change(films, lambda columns: columns.update(film=["m1"] * 4, stars=[5.0, 3.0, 1.0, 1.0]))
    assert with_history("train_only") == [-1, 5.0, 4.0, 4.0]
    assert with_history("live") == [-1, 5.0, 4.0, 3.0]


def test_with_folds_a_row_outside_train_sees_all_training_rows_whatever_the_time(films: Path) -> None:
    counting = {"kind": "mean", "of": "stars", "by": ["film"], "prior_rows": 0, "folds": 2}
    content = document(history={"scope": "train_only", "features": {"film_mean": counting}})
    feature = {"name": "film_mean", "kind": "dense", "fill": -1, "used_by": ["interaction_network"]}
    content["features"].append(feature)
    change(films, lambda columns: columns.update(film=["m1"] * 4, stars=[5.0, 3.0, 1.0, 1.0]))

    assert read(films, content)["film_mean"].tolist()[2:] == [4.0, 4.0]


@pytest.mark.parametrize(
    ("scope", "entry", "message"),
    [
        ("train_only", {"by": ["film"], "folds": 1}, "`folds` is 1; expected a whole number from 2 up"),
        ("train_only", {"by": ["film"], "folds": 2.5}, "`folds` is 2.5; expected a whole number from 2 up"),
        ("live", {"by": ["film"], "folds": 5}, "of scope live; expected train_only.*lie in its future"),
        ("train_only", {"by": ["user_id"], "folds": 5}, "by names `user_id`.*would count nothing"),
    ],
)
def test_folds_that_would_leak_or_count_nothing_are_refused(
    films: Path, scope: str, entry: dict[str, Any], message: str
) -> None:
    content = document(history={"scope": scope, "features": {"film_rows": {"kind": "count", **entry}}})
    content["features"].append({"name": "film_rows", "kind": "dense", "used_by": ["interaction_network"]})
    with pytest.raises(UsageError, match=message):
        read(films, content)


def test_a_value_that_stands_for_missing_becomes_null(films: Path) -> None:
    ages = read(films, {**document(missing={"age": 24}), "features": _with_fill(document()["features"])})["age"]
    assert ages.isna().tolist() == [True, True, False, False]


def _with_fill(features: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**feature, "fill": 0} if feature["name"] == "age" else feature for feature in features]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(FILM=c.pop("film")), r"column `film` is missing.*found .*Did you mean `FILM`\?"),
        (lambda c: c.pop("stars"), r"films.parquet: column `stars` is missing, which is to be the label"),
        (lambda c: c.update(stars=["5", "3", "4", "1"]), r"`stars` has type string, which cannot hold .* 3"),
        (
            lambda c: c.update(stars=[5.0, float("nan"), 4.0, 1.0]),
            r"`label` \(`stars` in the files\) holds no value .*1 of 4 rows",
        ),
        (
            lambda c: c.update(user=[1.5, 1.0, 2.0, 2.0]),
            r"`user_id` \(`user` in the files\) has type float64",
        ),
        (lambda c: c.update(age=[24, None, 25, 25]), r"`segment` \(`age` in the files\) holds no value .*1 of 4 rows"),
        (lambda c: c.update(when=["x"] * 4), r"time column `when` has type string; expected numbers"),
        (lambda c: c.update(when=[0, None, 1, 2]), r"`time` \(`when` in the files\) holds no value .*1 of 4 rows"),
        (lambda c: c.update(title=[1, 2, 3, 4]), r"column `title` has type int64; expected text"),
    ],
)
def test_bad_columns_are_refused_with_what_was_found(
    films: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    change(films, edit)
    with pytest.raises(DataError, match=message):
        read(films, document())


def test_training_rows_of_one_label_alone_are_refused(films: Path) -> None:
    with pytest.raises(DataError, match=r"`label` \(`stars` in the files\) is 0 in all 2 training rows; expected both"):
        read(films, document(label="stars > 5"))


def test_a_row_without_a_time_is_refused_and_not_counted_as_outside_every_split(films: Path) -> None:
    change(films, lambda c: c.update(when=[0, None, 86_400, 172_800]))
    splits = {"validation_start": "1970-01-02", "test_start": "1970-01-03"}
    with pytest.raises(DataError, match=r"`when` in the files\) holds no value .* in 1 of 4 rows; expected a time"):
        read(films, document(splits=splits))


def test_a_label_outside_zero_and_one_is_refused(films: Path) -> None:
    with pytest.raises(DataError, match=r"`label` \(`stars` in the files\) holds [345].0 in 3 of 4 rows"):
        read(films, document(label="stars"))


def test_a_segment_without_a_name_is_refused_with_its_value(films: Path) -> None:
    with pytest.raises(DataError, match=r"`age` in the files\) holds '25' in 2 of 4 rows; expected one of young"):
        read(films, document(segment={"column": "age", "names": {24: "old"}}))


def test_an_absent_an_empty_and_a_torn_file_are_refused_by_name(films: Path) -> None:
    with pytest.raises(DataError, match=r"other.parquet: no such file .*films.parquet"):
        read(films, document(files="other.parquet"))
    (films / "films.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"films.parquet is empty \(0 bytes\)"):
        read(films, document())
    (films / "films.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match=r"films.parquet cannot be read as Parquet"):
        read(films, document())


def test_a_file_without_rows_is_refused(films: Path) -> None:
    pq.write_table(pa.table(COLUMNS).slice(0, 0), films / "films.parquet")
    with pytest.raises(DataError, match="0 rows for split `train`"):
        read(films, document())


def test_a_second_file_of_another_type_is_refused_by_file_and_column(films: Path) -> None:
    narrow = pa.table(COLUMNS)
    column = narrow.column_names.index("age")
    pq.write_table(narrow.set_column(column, "age", narrow["age"].cast(pa.int32())), films / "more.parquet")
    with pytest.raises(DataError, match=r"more.parquet: column `age` is int32; expected int64, as in .*films.parquet"):
        read(films, document())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": "x"},
            r"schema.yaml, line 1, `table`: unknown key `labels` \(did you mean `label`\?\); expected some",
        ),
        ({"label": None}, "has no `label`, so every event is a positive, and no `negatives`"),
        ({"files": "../x.parquet"}, r"'../x.parquet'; expected a path below the raw folder"),
        ({"files": {"train": "a"}}, r"names the splits \['train'\]; expected train, validation, test"),
        ({"splits": None}, "exactly one of the two must do it"),
        ({"time": {"column": "when", "unit": "hours"}}, "`unit` is 'hours'; expected one of timestamp, seconds"),
        ({"segment": {"column": "age", "bins": [30, 25]}}, "expected 1 rising numbers"),
        ({"segment": {"column": "age", "names": {1: "baby"}}}, "leads to `baby`; expected one of young, old"),
        ({"splits": {"validation_start": "2011-07-01", "test_start": "2011-06-01"}}, "must rise"),
        ({"splits": {"validation_start": "soon", "test_start": "2011-06-01"}}, "'soon'; expected a UTC date"),
        ({"history": {"scope": "all", "features": {}}}, "`scope` is 'all'; expected one of live, train_only"),
        (
            {"history": {"scope": "live", "features": {"age": {"kind": "mean", "by": ["user_id"]}}}},
            "the key `of` is missing",
        ),
        (
            {"history": {"scope": "live", "features": {"new": {"kind": "count", "by": ["user_id"]}}}},
            "declares no feature of this name",
        ),
    ],
)
def test_a_block_that_cannot_be_meant_is_refused_by_key(films: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(films, document(**changes))


def test_a_layout_made_in_python_is_that_of_the_file_and_its_text_declares_it_again(tmp_path: Path) -> None:
    content = document(splits={"validation_start": datetime.date(1970, 1, 2), "test_start": "1970-01-03T12:00"})
    schema = FeatureSchema.from_document(content)
    made = TableLayout.from_document(content, schema)
    path = tmp_path / "schema.yaml"
    path.write_text(made.text, encoding="utf-8")

    assert load_schema(path) == schema
    assert load_table_layout(path, schema) == made
    assert made.splits is not None
    assert made.splits.validation_start == datetime.datetime(1970, 1, 2)
    with pytest.raises(UsageError, match=r"^clicks, `table`: unknown key `labels` \(did you mean `label`\?\)"):
        TableLayout.from_document(document(labels="x"), schema, "clicks")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": "when"}, "`table`.time is 'when'; expected keys such as `column:` and `unit:`"),
        ({"columns": ["user"]}, r"`table`.columns is \['user'\]; expected keys with values"),
        ({"columns": {"user_id": 3}}, "`table`.columns: `user_id` is 3; expected text"),
        ({"label": 3}, "`table`: `label` is 3; expected text such as"),
        ({"files": {}}, r"`table`.files: names the splits \[\]; expected train, validation, test"),
        ({"files": [3]}, r"`table`.files: holds \[3\]; expected a path, a pattern"),
        ({"lists": {"kinds": {"column": "kinds"}}}, "`table`.lists.kinds: the key `separator` is missing"),
        ({"segment": {"column": "age", "bins": "25"}}, "`table`.segment: `bins` is '25'; expected a list of rising"),
        ({"segment": {"column": "age", "bins": [True]}}, r"`bins` is \[True\]; expected a list of rising numbers"),
        ({"segment": {"column": "age", "bins": []}}, r"segment: `bins` is \[\]; expected 1 rising numbers"),
        ({"segment": {"column": "age", "names": {24: 1}}}, "`table`.segment.names: `24` is 1; expected text"),
        ({"segment": {"column": "age", "bins": [25], "names": {1: "old"}}}, "both `bins` and `names`; expected one"),
        ({"splits": {"column": "fold", "train": "t", "validation": "t", "test": "x"}}, "'t' stands in two splits"),
        ({"splits": {"column": "fold", "train": [["t"]], "validation": "v", "test": "x"}}, "`train` is .*a value of"),
        ({"history": {"scope": "live"}}, "`table`.history: the key `features` is missing"),
        (
            {"history": {"scope": "live", "features": {"age": {"kind": "median"}}}},
            r"`kind` is 'median' .did you mean `mean`.*; expected one of count, sum, mean",
        ),
    ],
)
def test_a_value_of_another_form_is_refused_by_its_place(films: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(films, document(**changes))


@pytest.mark.parametrize("key", ["splits", "columns", "csv", "history", "missing", "label"])
def test_a_key_that_was_left_empty_is_refused(films: Path, key: str) -> None:
    content = document()
    content["table"][key] = None
    with pytest.raises(UsageError, match=f"`table`.*{key}.* is None; expected"):
        read(films, content)


def test_a_schema_file_without_the_block_is_refused(films: Path) -> None:
    content = document()
    del content["table"]
    with pytest.raises(UsageError, match=r"the block is missing.*recsys init"):
        read(films, content)


def test_movielens_100k_is_read_as_its_protocol_says(ml_100k_folder: Path, tmp_path: Path) -> None:
    path = ROOT / "data" / "schemas" / "ml_100k.yaml"
    schema = load_schema(path)
    with temporary_database(tmp_path, "1GB", 2) as connection:
        source = TableSource(ml_100k_folder, load_table_layout(path, schema))
        rows = stage(connection, source.read(connection, schema, silent), schema).table
        frame = connection.con.sql(connection.compile(rows)).df()

    assert frame["split"].value_counts().to_dict() == {"train": 80_000, "validation": 10_000, "test": 10_000}
    test = frame[frame["split"] == "test"]
    assert test["label"].mean() == pytest.approx(0.5629)
    assert test["segment"].value_counts().to_dict() == {"under_25": 1417, "25_34": 4270, "35_plus": 4313}
    unseen = ~test["user_id"].isin(frame[frame["split"] == "train"]["user_id"])
    assert unseen.sum() == 8582
    assert (test[unseen]["user_rows"] == 0).all(), "train-only: an unseen user has no past"
    train = frame[frame["split"] == "train"]
    in_train = train["item_id"].value_counts()
    assert (test["item_rows"] == test["item_id"].map(in_train).fillna(0)).all(), "all training rows, no later one"
    assert (train["item_rows"] < train["item_id"].map(in_train)).all(), "no training row counts itself"


@pytest.mark.parametrize(
    "name", ["ml_100k", "ml_100k_history", "ml_100k_live", "ml_100k_live_history", "ml_100k_random"]
)
def test_every_committed_table_block_parses(name: str) -> None:
    path = ROOT / "data" / "schemas" / f"{name}.yaml"
    assert load_table_layout(path, load_schema(path)).history.scope == ("live" if "live" in name else "train_only")
