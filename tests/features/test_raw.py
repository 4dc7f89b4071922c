"""Raw rows into a batch: the preparation's encoding to the bit, and messages that name the column."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from recsys.datasets.row_encoder import RowEncoder
from recsys.errors import DataError
from recsys.features.contract import FeatureContract, Scaling
from recsys.features.raw import raw_to_batch
from recsys.features.vocabulary import Vocabulary
from tests.worlds import world_schema

VOCABULARIES = {
    "user_id": Vocabulary.of("user_id", [1001, 1002, 1003]),
    "item_id": Vocabulary.of("item_id", ["mug", "lamp", "tray"]),
    "country": Vocabulary.of("country", ["France"]),
}
CONTRACT = FeatureContract(
    world_schema(),
    table_rows={name: len(vocabulary) for name, vocabulary in VOCABULARIES.items()},
    vocabulary_fingerprints={name: vocabulary.fingerprint for name, vocabulary in VOCABULARIES.items()},
    scaling={"price": Scaling(0.7, 0.3), "days_away": Scaling(12.3, 4.5)},
)


def raw_rows(**changes: object) -> pa.Table:
    """Three rows with every trouble that the schema has an answer for; `changes` replaces whole columns."""
    columns: dict[str, object] = {
        "user_id": [1002, -5, 7_000_000_000],
        "item_id": ["lamp", None, "never seen"],
        "country": ["France", None, "Eire"],
        # Five ids of which one is missing: the last three of the other four stay.
        "recent_item_ids": [["mug", "tray", None, "lamp", "mug"], [], None],
        "price": [0.0, 2.5, 1e6],
        "days_away": [3.0, None, float("nan")],
        "activity": ["light", "new", "heavy"],
        "page": ["not a feature"] * 3,
    }
    return pa.table(columns | changes)


def lists_of(values: Tensor, lengths: Tensor) -> list[list[int]]:
    return [part.tolist() for part in torch.split(values, lengths.tolist())]


def test_raw_rows_become_the_rows_of_their_ids_and_scaled_numbers():
    batch = raw_to_batch(raw_rows(), CONTRACT, VOCABULARIES)

    jagged = batch.sparse.to_dict()
    assert jagged["user_id"].values().tolist() == [2, 0, 0]
    assert jagged["item_id"].values().tolist() == [2, 0, 0]
    assert jagged["country"].values().tolist() == [1, 0, 0]
    recent = jagged["recent_item_ids"]
    assert lists_of(recent.values(), recent.lengths()) == [[3, 2, 1], [], []]
    assert batch.segment.tolist() == [1, 0, 2]
    # price: (log(1 + x) - 0.7) / 0.3; days_away: missing is 30, then (x - 12.3) / 4.5.
    expected = [[(np.log1p(x) - 0.7) / 0.3, (d - 12.3) / 4.5] for x, d in ((0.0, 3.0), (2.5, 30.0), (1e6, 30.0))]
    torch.testing.assert_close(batch.dense, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=0)


def test_the_encoding_is_the_preparations_to_the_bit():
    raw = raw_rows(days_away=[3.0, None, None])
    batch = raw_to_batch(raw, CONTRACT, VOCABULARIES)

    when = pa.array([datetime(2011, 7, 1, tzinfo=UTC)] * 3, pa.timestamp("us", "UTC"))
    staged = raw.append_column("clicked", pa.array([0.0] * 3)).append_column("clicked_at", when)
    prepared = RowEncoder(CONTRACT, VOCABULARIES).encode(staged.combine_chunks().to_batches()[0])

    for place, name in enumerate(("price", "days_away")):
        assert np.array_equal(batch.dense[:, place].numpy(), prepared[name].to_numpy())
    jagged = batch.sparse.to_dict()
    for name in ("user_id", "item_id", "country"):
        assert jagged[name].values().tolist() == prepared[name].to_pylist()
    recent = jagged["recent_item_ids"]
    assert lists_of(recent.values(), recent.lengths()) == prepared["recent_item_ids"].to_pylist()
    assert batch.segment.tolist() == prepared["segment"].to_pylist()


def test_the_order_of_columns_and_further_columns_do_not_matter():
    rows = raw_rows()
    turned = raw_to_batch(rows.select(rows.column_names[::-1]), CONTRACT, VOCABULARIES)

    straight = raw_to_batch(rows, CONTRACT, VOCABULARIES)
    assert torch.equal(turned.dense, straight.dense)
    assert torch.equal(turned.sparse.values(), straight.sparse.values())


def test_integer_ids_that_a_frame_made_floats_are_still_ids():
    batch = raw_to_batch(raw_rows(user_id=[1001.0, float("nan"), 1003.0]), CONTRACT, VOCABULARIES)

    assert batch.sparse.to_dict()["user_id"].values().tolist() == [1, 0, 3]


def test_ids_beyond_64_signed_bits_are_unknown():
    ids = pa.array([1001, 2**64 - 1, 1003], pa.uint64())

    assert raw_to_batch(raw_rows(user_id=ids), CONTRACT, VOCABULARIES).sparse["user_id"].values().tolist() == [1, 0, 3]


def test_no_rows_make_an_empty_batch():
    batch = raw_to_batch(raw_rows().slice(0, 0), CONTRACT, VOCABULARIES)

    assert len(batch) == 0
    assert batch.dense.shape == (0, 2)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("price", [1.0, float("nan"), 2.0], r"`price` holds no finite number in 1 of 3 rows.*declares no `fill`"),
        ("price", [1.0, -2.0, 2.0], r"`price` holds -2\.0 in 1 of 3 rows; expected a number in \[0.*inf\]"),
        ("price", ["a", "b", "c"], r"`price` has type string; expected numbers"),
        (
            "activity",
            ["light", "VIP", None],
            r"`activity` holds 'VIP' in 2 of 3 rows; expected one of new, light, heavy",
        ),
        ("user_id", ["x", "y", "z"], r"`user_id` has type string; expected integer ids"),
        ("user_id", [1.5, 2.0, 3.0], r"`user_id` has type double; expected integer ids"),
        ("item_id", [1.5, 2.0, 3.0], r"`item_id` has type double; expected ids as strings"),
        ("recent_item_ids", ["mug", "mug", "mug"], r"`recent_item_ids` has type string; expected a list of ids"),
    ],
)
def test_a_bad_column_is_named_with_what_was_found_and_expected(column: str, values: list[object], message: str):
    with pytest.raises(DataError, match=message):
        raw_to_batch(raw_rows(**{column: values}), CONTRACT, VOCABULARIES)


def test_a_missing_column_is_named_with_those_that_are_there():
    with pytest.raises(DataError, match=r"Column `item_id` is missing; found user_id, country.*expected"):
        raw_to_batch(raw_rows().drop_columns(["item_id"]), CONTRACT, VOCABULARIES)
