"""Equal inputs of a side have equal digests; every difference that the side can see gives another."""

from dataclasses import replace

import pytest
import torch

from recsys.towers.embedding import EmbeddingTower
from tests.small_model import ROWS, Row, batch_of, small_contract, two_tower_spec

USER, ITEM = 0, 1
ROW = Row(0.5, 1, 2, -1.0, 1, (3, 3, 1), 0, 1)


def digests_of(*rows: Row) -> list[list[tuple[int, int]]]:
    """Per side, the digest of each row."""
    tower = EmbeddingTower(two_tower_spec(), small_contract())
    return [[(int(a), int(b)) for a, b in side.t()] for side in tower.side_digests(batch_of(rows))]


@pytest.mark.parametrize(
    ("change", "sides"),
    [
        ({"age": 0.5000001}, {USER}),
        ({"user_id": 2}, {USER}),
        ({"recent": (3, 1, 3)}, {USER}),  # the order decides in which the mean is summed
        ({"recent": (3, 1)}, {USER}),
        ({"recent": ()}, {USER}),
        ({"recent": (3, 3, 1, 0)}, {USER}),  # the unknown id counts in a mean
        ({"item_id": 3}, {ITEM}),
        ({"price": 1.0}, {ITEM}),
        ({"brand": 2}, {ITEM}),
        ({"item_id": 1, "brand": 2}, {ITEM}),  # the same numbers, in other features
        ({"segment": 2, "label": 0}, set()),  # no side reads them
    ],
)
def test_a_side_sees_its_own_features_and_no_other(change, sides):
    digests = digests_of(ROW, replace(ROW, **change))

    assert {side for side in (USER, ITEM) if digests[side][0] != digests[side][1]} == sides


def test_a_digest_does_not_depend_on_the_other_rows():
    alone = [digests_of(row) for row in ROWS]
    together = digests_of(*ROWS)

    for side in (USER, ITEM):
        assert together[side] == [digests[side][0] for digests in alone]


def test_a_list_of_the_unknown_id_is_no_empty_list():
    user, _ = digests_of(replace(ROW, recent=(0,)), replace(ROW, recent=()), replace(ROW, recent=(0, 0)))

    assert len(set(user)) == 3


def test_a_million_different_rows_have_a_million_digests():
    ids = torch.arange(1_000_000)
    batch = batch_of([ROW] * 1)
    many = batch.take(torch.zeros(len(ids), dtype=torch.int64))
    keys = {name: number for number, name in enumerate(many.sparse.keys())}
    first = many.sparse.offsets()[keys["item_id"] * len(ids)]
    many.sparse.values()[first : first + len(ids)] = ids

    tower = EmbeddingTower(two_tower_spec(), small_contract())
    halves = tower.side_digests(many)[ITEM]

    # Either half alone tells them apart, so that a mistake in one is not hidden by the other.
    assert [len(half.unique()) for half in halves] == [1_000_000] * 2
