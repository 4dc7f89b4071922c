"""Numbers and weights beside which nothing else counts are refused before anything is trained on them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recsys.datasets.encode import encode
from recsys.datasets.encoded import open_encoded
from recsys.errors import DataError
from recsys.features.account import Account
from recsys.features.contract import FeatureContract
from recsys.features.encoding import encode_feature
from recsys.features.schema import FeatureSchema
from tests.worlds import MadeSource, world_rows, world_schema

ROWS = world_rows({"train": 2, "validation": 1, "test": 1}, rows_per_day=100, seed=0)
FIRST = {"train": 0, "validation": 200, "test": 300}


def encoded(folder: Path, column: str, values: Any, **schema: Any) -> FeatureContract:
    """Encode the rows with a column of other values; `schema` changes keys of the schema or of the price."""
    document = {key: value for key, value in world_schema().to_document().items() if value is not None}
    price = {key: schema.pop(key) for key in ("scale", "maximum") if key in schema}
    for feature in document["features"]:
        if feature["name"] == "price":
            feature |= {"scale": "standard", **price}
    place = ROWS.schema.get_field_index(column)
    column_of = pa.array(values)
    rows = ROWS.append_column(column, column_of) if place < 0 else ROWS.set_column(place, column, column_of)
    source = MadeSource(rows, (), {"files": {"clicks.parquet": "sha256:1"}})
    declared = FeatureSchema.from_document({**document, **schema})
    return encode(source, declared, folder / "encoded", memory_limit="200MB", threads=1)


def prices(split: str, value: float) -> list[float]:
    values = ROWS["price"].to_pylist()
    values[FIRST[split]] = value
    return values


@pytest.mark.parametrize("value", [1e38, 1e300, 1e9])
def test_a_price_beside_which_all_others_are_one_is_refused_with_its_row(tmp_path: Path, value: float) -> None:
    with pytest.raises(DataError) as raised:
        encoded(tmp_path, "price", prices("train", value))

    message = str(raised.value)
    assert f"Column `price` holds {value:.6g} (a row of split `train`, user_id {ROWS['user_id'][0]}" in message
    assert "eight tenths of the training values lie between 0." in message
    assert "`maximum:`" in message
    assert "`invalid: {price: clip}`" in message
    assert not (tmp_path / "encoded").exists()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_price_that_is_far_from_every_training_price_is_refused_in_any_split(tmp_path: Path, split: str) -> None:
    with pytest.raises(
        DataError, match=rf"`price` holds 1e\+38 \(a row of split `{split}`.*expected at most 1,000,000"
    ):
        encoded(tmp_path, "price", prices(split, 1e38))


def test_a_number_of_which_no_difference_is_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"`price` holds 1.7e\+308 in 1 of 400 rows; expected .* at most 1e\+300 in size"
    ):
        encoded(tmp_path, "price", prices("train", 1.7e308))


@pytest.mark.parametrize("value", [1e30, 1e39])
def test_a_number_that_is_not_scaled_must_be_of_a_size_to_learn_from(tmp_path: Path, value: float) -> None:
    with pytest.raises(DataError, match=r"`price` holds 1e\+3[09] .* as it stands .*expected at most 1,000,000"):
        encoded(tmp_path, "price", prices("train", value), scale="none")


def test_what_is_declared_for_such_values_lets_the_others_be_told_apart(tmp_path: Path) -> None:
    clipped = encoded(tmp_path / "clip", "price", prices("train", 1e38), maximum=20, invalid={"price": "clip"})
    assert clipped.scaling["price"].spread < 20
    logs = encoded(tmp_path / "log", "price", prices("train", 1e38), scale="log")
    assert logs.scaling["price"].spread == pytest.approx(np.log1p([*prices("train", 1e38)[:200]]).std(), rel=1e-6)
    dropped = encoded(
        tmp_path / "drop", "price", prices("train", 1e38), maximum=20, invalid={"price": "drop"}, most_dropped=0.01
    )
    assert dropped.scaling["price"].spread < 20


def test_a_long_tail_of_values_that_are_meant_is_no_slip(tmp_path: Path) -> None:
    tail = np.random.default_rng(0).lognormal(0, 3, len(ROWS))
    assert encoded(tmp_path, "price", tail).scaling["price"].spread == pytest.approx(tail[:200].std(), rel=1e-6)


def test_a_feature_that_is_mostly_one_number_may_have_any_others(tmp_path: Path) -> None:
    rare = [0.0] * len(ROWS)
    rare[3] = 1e5
    assert encoded(tmp_path, "price", rare).scaling["price"].spread == pytest.approx(np.std(rare[:200]), rel=1e-6)


def test_a_served_model_refuses_what_the_preparation_refuses(tmp_path: Path) -> None:
    contract = encoded(tmp_path, "price", ROWS["price"].to_pylist())
    price = contract.schema.feature("price")
    vocabularies = {table: open_encoded(tmp_path / "encoded").vocabulary(table) for table in contract.table_rows}
    with pytest.raises(
        DataError, match=r"`price` holds 1e\+38 in 1 of 2 rows; expected a number that is at most 1,000,"
    ):
        encode_feature(pa.array([1.0, 1e38]), price, contract, vocabularies, Account("", {}, 2))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_whose_weights_are_all_zero_is_refused_by_name(tmp_path: Path, split: str) -> None:
    weights = [float(name != split) for name in ROWS["split"].to_pylist()]
    with pytest.raises(DataError, match=rf"the weight `weight` is 0 in all \d+ rows of split `{split}`"):
        encoded(tmp_path, "weight", weights, weight="weight")


@pytest.mark.parametrize(
    ("first", "others", "message"),
    [
        (1e30, 1.0, r"`weight` is 1e\+30 in a row of split `train`, whose weights are mostly about 1;"),
        (1e38, 1e38, r"`weight` holds 1e\+38 in 400 of 400 rows; expected a weight of 0, or from 1e-30 to 1e\+30"),
        (1e-40, 1e-40, r"`weight` holds 1e-40 in 400 of 400 rows; expected a weight of 0, or from 1e-30"),
        (-1.0, 1.0, r"`weight` holds -1.0 in 1 of 400 rows; expected a finite weight of at least 0"),
        (float("nan"), 1.0, r"`weight` holds no value .* in 1 of 400 rows"),
        (float("inf"), 1.0, r"`weight` holds no value .* in 1 of 400 rows"),
    ],
)
def test_a_weight_that_no_sum_bears_is_refused(tmp_path: Path, first: float, others: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encoded(tmp_path, "weight", [first, *[others] * 399], weight="weight")


def test_rows_of_weight_zero_among_others_are_kept(tmp_path: Path) -> None:
    weights = [float(number % 2) for number in range(len(ROWS))]
    assert encoded(tmp_path, "weight", weights, weight="weight").schema.weight == "weight"


def test_a_narrow_number_on_the_edge_of_its_range_lies_in_it(tmp_path: Path) -> None:
    values = pa.array([0.7] * len(ROWS), pa.float32())
    assert encoded(tmp_path, "price", values, maximum=0.7).scaling["price"].spread == 1
