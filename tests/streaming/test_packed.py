"""What travels to a device is small, and what is made of it there is the batch that a CPU builds directly."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys.features.schema import FeatureSchema
from recsys.streaming.collate import Collator
from recsys.streaming.column_views import view_of
from recsys.streaming.memory import ReusedMemory
from recsys.streaming.pools import Rows
from tests.streaming.rows import CONTRACT, encoded_rows

EXTRAS = ("user_key", "true_probability")


def parts() -> list[Rows]:
    """Seven rows of two pools."""
    table = encoded_rows(0, 12)
    columns = {name: view_of(table.column(name).combine_chunks()) for name in table.column_names if name != "time"}
    return [Rows(columns, 1, 5), Rows(columns, 8, 11)]


def new(role, shape, dtype):
    return torch.empty(*shape, dtype=dtype)


def made(schema: FeatureSchema, ships: bool):
    packed = Collator(schema, EXTRAS, ReusedMemory(2), ships).packed(parts())
    return packed, packed.to(torch.device("cpu")).unpacked(new)


@pytest.mark.parametrize("ships", [True, False])
@pytest.mark.parametrize("is_weighted", [True, False])
def test_a_batch_has_the_same_values_and_types_whether_it_was_shipped_or_not(ships, is_weighted):
    schema = CONTRACT.schema if is_weighted else replace(CONTRACT.schema, weight=None)
    rows = [1, 2, 3, 4, 8, 9, 10]

    _, batch = made(schema, ships)

    assert batch.dense.tolist() == [[row * 0.5, -row] for row in rows]
    assert batch.sparse.keys() == ["user_id", "recent", "item_id"]
    assert batch.sparse["user_id"].values().tolist() == [2**24 + 1 - row for row in rows]
    assert batch.sparse["recent"].lengths().tolist() == [1, 2, 3, 0, 0, 1, 2]
    assert batch.sparse["recent"].values().tolist() == [1, 1, 2, 1, 2, 3, 1, 1, 2]
    assert batch.sparse["item_id"].values().tolist() == [row % 8 for row in rows]
    assert batch.sparse.lengths().tolist() == [1] * 7 + [1, 2, 3, 0, 0, 1, 2] + [1] * 7
    assert (batch.sparse.stride(), batch.sparse.length_per_key_or_none()) == (7, [7, 9, 7])
    assert (batch.sparse.values().dtype, batch.sparse.lengths().dtype) == (torch.int64, torch.int32)
    assert batch.segment.tolist() == [row % 3 for row in rows]
    assert batch.segment.dtype == torch.int64
    assert batch.segment_counts == (2, 3, 2)
    assert batch.label.tolist() == [row % 2 for row in rows]
    assert batch.weight.tolist() == ([1 + row % 5 for row in rows] if is_weighted else [1] * 7)
    assert batch.extra["user_key"].tolist() == rows
    assert batch.extra["true_probability"].tolist() == pytest.approx([row % 10 / 10 for row in rows])
    assert [batch.extra[name].dtype for name in EXTRAS] == [torch.int64, torch.float32]


def test_what_is_shipped_has_narrow_integers_and_lengths_of_lists_alone():
    packed, _ = made(CONTRACT.schema, ships=True)

    assert (packed.ids.dtype, packed.segment.dtype) == (torch.int32, torch.int8)
    assert packed.list_lengths.tolist() == [[1, 2, 3, 0, 0, 1, 2]]


def test_rows_without_numbers_or_lists_make_a_batch():
    left = [feature for feature in CONTRACT.schema.features if feature.name in ("user_id", "item_id")]
    schema = replace(CONTRACT.schema, features=tuple(left))

    _, batch = made(schema, ships=True)

    assert batch.dense.shape == (7, 0)
    assert np.array_equal(batch.sparse.lengths(), np.ones(14))
