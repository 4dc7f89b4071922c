"""The history tower equals a slow one written in loops, gradients included, and hides what it should."""

from dataclasses import replace

import pytest
import torch

from recsys.errors import UsageError
from recsys.features.schema import FeatureSchema
from recsys.towers.any_tower import build_tower
from recsys.towers.event_groups import event_groups
from recsys.towers.tower_spec import TowerSpec
from tests.small_model import spread_out
from tests.towers.eventful_rows import EVENTFUL, SHAPE, eventful_batch, eventful_contract, eventful_schema
from tests.towers.slow_history import slow_tower


def tower(shape=SHAPE):
    torch.manual_seed(0)
    built = build_tower(TowerSpec.reading_history(eventful_schema(), shape), eventful_contract())
    spread_out(built)
    return built


def test_it_says_what_loops_over_rows_and_events_say():
    built = tower()
    torch.testing.assert_close(built(eventful_batch()), slow_tower(built.state_dict(), EVENTFUL), rtol=0, atol=1e-6)
    assert built(eventful_batch()).shape == (len(EVENTFUL), built.output_width)


@pytest.mark.parametrize("rows", [EVENTFUL, EVENTFUL[1:2], EVENTFUL[:1]], ids=["all", "no events met", "one event by"])
def test_its_gradients_are_those_of_the_slow_one(rows):
    built = tower()
    mixed = torch.randn(built.output_width, generator=torch.Generator().manual_seed(1))
    (built(eventful_batch(rows)).sigmoid() @ mixed).sum().backward()
    weights = {name: value.detach().clone().requires_grad_() for name, value in built.state_dict().items()}
    (slow_tower(weights, rows).sigmoid() @ mixed).sum().backward()
    for name, parameter in built.named_parameters():
        expected = weights[name].grad
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        expected = torch.zeros_like(parameter) if expected is None else expected
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_rows_are_those_of_the_whole_and_none_reach_the_tables_alone():
    built, batch = tower(), eventful_batch()
    torch.testing.assert_close(built(batch, torch.tensor([2, 0])), built(batch)[[2, 0]])
    nothing = built(batch, torch.tensor([], dtype=torch.int64))
    assert nothing.shape == (0, built.output_width)
    nothing.sum().backward()
    reached = {name for name, parameter in built.named_parameters() if parameter.grad is not None}
    assert reached == {name for name in dict(built.named_parameters()) if ".ebc." in name}


def test_no_label_of_the_batch_is_read():
    built, batch = tower(), eventful_batch()
    flipped = replace(batch, label=1 - batch.label)
    assert torch.equal(built(flipped), built(batch))


def test_dropping_events_hides_them_wholly():
    """Of a row whose events are all hidden, it says what it says of one without."""
    built = tower(replace(SHAPE, history_dropout=0.999999)).train()
    without = tuple(replace(row, met=()) for row in EVENTFUL)
    torch.testing.assert_close(built(eventful_batch()), built.eval()(eventful_batch(without)))


def test_dropout_changes_nothing_in_evaluation():
    built = tower(replace(SHAPE, event_dropout=0.5, key_dropout=0.5, history_dropout=0.5)).eval()
    torch.testing.assert_close(built(eventful_batch()), slow_tower(built.state_dict(), EVENTFUL), rtol=0, atol=1e-6)


def test_gaps_are_read_where_that_is_asked():
    batch = eventful_batch()
    older = replace(batch, lists={**batch.lists, "met_age": batch.lists["met_age"] + 100})
    assert not torch.equal(tower()(older), tower()(batch))
    without = tower(replace(SHAPE, reads_gaps=False))
    assert torch.equal(without(older), without(batch))


def test_the_groups_are_read_off_the_schema():
    user, item = event_groups(eventful_schema())
    assert (user.own, user.events, user.attributes, user.values, user.ages) == (
        "item_id",
        "met",
        (),
        ("met_value",),
        "met_age",
    )
    assert (item.own, item.events, item.attributes) == ("user_id", "by", (("city", "by_city"),))


def test_a_schema_without_events_and_a_head_that_is_not_there_are_refused():
    document = eventful_schema().to_document()
    document["features"] = [each for each in document["features"] if each["name"] in ("user_id", "item_id", "city")]
    with pytest.raises(UsageError, match="has no events for a history tower"):
        event_groups(FeatureSchema.from_document(document))
    with pytest.raises(UsageError, match=r"names `vectorz`; expected some .*did you mean `vectors`"):
        tower(replace(SHAPE, frozen=("vectorz",)))


def test_its_description_comes_back_whole():
    spec = TowerSpec.reading_history(eventful_schema(), SHAPE)
    assert TowerSpec.from_document(spec.to_document()) == spec
