"""Tables with widths of their own: their fields by hand, their gradients, and what cannot be."""

import pytest
import torch

from recsys.composition.conditional import SegmentRoutedComposition
from recsys.config.compose import compose_config
from recsys.errors import UsageError
from recsys.interactions.fields import InteractionFields
from recsys.run.record import run_params
from tests.small_model import FIELD_WIDTH, ROWS, ROWS_WITHOUT_LIGHT, batch_of, small_contract, small_ranker


def fields_with(widths: dict[str, int]) -> InteractionFields:
    torch.manual_seed(0)
    return InteractionFields(small_contract(), FIELD_WIDTH, has_tower_field=False, widths=widths)


def test_a_fields_vector_is_its_tables_times_the_projection():
    fields = fields_with({"item_id": 8})
    tables, (projection,) = fields.ebc.embedding_bags, fields.projections
    assert tables["network_item_id"].weight.shape == (6, 8)
    assert tables["network_user_id"].weight.shape == (5, FIELD_WIDTH)
    with torch.no_grad():
        # The first and the last number of a vector of eight, and twice their sum.
        projection.weight.zero_()
        projection.weight[0, 0] = projection.weight[1, 7] = 1.0
        projection.weight[2, 0] = projection.weight[2, 7] = 2.0
        tables["network_item_id"].weight.copy_(torch.arange(48.0).view(6, 8))
    batch = batch_of(ROWS[:1])  # item 2; recent items 3, 3 and 1, of the same table
    found = fields(fields.look_up(batch), batch.dense, None)[0]
    assert found.shape == (6, FIELD_WIDTH)
    assert torch.equal(found[0], tables["network_user_id"].weight[1])
    assert found[1].tolist() == [16.0, 23.0, 78.0, 0.0]
    first, last = (24 + 24 + 8) / 3, (31 + 31 + 15) / 3
    assert found[2].tolist() == pytest.approx([first, last, 2 * (first + last), 0.0])
    assert torch.equal(found[3], tables["network_user segment"].weight[0])


def test_every_projection_learns_and_a_batch_that_none_of_the_network_sees_gives_it_no_gradient():
    routes = [["embedding_tower"], ["interaction_network"], ["embedding_tower"]]
    for rows, is_seen in ((ROWS, True), (ROWS_WITHOUT_LIGHT, False)):
        ranker = small_ranker(lambda p: SegmentRoutedComposition(p, routes, None), widths={"user_id": 8, "recent": 12})
        ranker(batch_of(rows)).sum().backward()
        for projection in ranker.interaction_network.fields.projections:
            assert (projection.weight.grad is not None) is is_seen
            assert not is_seen or projection.weight.grad.any()


def test_no_widths_or_the_usual_one_change_no_bit():
    plain, usual = fields_with({}), fields_with({"item_id": FIELD_WIDTH})
    assert not plain.projections
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, usual.state_dict()[name]), name
    batch = batch_of(ROWS)
    assert torch.equal(*(each(each.look_up(batch), batch.dense, None) for each in (plain, usual)))
    assert compose_config([]).network.field_widths == {}


@pytest.mark.parametrize(
    ("widths", "words"),
    [
        ({"colour": 8}, "gives `colour` a width of 8, but the sparse features of interaction_network are user_id, "),
        ({"price": 8}, "gives `price` a width of 8"),
        ({"brand": 8}, "gives `brand` a width of 8"),
        ({"item_id": 8, "recent": 12}, "gives `recent` a width of 12 and another feature of its table `item_id`"),
    ],
    ids=["unknown", "a number", "the tower's alone", "two for one table"],
)
def test_widths_that_fit_no_table_are_refused(widths, words):
    with pytest.raises(UsageError, match=words):
        fields_with(widths)


def test_widths_are_one_param_of_a_run_whatever_features_have_them():
    for widths, param in (("{item_id: 8, user_id: 4}", "item_id 8,user_id 4"), ("{}", "none")):
        config = compose_config([f"network.field_widths={widths}"])
        assert run_params(config, "train", "cpu")["network.field_widths"] == param


def test_a_width_that_no_kernel_takes_is_refused_with_its_key():
    with pytest.raises(UsageError, match=r"`network.field_widths.item_id` is 6: .*multiple of 4"):
        compose_config(["network.field_widths={item_id: 6}"])
