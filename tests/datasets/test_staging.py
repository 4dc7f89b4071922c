"""Rows that break their schema stop before anything is fitted, with a message that says how to mend them."""

import re

import pyarrow as pa
import pytest

from recsys.datasets.encode import encode
from recsys.errors import DataError, UsageError
from tests.worlds import MadeSource, world_rows, world_schema

ROWS = world_rows({"train": 1, "validation": 1}, rows_per_day=20, seed=0)
NOTHING = "no value (null, NaN or infinity)"


def refusal(tmp_path, rows: pa.Table, extras: tuple[str, ...] = ()) -> str:
    source = MadeSource(rows, extras, {"files": {"clicks.parquet": "sha256:1"}})
    with pytest.raises(DataError) as raised:
        encode(source, world_schema(), tmp_path / "encoded", memory_limit="200MB", threads=1)
    assert not list(tmp_path.iterdir())
    assert raised.value.exit_code == 65
    return str(raised.value)


def changed(name: str, value: object, form: pa.DataType | None = None) -> pa.Table:
    """The rows with one value of one column changed."""
    values = [value, *ROWS[name].to_pylist()[1:]]
    place = ROWS.schema.get_field_index(name)
    return ROWS.set_column(place, name, pa.array(values, form or ROWS.schema.field(name).type, from_pandas=False))


def test_a_missing_column_is_named_with_the_columns_that_were_found(tmp_path):
    message = refusal(tmp_path, ROWS.drop_columns("country"))

    assert "clicks.parquet" in message
    assert "column `country` is missing" in message
    assert "found the columns user_id, item_id" in message


def test_a_renamed_column_is_recognised(tmp_path):
    message = refusal(tmp_path, ROWS.rename_columns({"user_id": "User ID"}))

    assert "column `user_id` is missing (did you mean `User ID`?)" in message


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("price", ["cheap"] * 40, "column `price` has type string; expected a number"),
        ("item_id", [1.5] * 40, "column `item_id` has type float64; expected a string or integer id"),
        ("recent_item_ids", ["a,b"] * 40, "column `recent_item_ids` has type string; expected an array"),
        ("clicked_at", [1] * 40, "column `clicked_at` has type int64; expected a timestamp"),
        ("day", ["2011-06-28"] * 40, "column `day` has type string; expected a date"),
        ("activity", [1] * 40, "column `activity` has type int64; expected a string"),
    ],
)
def test_a_wrong_type_is_named_with_the_one_expected(tmp_path, column, values, expected):
    rows = ROWS.set_column(ROWS.schema.get_field_index(column), column, pa.array(values))

    assert expected in refusal(tmp_path, rows)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("clicked", 2, "column `clicked` holds 2.0 in 1 of 40 rows; expected a label of 0 or 1"),
        ("clicked", None, f"column `clicked` holds {NOTHING} in 1 of 40 rows; expected a label of 0 or 1"),
        ("activity", "sleepy", "column `activity` holds 'sleepy' in 1 of 40 rows; expected one of new, light, heavy"),
        ("price", None, f"column `price` holds {NOTHING} in 1 of 40 rows; expected a finite number in every row"),
        (
            "price",
            float("nan"),
            f"column `price` holds {NOTHING} in 1 of 40 rows; expected a finite number in every row",
        ),
        (
            "price",
            float("inf"),
            f"column `price` holds {NOTHING} in 1 of 40 rows; expected a finite number in every row",
        ),
        ("price", -0.5, "column `price` holds -0.5 in 1 of 40 rows; expected a number in [0"),
        ("clicked_at", None, f"column `clicked_at` holds {NOTHING} in 1 of 40 rows; expected a time in every row"),
        ("split", "../up", "column `split` holds '../up' in 1 of 40 rows; expected a name like"),
    ],
)
def test_a_value_that_the_schema_forbids_is_shown_and_counted(tmp_path, column, value, expected):
    assert expected in refusal(tmp_path, changed(column, value))


def test_a_day_that_is_not_the_utc_day_of_the_time_is_refused(tmp_path):
    message = refusal(tmp_path, changed("day", ROWS["day"][-1].as_py()))

    assert "column `day` holds datetime.date(2011, 6, 29) in 1 of 40 rows; expected the UTC day" in message


def test_an_extra_must_be_known_and_present_in_every_row(tmp_path):
    assert "`mood` has no meaning" in refusal(tmp_path, ROWS, extras=("mood",))
    message = refusal(tmp_path, changed("user_key", None), ("user_key",))
    assert f"column `user_key` holds {NOTHING} in 1 of 40 rows" in message


def test_zero_training_rows_are_refused_with_the_rows_of_every_split(tmp_path):
    rows = ROWS.set_column(ROWS.schema.get_field_index("split"), "split", pa.array(["test"] * 40))

    assert "0 rows for split `train` (rows by split: test 40)" in refusal(tmp_path, rows)
    assert "0 rows for split `train` (rows by split: none)" in refusal(tmp_path, ROWS.slice(0, 0))


def test_a_table_shared_by_strings_and_integers_is_refused(tmp_path):
    lists = pa.array([[1, 2]] * 40)
    rows = ROWS.set_column(ROWS.schema.get_field_index("recent_item_ids"), "recent_item_ids", lists)

    message = refusal(tmp_path, rows)

    assert re.search(r"`item_id` \(string\), `recent_item_ids` \(int64\) share the embedding table `item_id`", message)


def test_times_of_another_zone_are_partitioned_by_their_utc_day(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    late = ROWS["clicked_at"].combine_chunks().cast(pa.timestamp("us", "Asia/Tokyo"))
    rows = ROWS.set_column(ROWS.schema.get_field_index("clicked_at"), "clicked_at", late)

    encode(MadeSource(rows), world_schema(), tmp_path / "encoded", memory_limit="200MB", threads=1)

    assert (tmp_path / "encoded" / "split=train" / "day=2011-06-28").is_dir()


def test_column_names_in_any_script_are_kept(tmp_path):
    schema = world_schema().to_document()
    names = {"price": 'prix "€" é', "country": "国/🌍"}
    for feature in schema["features"]:
        feature["name"] = names.get(feature["name"], feature["name"])
        if feature.get("table") in names:
            feature["table"] = "country"
    document = type(world_schema()).from_document({k: v for k, v in schema.items() if v is not None})

    contract = encode(MadeSource(ROWS.rename_columns(names)), document, tmp_path / "e", memory_limit="200MB", threads=1)

    assert 'prix "€" é' in contract.scaling
    assert [feature.name for feature in contract.schema.sparse] == ["user_id", "item_id", "国/🌍", "recent_item_ids"]


@pytest.mark.parametrize(("limit", "threads"), [("2 bananas", 1), ("200MB", 0)])
def test_a_memory_limit_or_thread_count_that_cannot_be_is_refused(tmp_path, limit, threads):
    with pytest.raises(UsageError, match="memory_limit"):
        encode(MadeSource(ROWS), world_schema(), tmp_path / "e", memory_limit=limit, threads=threads)


def test_work_that_cannot_fit_names_the_memory_limit(tmp_path):
    with pytest.raises(UsageError, match="needs more than memory_limit 1MB"):
        encode(MadeSource(ROWS), world_schema(), tmp_path / "e", memory_limit="1MB", threads=1)
    assert not list(tmp_path.iterdir())
