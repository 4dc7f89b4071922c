"""The sequence tower equals a slow one written in loops, in values and gradients, and looks at no future."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recsys.errors import UsageError
from recsys.features.batch import Batch
from recsys.features.schema import FeatureSchema
from recsys.towers.any_tower import build_tower
from recsys.towers.sequence import SequenceTower
from recsys.towers.tower_spec import SequenceShape, TowerSpec
from tests.small_model import spread_out
from tests.towers.eventful_rows import EVENTFUL, EventfulRow, eventful_batch, eventful_contract, eventful_schema
from tests.towers.slow_sequence import TABLE, slow_outputs
from tests.training.host_waits import host_waits

SHAPE = SequenceShape(blocks=2, heads=2, dropout=0.0)


def tower(shape: SequenceShape = SHAPE) -> SequenceTower:
    torch.manual_seed(0)
    spec = TowerSpec.reading_sequence(eventful_schema(), width=8, shape=shape)
    built = build_tower(spec, eventful_contract())
    assert isinstance(built, SequenceTower)
    spread_out(built)
    return built


def met(*items: int, candidate: int = 1) -> EventfulRow:
    return replace(EVENTFUL[0], item=candidate, met=tuple((item, 0.0, 0.0) for item in items))


# 0, 1, 2, 3 and as many events as the schema allows.
ROWS = (*EVENTFUL, met(3, 1, 4, 1, 5, 2))


def slow_sides(weights: dict[str, Tensor], rows: Sequence[EventfulRow]) -> Tensor:
    table = weights[TABLE]
    said = [slow_outputs(weights, [table[id] for id, *_ in row.met], blocks=2, heads=2)[-1] for row in rows]
    return torch.stack([torch.stack(said), table[[row.item for row in rows]]])


def test_its_vectors_are_those_of_loops_over_rows_heads_and_events():
    built = tower()
    sides = torch.stack(built.sides(eventful_batch(ROWS)))
    torch.testing.assert_close(sides, slow_sides(built.state_dict(), ROWS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [ROWS, ROWS[1:2], ROWS[2:3]], ids=["all", "no event", "one event"])
def test_its_gradients_are_those_of_the_slow_one(rows: Sequence[EventfulRow]):
    built = tower()
    mixed = torch.randn(2, len(rows), 8, generator=torch.Generator().manual_seed(1))
    (torch.stack(built.sides(eventful_batch(tuple(rows)))) * mixed).sum().backward()
    weights = {name: value.detach().clone().requires_grad_() for name, value in built.state_dict().items()}
    (slow_sides(weights, rows) * mixed).sum().backward()
    for name, parameter in built.named_parameters():
        expected = weights[name].grad
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        expected = torch.zeros_like(parameter) if expected is None else expected
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_the_ranker_gets_both_sides_and_their_product_and_of_some_rows_those_alone():
    built, batch = tower(), eventful_batch(ROWS)
    user, item = built.sides(batch)
    torch.testing.assert_close(built(batch), torch.cat([user, item, user * item], dim=1))
    torch.testing.assert_close(built(batch, torch.tensor([4, 1])), built(batch)[[4, 1]])
    assert built(batch).shape == (len(ROWS), built.output_width)


def test_no_rows_reach_the_tables_alone():
    built = tower()
    nothing = built(eventful_batch(ROWS), torch.tensor([], dtype=torch.int64))
    nothing.sum().backward()
    assert nothing.shape == (0, built.output_width)
    assert {name for name, each in built.named_parameters() if each.grad is not None} == {TABLE}


def test_what_a_list_says_of_its_beginning_is_what_the_beginning_says():
    """So that training may learn from every place of a list at once; and no place sees what comes after it."""
    built = tower()
    vectors = built.state_dict()[TABLE][[3, 1, 4, 1, 5, 2]]
    whole = built.encoder(vectors, torch.tensor([6]))
    parts = torch.stack([built.encoder(vectors[:length], torch.tensor([length]))[-1] for length in range(7)])
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-6)


def test_the_order_of_events_matters_and_other_rows_do_not():
    built = tower()
    one, other = (built.sides(eventful_batch((met(*items),)))[0] for items in ((1, 2, 3), (2, 1, 3)))
    assert not torch.allclose(one, other)
    beside = built.sides(eventful_batch((met(5), met(1, 2, 3), met())))[0]
    torch.testing.assert_close(beside[1:2], one)


def test_side_vectors_of_some_rows_are_those_of_all_and_digests_tell_inputs_apart():
    built, batch = tower().eval(), eventful_batch((*ROWS, ROWS[0]))
    user, item = built.side_vectors(batch)
    picked_user, picked_item = built.side_vectors(batch, [torch.tensor([4, 0]), torch.tensor([2])])
    torch.testing.assert_close(picked_user, user[[4, 0]])
    torch.testing.assert_close(picked_item, item[[2]])
    of_user, _ = built.side_digests(batch)
    assert torch.equal(of_user[:, 0], of_user[:, -1])
    assert len(of_user[:, :-1].unique(dim=1).T) == len(ROWS)


def test_a_frozen_tower_answers_from_its_cache_and_drops_no_event():
    built, batch = tower(replace(SHAPE, dropout=0.5)), eventful_batch(ROWS)
    built.is_frozen = True
    built.train()
    assert not any(module.training for module in built.modules())
    plain = built(batch)
    assert torch.equal(plain, built(batch))
    assert not plain.requires_grad
    user, item = built.side_vectors(batch)
    built.cache = lambda _: [user + 1, item]
    assert built.look_up(batch) is None
    torch.testing.assert_close(built(batch)[:, :8], user + 1)


def test_a_step_does_not_wait_for_the_device():
    built, batch = tower(), eventful_batch(ROWS)
    with host_waits() as found:
        built(batch).sum().backward()
    assert not found


def test_the_longest_list_is_read_and_one_without_is_refused():
    document = eventful_schema().to_document()
    last = {"name": "last", "kind": "sparse_list", "table": "item_id", "max_length": 2, "used_by": ["user_tower"]}
    document["features"].append(last)
    spec = TowerSpec.reading_sequence(FeatureSchema.from_document(document), width=8, shape=SHAPE)
    assert (spec.user_features, spec.item_features) == (("met",), ("item_id",))
    assert TowerSpec.from_document(spec.to_document()) == spec
    document["features"] = [each for each in document["features"] if not each["name"].startswith(("met", "last"))]
    with pytest.raises(UsageError, match="has no list for a sequence tower"):
        TowerSpec.reading_sequence(FeatureSchema.from_document(document), width=8, shape=SHAPE)
    with pytest.raises(UsageError, match=r"`tower.heads` is 3; expected a divisor of `tower.width`, which is 8"):
        TowerSpec.reading_sequence(eventful_schema(), width=8, shape=replace(SHAPE, heads=3))


def test_no_label_is_read():
    built, batch = tower(), eventful_batch(ROWS)
    flipped: Batch = replace(batch, label=1 - batch.label)
    assert torch.equal(built(flipped), built(batch))
