"""Fields and the network over them."""

import pytest
import torch

from recsys.interactions.cross import CrossNetwork
from recsys.interactions.fields import InteractionFields
from recsys.interactions.network import InteractionNetwork
from tests.small_model import ROWS, batch_of, small_contract


def small_network(*, has_tower_field: bool = False) -> InteractionNetwork:
    torch.manual_seed(0)
    fields = InteractionFields(small_contract(), dimension=4, has_tower_field=has_tower_field)
    return InteractionNetwork(fields, CrossNetwork(fields.num_fields, 4, num_layers=1), [6], dropout=0.0)


def test_every_feature_of_the_network_and_the_segment_is_a_field() -> None:
    # user_id, item_id and recent, the segment, then age and price; brand is the tower's alone.
    assert small_network().fields.num_fields == 6
    assert small_network(has_tower_field=True).fields.num_fields == 7


def test_fields_of_a_sparse_feature_are_its_rows_of_the_table_and_of_a_list_their_mean() -> None:
    network = small_network()
    looked_up = network.fields.look_up(batch_of(ROWS)).unflatten(1, (-1, 4))
    tables = {name: bag.weight for name, bag in network.fields.ebc.embedding_bags.items()}

    assert looked_up.shape == (6, 4, 4)
    torch.testing.assert_close(looked_up[0, 0], tables["network_user_id"][1])
    torch.testing.assert_close(looked_up[0, 1], tables["network_item_id"][2])
    torch.testing.assert_close(looked_up[0, 2], tables["network_item_id"][[3, 3, 1]].mean(dim=0))
    torch.testing.assert_close(looked_up[:, 3], tables["network_user segment"][[0, 2, 0, 1, 2, 0]])


def test_an_empty_list_is_a_zero_vector() -> None:
    assert not small_network().fields.look_up(batch_of(ROWS))[1, 8:12].any()


def test_a_dense_features_field_is_the_relu_of_its_own_line() -> None:
    fields = small_network().fields
    with torch.no_grad():
        fields.dense_weight.copy_(torch.tensor([[1.0, -1.0, 2.0, 0.0], [3.0, 0.0, 0.0, 0.0]]))
        fields.dense_bias.copy_(torch.tensor([[0.0, 0.0, -0.5, 1.0], [0.0, 2.0, -2.0, 0.0]]))

    result = fields(torch.zeros(1, 16), torch.tensor([[0.5, -1.0]]), None)

    # age 0.5: (0.5, -0.5 -> 0, 1 - 0.5, 1); price -1: (-3 -> 0, 2, -2 -> 0, 0)
    assert result[0, 4].tolist() == [0.5, 0.0, 0.5, 1.0]
    assert result[0, 5].tolist() == [0.0, 2.0, 0.0, 0.0]


def test_the_row_of_unknown_ids_starts_at_zero_and_the_others_do_not() -> None:
    table = small_network().fields.ebc.embedding_bags["network_item_id"].weight

    assert not table[0].any()
    assert table[1:].any(dim=1).all()
    assert small_network().fields.ebc.embedding_bags["network_user segment"].weight.any(dim=1).all()


@pytest.mark.parametrize("rows", [[4, 1], [3]])
def test_chosen_rows_get_what_they_get_in_the_whole_batch(rows: list[int]) -> None:
    network, batch = small_network(), batch_of(ROWS)

    torch.testing.assert_close(network(batch, torch.tensor(rows)), network(batch)[rows])


def test_without_rows_there_is_a_graph_to_the_tables_and_no_gradient_for_the_layers() -> None:
    network = small_network()

    result = network(batch_of(ROWS), torch.tensor([], dtype=torch.int64))
    result.sum().backward()

    assert result.shape == (0, 6)
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, _ in network.named_parameters() if ".ebc." in name}


def test_the_towers_vector_is_the_last_field() -> None:
    network, batch = small_network(has_tower_field=True), batch_of(ROWS)
    tower = torch.randn(6, 4)

    fields = network.fields(network.fields.look_up(batch), batch.dense, tower)

    assert fields.shape == (6, 7, 4)
    assert torch.equal(fields[:, 6], tower)
    assert network(batch, tower_field=tower).shape == (6, 6)
