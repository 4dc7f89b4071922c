"""What a schema says becomes of invalid values, in prepared rows and in raw ones, counted and within its cap."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys.errors import DataError
from recsys.features.contract import FeatureContract, Scaling
from recsys.features.schema import FeatureSchema
from recsys.streaming.checks import encoded_bounds
from recsys.streaming.loader import BatchStream
from tests.streaming.raw import COLUMNS, raw_contract, raw_stream, values_of, write_raw
from tests.streaming.rows import CONTRACT, keys, write_column, write_layout


def contract_with(features: dict[str, dict[str, Any]] | None = None, **changed: Any) -> FeatureContract:
    """The contract of rows written by hand with some keys of its schema, and of its features, changed."""
    document = CONTRACT.schema.to_document()
    for feature in document["features"]:
        feature.update((features or {}).get(feature["name"], {}))
    schema = FeatureSchema.from_document({**document, **changed})
    scaling = {"price": Scaling(2.0, 0.5)}
    return FeatureContract(schema, CONTRACT.table_rows, {}, scaling, CONTRACT.extras)


def stream_of(root, contract: FeatureContract, **changed: Any) -> BatchStream:
    settings: dict[str, Any] = {
        "batch_size": 3, "seed": 7, "shuffle": False, "shuffle_buffer_rows": 16, "decode_threads": 0,
        "extras": ("user_key",), "device": torch.device("cpu"), **changed,
    }  # fmt: skip
    return BatchStream(root, "train", contract, **settings)


def ids(*values: int | None) -> pa.Array:
    return pa.array(values, pa.int32())


def test_an_id_outside_its_table_becomes_the_unknown_row_where_that_is_declared(tmp_path):
    write_column(tmp_path, {"item_id": ids(1, 8, 3, -1, None, 7)})
    stream = stream_of(tmp_path, contract_with(invalid={"item_id": "unknown"}), batch_size=6)

    (batch,) = stream

    assert batch.sparse.to_dict()["item_id"].values().tolist() == [1, 0, 3, 0, 0, 7]
    assert stream.counts == {"ids invalid: item_id": 3}


def test_a_list_is_cut_to_its_last_ids_where_clip_is_declared(tmp_path):
    lists = pa.array([[1], [1, 2, 3, 4, 5], [], [6, 7, 1, 2], [3], []], pa.list_(pa.int32()))
    write_column(tmp_path, {"recent": lists})
    stream = stream_of(tmp_path, contract_with(invalid={"recent": "clip"}), batch_size=6)

    (batch,) = stream

    recent = batch.sparse.to_dict()["recent"]
    assert recent.lengths().tolist() == [1, 3, 0, 3, 1, 0]
    assert recent.values().tolist() == [1, 3, 4, 5, 7, 1, 2, 3]
    assert stream.counts == {"values clipped: recent": 2}


def test_an_impossible_id_in_a_list_becomes_the_unknown_row_and_a_missing_list_is_empty(tmp_path):
    lists = pa.array([[1], [2, 8, None], None, [-3], [3], []], pa.list_(pa.int32()))
    write_column(tmp_path, {"recent": lists})
    stream = stream_of(tmp_path, contract_with(invalid={"recent": "unknown"}), batch_size=6)

    recent = next(iter(stream)).sparse.to_dict()["recent"]

    assert recent.lengths().tolist() == [1, 3, 0, 1, 1, 0]
    assert recent.values().tolist() == [1, 2, 0, 0, 0, 3]


def test_encoded_numbers_are_held_to_the_declared_range_as_it_is_scaled(tmp_path):
    # Raw range [0, 10]; encoded (x - 2) / 0.5, so [-4, 16].
    price = {"price": {"minimum": 0, "maximum": 10}}
    write_column(tmp_path, {"price": pa.array([-4, 16, 0, 17, -5, 1], pa.float32())})

    with pytest.raises(DataError, match=r"`price` holds 17.0 in 2 of 6 rows; expected a finite number in \[-4, 16\]"):
        keys(stream_of(tmp_path, contract_with(price)))
    stream = stream_of(tmp_path, contract_with(price, invalid={"price": "clip"}), batch_size=6)
    (batch,) = stream

    np.testing.assert_allclose(batch.dense[:, 1], [-4, 16, 0, 16, -4, 1], rtol=1e-6)
    assert stream.counts == {"values clipped: price": 2}


@pytest.mark.parametrize("scale", ["standard", "log", "none"])
def test_a_value_at_the_end_of_its_range_is_inside_it_once_encoded(scale):
    contract = contract_with({"price": {"minimum": -0.1, "maximum": 1e7, "scale": scale}})

    low, high = encoded_bounds(contract.schema.feature("price"), contract)

    # As a double and as the nearest single, which may lie outside the range by half of its last bit.
    for raw, bound in ((-0.1, low), (float(np.float32(-0.1)), low), (1e7, high)):
        number = np.sign(raw) * np.log1p(abs(raw)) if scale == "log" else raw
        encoded = np.float32((number - 2.0) / 0.5)
        assert low <= encoded <= high
        assert abs(bound - encoded) <= 1e-6 * max(1, abs(encoded))


@pytest.mark.parametrize("shuffle", [False, True])
def test_dropped_rows_leave_their_batch_and_no_other_row_moves(tmp_path, shuffle):
    lists = pa.array([[1], [1, 2, 3, 4], [], [2], [3], [8, 1]], pa.list_(pa.int32()))
    write_column(tmp_path, {"item_id": ids(1, 8, 3, 9, 5, 7), "recent": lists})
    dropping = contract_with(invalid={"item_id": "drop", "recent": "drop"}, most_dropped=0.9)
    mending = contract_with(invalid={"item_id": "unknown", "recent": "unknown"})
    write_column(tmp_path / "mended", {"item_id": ids(1, 8, 3, 9, 5, 7)})

    stream = stream_of(tmp_path, dropping, shuffle=shuffle)
    batches = list(stream)

    whole = keys(stream_of(tmp_path / "mended", mending, shuffle=shuffle))
    found = [batch.extra["user_key"].tolist() for batch in batches]
    assert found == [[key for key in batch if key not in (1, 3, 5)] for batch in whole]
    items = [batch.sparse.to_dict()["item_id"].values().tolist() for batch in batches]
    assert items == [[key + 1 for key in batch] for batch in found]  # item_id of the rows that stay: 1, 3, 5
    recent = [batch.sparse.to_dict()["recent"].values().tolist() for batch in batches]
    assert recent == [[{0: 1, 4: 3}[key] for key in batch if key != 2] for batch in found]
    assert stream.counts == {"rows dropped: item_id": 2, "rows dropped: recent": 2, "rows dropped": 3}
    assert stream.num_rows == 6


def test_counts_do_not_grow_with_epochs(tmp_path):
    write_column(tmp_path, {"item_id": ids(1, 8, 3, 4, 5, 7)})
    stream = stream_of(tmp_path, contract_with(invalid={"item_id": "drop"}, most_dropped=0.2))

    first, second = keys(stream), keys(stream)

    assert first == second == [[0, 2], [3, 4, 5]]
    assert stream.counts == {"rows dropped: item_id": 1, "rows dropped": 1}


def test_more_dropped_rows_than_the_cap_allows_stop_the_stream(tmp_path):
    write_column(tmp_path, {"item_id": ids(1, 8, 3, 9, 5, 7)})
    below = contract_with(invalid={"item_id": "drop"}, most_dropped=0.33)  # 1.98 of 6 rows
    enough = contract_with(invalid={"item_id": "drop"}, most_dropped=0.34)  # 2.04

    with pytest.raises(DataError, match=r"with it, 2 rows are dropped, more than 0.33 of the split's rows"):
        keys(stream_of(tmp_path, below))
    assert keys(stream_of(tmp_path, enough)) == [[0, 2], [4, 5]]


def test_a_batch_of_which_no_row_is_left_stops_the_stream(tmp_path):
    write_column(tmp_path, {"item_id": ids(9, 9, 9, 1, 2, 3)})
    contract = contract_with(invalid={"item_id": "drop"}, most_dropped=1)

    with pytest.raises(DataError, match="All 3 rows of a batch were dropped"):
        keys(stream_of(tmp_path, contract))


@pytest.mark.parametrize("decode_threads", [0, 2, 8])
def test_batches_before_one_that_cannot_be_built_are_received(tmp_path, decode_threads):
    write_column(tmp_path, {"item_id": ids(0, 1, 2, 3, 4, 9, 9, 9, 9, 1, 2, 3)}, rows=12)
    contract = contract_with(invalid={"item_id": "drop"}, most_dropped=1)
    batches = iter(stream_of(tmp_path, contract, decode_threads=decode_threads))

    assert [next(batches).extra["user_key"].tolist() for _ in range(2)] == [[0, 1, 2], [3, 4]]
    with pytest.raises(DataError, match="All 3 rows of a batch were dropped"):
        next(batches)


def test_labels_and_segments_drop_under_the_names_that_the_schema_gives_them(tmp_path):
    write_column(tmp_path, {
        "label": pa.array([0, 1, None, 0, 1, 0], pa.float32()), "segment": pa.array([0, 1, 2, 3, 0, 1], pa.int8()),
    })  # fmt: skip
    contract = contract_with(invalid={"clicked": "drop", "activity": "drop"}, most_dropped=0.5)

    stream = stream_of(tmp_path, contract)

    assert keys(stream) == [[0, 1], [4, 5]]
    assert stream.counts == {"rows dropped: label": 1, "rows dropped: segment": 1, "rows dropped": 2}


def test_a_state_saved_between_batches_with_dropped_rows_resumes_behind_them(tmp_path):
    write_layout(tmp_path, [[9], [9]])
    write_column(tmp_path, {"item_id": ids(1, 8, 3, 9, 5, 7, 0, 0, 0)}, rows=9)
    contract = contract_with(invalid={"item_id": "drop"}, most_dropped=0.5)
    begun = stream_of(tmp_path, contract, shuffle=True)
    whole = keys(stream_of(tmp_path, contract, shuffle=True))
    batches = iter(begun)
    head = [next(batches).extra["user_key"].tolist() for _ in range(2)]

    resumed = stream_of(tmp_path, contract, shuffle=True)
    resumed.load_state_dict(begun.state_dict())

    assert head + keys(resumed) == whole
    assert sum(map(len, whole)) == 16


def test_raw_rows_follow_the_same_policies(tmp_path):
    write_raw(tmp_path / "rows.parquet", {
        "price": pa.array([10.0, 200.0, None, 10.0]), "clicked": pa.array([1, 0, 0, None], pa.int8()),
    })  # fmt: skip
    stream = raw_stream(tmp_path, raw_contract(invalid={"price": "drop", "clicked": "drop"}, most_dropped=0.75))

    assert values_of(stream)["user_key"] == [0]
    assert stream.counts["rows dropped"] == 3
    assert stream.counts["rows dropped: price"] == 2


def test_raw_numbers_are_clipped_before_they_are_scaled(tmp_path):
    write_raw(tmp_path / "rows.parquet", {"price": pa.array([10.0, 200.0, -3.0, 10.0]), "user_id": COLUMNS["user_id"]})
    stream = raw_stream(tmp_path, raw_contract(invalid={"price": "clip"}))

    assert [row[0] for row in values_of(stream)["dense"]] == [0, (100 - 10) / 4, -10 / 4, 0]
    assert stream.counts["values clipped: price"] == 2
