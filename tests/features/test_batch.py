"""A batch moves as a whole."""

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.features.batch import Batch
from tests.small_model import ROWS, batch_of


def two_rows() -> Batch:
    return Batch(
        dense=torch.tensor([[0.5], [1.5]]),
        # customer: one id a row; last_products: none, then two.
        sparse=KeyedJaggedTensor.from_lengths_sync(
            keys=["customer", "last_products"],
            values=torch.tensor([3, 4, 7, 8]),
            lengths=torch.tensor([1, 1, 0, 2]),
        ),
        segment=torch.tensor([1, 0]),
        label=torch.tensor([0.0, 1.0]),
        weight=torch.ones(2),
        extra={"user_key": torch.tensor([30, 40])},
    )


def test_length_is_its_number_of_rows() -> None:
    assert len(two_rows()) == 2


def test_every_part_moves_to_the_device() -> None:
    # The meta device stands in for a GPU: a tensor left behind stays where it was.
    moved = two_rows().to(torch.device("meta"))

    parts = [moved.dense, moved.segment, moved.label, moved.weight, *moved.extra.values()]
    assert {part.device.type for part in [*parts, moved.sparse.values(), moved.sparse.lengths()]} == {"meta"}
    assert moved.dense.shape == (2, 1)
    assert moved.sparse.keys() == ["customer", "last_products"]


def test_moving_changes_no_value() -> None:
    batch, moved = two_rows(), two_rows().to(torch.device("cpu"), non_blocking=True)

    assert torch.equal(moved.dense, batch.dense)
    assert torch.equal(moved.sparse.values(), batch.sparse.values())
    assert torch.equal(moved.sparse.lengths(), batch.sparse.lengths())
    assert torch.equal(moved.segment, batch.segment)
    assert torch.equal(moved.label, batch.label)
    assert torch.equal(moved.weight, batch.weight)
    assert torch.equal(moved.extra["user_key"], batch.extra["user_key"])


@pytest.mark.gpu
def test_pinned_batch_crosses_on_a_side_stream() -> None:
    pinned = two_rows().pin_memory()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        moved = pinned.to(torch.device("cuda"), non_blocking=True)
    torch.cuda.current_stream().wait_stream(stream)
    moved.record_stream(torch.cuda.current_stream())

    assert pinned.dense.is_pinned()
    assert pinned.sparse.values().is_pinned()
    assert pinned.extra["user_key"].is_pinned()
    assert torch.equal(moved.dense.cpu(), two_rows().dense)
    assert torch.equal(moved.sparse.values().cpu(), two_rows().sparse.values())


def test_taken_rows_are_the_rows_asked_for_in_that_order() -> None:
    taken = batch_of(ROWS).take(torch.tensor([3, 0, 1, 3]))

    expected = batch_of([ROWS[number] for number in (3, 0, 1, 3)])
    assert torch.equal(taken.dense, expected.dense)
    assert torch.equal(taken.sparse.values(), expected.sparse.values())
    assert torch.equal(taken.sparse.lengths(), expected.sparse.lengths())
    assert torch.equal(taken.segment, expected.segment)
    assert torch.equal(taken.label, expected.label)


def test_no_rows_may_be_taken() -> None:
    taken = batch_of(ROWS).take(torch.empty(0, dtype=torch.int64))

    assert (len(taken), taken.sparse.stride(), len(taken.sparse.values())) == (0, 0, 0)
