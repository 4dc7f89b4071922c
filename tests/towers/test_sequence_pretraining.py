"""Sequences are gathered once for each user, and what is learnt from them is the tower's."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys.towers.any_tower import build_tower
from recsys.towers.pretraining import retrieval_recall
from recsys.towers.sequence import SequenceTower
from recsys.towers.sequence_batches import Jagged, SequenceBatch, SequenceStream, gather, negative_rate
from recsys.towers.sequence_pretraining import ItemAttributes, NextEventObjective, sampled_softmax_losses
from recsys.towers.tower_spec import SequenceShape, TowerSpec
from tests.towers.eventful_rows import EVENTFUL, EventfulRow, eventful_batch, eventful_contract, eventful_schema
from tests.towers.slow_sequence import slow_outputs
from tests.training.host_waits import host_waits

SHAPE = SequenceShape(blocks=2, heads=2, dropout=0.0)


def row(user: int, met: list[int], item: int, label: int = 1, city: int = 1) -> EventfulRow:
    return replace(EVENTFUL[0], user=user, city=city, item=item, met=tuple((i, 0.0, 0.0) for i in met), label=label)


def gathered(*batches: tuple[EventfulRow, ...], newest_only: bool = True, attributes: tuple[str, ...] = ()):
    return gather(
        map(eventful_batch, batches),
        user="user_id",
        events="met",
        item="item_id",
        attributes=attributes,
        num_items=6,
        newest_only=newest_only,
    )


def lists(jagged: Jagged) -> list[list[int]]:
    return [part.tolist() for part in np.split(jagged.values, np.cumsum(jagged.lengths)[:-1])]


def test_of_every_user_the_newest_positive_row_is_a_sequence_with_its_item_behind():
    found = gathered(
        (row(1, [], 2), row(2, [5], 4), row(1, [2], 3)),
        (row(2, [5, 4], 1, label=0), row(3, [], 5), row(1, [2, 3], 1)),
    )
    assert lists(found.sequences) == [[2, 3, 1], [5, 4], [5]]
    assert found.counts.tolist() == [0, 1, 1, 1, 1, 1]


def test_among_rows_of_one_length_the_last_is_the_newest_and_all_are_kept_where_all_are_asked_for():
    batches = (row(1, [1, 2, 3, 4, 5, 1], 2), row(1, [2, 3, 4, 5, 1, 2], 3))
    assert lists(gathered(batches).sequences) == [[2, 3, 4, 5, 1, 2, 3]]
    assert lists(gathered(batches, newest_only=False).sequences) == [[1, 2, 3, 4, 5, 1, 2], [2, 3, 4, 5, 1, 2, 3]]


def test_waiting_rows_are_thinned_out_without_a_loss(monkeypatch: pytest.MonkeyPatch):
    draw = np.random.default_rng(0)
    met: dict[int, list[int]] = {user: [] for user in range(1, 5)}
    batches = []
    for _ in range(12):
        rows = []
        for user in draw.permutation(4)[:2] + 1:
            item = int(draw.integers(1, 6))
            rows.append(row(int(user), met[int(user)][-6:], item, city=int(draw.integers(1, 4))))
            met[int(user)].append(item)
        batches.append(tuple(rows))
    whole = gathered(*batches, attributes=("city",))
    monkeypatch.setattr("recsys.towers.sequence_batches._ROWS_WAITING", 3)
    thinned = gathered(*batches, attributes=("city",))
    assert lists(thinned.sequences) == lists(whole.sequences) == [met[user][-7:] for user in range(1, 5)]
    assert lists(thinned.attributes["city"]) == lists(whole.attributes["city"])


def test_an_item_has_the_attributes_of_the_last_row_with_it_and_the_unknown_one_has_none():
    found = gathered((row(1, [], 2, city=1), row(1, [], 2, city=3), row(1, [], 0, city=2)), attributes=("city",))
    assert lists(found.attributes["city"]) == [[], [], [3], [], [], []]


def stream(sequences: list[list[int]], **changed) -> SequenceStream:
    values = np.array([item for each in sequences for item in each])
    settings = {
        "sequences": Jagged(values, np.array(list(map(len, sequences)))),
        "rate": negative_rate(np.zeros(6, np.int64), 0.0),
        "item": "item_id",
        "attributes": {},
        "most": 6,
        "batch_size": 2,
        "num_negatives": 3,
        "only_last": False,
        "seed": 0,
        "device": torch.device("cpu"),
    }
    return SequenceStream(**{**settings, **changed})


def test_every_sequence_comes_once_in_an_epoch_with_negatives_behind_and_all_follow_from_the_seed():
    sequences = [[1, 2], [3], [4, 5, 1], [2, 2], [5]]
    batches = stream(sequences)
    found = [(each.sparse["item_id"].values().tolist(), each.lengths.tolist(), each.label.tolist()) for each in batches]
    cut = [
        ids[sum(lengths[:place]) : sum(lengths[: place + 1])]
        for ids, lengths, _ in found
        for place in range(len(lengths))
    ]
    assert sorted(cut) == sorted(sequences)
    assert all(0 < item < 6 for ids, lengths, _ in found for item in ids[sum(lengths) :])
    assert all(label == [1.0] * sum(lengths) + [0.0] * 3 for _, lengths, label in found)
    assert batches.epoch == 1
    assert len(found) == batches.num_batches == 3
    again = [each.sparse["item_id"].values().tolist() for each in stream(sequences)]
    assert again == [ids for ids, _, _ in found]
    assert [each.sparse["item_id"].values().tolist() for each in batches] != again


def test_what_cannot_be_foretold_is_no_target():
    """An unknown item; the first of a list that may have been cut; in validation, all that training has taught."""
    (batch,) = stream([[1, 0, 2], [1, 2, 3, 4, 5, 1, 2]], most=6)
    by_length = dict(zip(batch.lengths.tolist(), batch.label[:-3].split(batch.lengths.tolist()), strict=True))
    assert by_length[3].tolist() == [1, 0, 1]
    assert by_length[7].tolist() == [0, 1, 1, 1, 1, 1, 1]
    (last,) = stream([[1, 0, 2], [1, 2, 0]], only_last=True)
    assert last.label.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]


def test_processes_share_the_sequences_of_each_batch_and_have_its_negatives_in_common():
    sequences = [[1, 2], [3, 1], [3, 3, 2], [4, 1], [5, 2]]
    whole, *shares = (
        list(stream(sequences, batch_size=4, rank=rank, world_size=of)) for rank, of in [(0, 1), (0, 2), (1, 2)]
    )
    assert [len(batches) for batches in shares] == [2, 2]
    for all_of_them, *own in zip(whole, *shares, strict=True):
        wanted = [one for each in own for one in of_batch(each) if each.label.any()]
        assert sorted(wanted) == sorted(of_batch(all_of_them))
        for each in own:
            negatives = [one.sparse["item_id"].values()[-one.num_negatives :] for one in (each, all_of_them)]
            assert torch.equal(*negatives)
    # Of the fifth sequence the second process has none; one stands in, of which nothing is to be foretold.
    assert shares[1][1].label.sum() == 0


def of_batch(batch):
    ids = batch.sparse["item_id"].values()[: -batch.num_negatives].split(batch.lengths.tolist())
    return [each.tolist() for each in ids]


def test_the_loss_is_a_softmax_over_the_target_and_the_negatives_each_for_those_that_it_stands_for():
    # Own score 1; negatives 0 and 2, expected 1 and 4 times among those drawn; the third is the target itself.
    loss = sampled_softmax_losses(
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[1.0, 5.0]]),
        torch.tensor([[0.0, 3.0], [2.0, 0.0], [1.0, 5.0]]),
        torch.tensor([1.0, 4.0, 1.0]).log(),
        torch.tensor([[False, False, True]]),
    )
    assert loss.item() == pytest.approx(math.log(math.e + 1 + math.e**2 / 4) - 1)


def test_of_many_samples_by_any_rate_the_loss_is_that_of_all_items():
    draw = torch.Generator().manual_seed(0)
    said, table = torch.randn(3, 4, generator=draw), torch.randn(5, 4, generator=draw)
    target = torch.tensor([0, 3, 4])
    rate = torch.tensor([0.4, 0.1, 0.2, 0.05, 0.25])
    negatives = torch.multinomial(rate, 100_000, replacement=True, generator=draw)
    found = sampled_softmax_losses(
        said,
        table[target],
        table[negatives],
        (rate[negatives] * len(negatives)).log(),
        negatives == target.unsqueeze(1),
    )
    expected = torch.nn.functional.cross_entropy(said @ table.T, target, reduction="none")
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def objective(id_dropout: float = 0.0, *, has_attributes: bool = True) -> NextEventObjective:
    torch.manual_seed(0)
    contract = eventful_contract()
    tower = build_tower(TowerSpec.reading_sequence(eventful_schema(), width=8, shape=SHAPE), contract)
    assert isinstance(tower, SequenceTower)
    return NextEventObjective(tower, ItemAttributes(contract, ("city",), 8) if has_attributes else None, id_dropout)


CITIES = {"city": Jagged(np.array([1, 2, 3, 1]), np.array([0, 1, 2, 0, 1, 0]))}


def slow_loss(learner: NextEventObjective, batch: SequenceBatch) -> torch.Tensor:
    weights = learner.embedding_tower.state_dict(keep_vars=True)
    cities = learner.attributes.ebc.embedding_bags["attribute_city"].weight
    table = weights["items.ebc.embedding_bags.tower_item_id.weight"]
    of_item = np.split(CITIES["city"].values, np.cumsum(CITIES["city"].lengths)[:-1])
    vectors = [row + (cities[of].mean(dim=0) if len(of) else 0) for row, of in zip(table, of_item, strict=True)]
    ids = batch.sparse["item_id"].values().tolist()
    negatives, losses, at = ids[-batch.num_negatives :], [], 0
    for length in batch.lengths.tolist():
        own = ids[at : at + length]
        said = slow_outputs(weights, [vectors[item] for item in own[:-1]], blocks=2, heads=2)
        for place, target in enumerate(own):
            others = [
                (said[place] @ vectors[item] - rate).exp()
                for item, rate in zip(negatives, batch.log_rate, strict=True)
                if item != target
            ]
            score = said[place] @ vectors[target]
            losses.append(((score.exp() + sum(others)).log() - score) * batch.label[at + place])
        at += length
    return torch.stack(losses).sum() / batch.label.sum()


def test_its_loss_and_gradients_are_those_of_loops_over_sequences_and_places():
    (batch,) = stream([[1, 2, 4, 2], [3]], attributes=CITIES)
    fast, slow = objective(), objective()
    losses = fast(batch), slow_loss(slow, batch)
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses)
    for (name, one), (_, other) in zip(fast.named_parameters(), slow.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: name + text)


def test_a_step_does_not_wait_for_the_device():
    learner = objective(id_dropout=0.2)
    (batch,) = stream([[1, 2, 4, 2], [3]], attributes=CITIES)
    with host_waits() as found:
        learner(batch).backward()
    assert not found


def test_it_learns_to_foretell_and_the_attributes_are_then_in_the_items_rows():
    """A cycle of five items: who had one wants the next."""
    learner = objective(id_dropout=0.1)
    cycles = [[(start + step) % 5 + 1 for step in range(4)] for start in range(5)]
    batches = stream(cycles, attributes=CITIES, batch_size=5, num_negatives=16)
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.02)
    for _ in range(40):
        for batch in batches:
            optimizer.zero_grad()
            learner(batch).backward()
            optimizer.step()
    tower, attributes = learner.embedding_tower, learner.attributes.of_all(CITIES, "item_id", torch.device("cpu"))
    assert attributes.shape == (6, 8)
    with torch.no_grad():
        tower.items.ebc.embedding_bags["tower_item_id"].weight.add_(attributes)
    rows = tuple(row(1, cycle[:3], cycle[3]) for cycle in cycles)
    assert retrieval_recall(tower, [eventful_batch(rows)], "item_id", k=1) == 1
