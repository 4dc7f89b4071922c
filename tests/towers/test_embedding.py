"""The embedding tower by itself."""

import math
from dataclasses import replace

import pytest
import torch

from recsys.errors import DataError, UsageError
from recsys.features.schema import USER_TOWER
from recsys.towers.embedding import EmbeddingTower
from recsys.towers.tower_spec import TowerSpec
from tests.small_model import ROWS, batch_of, small_contract, small_schema, two_tower_spec


def small_tower(spec: TowerSpec | None = None) -> EmbeddingTower:
    torch.manual_seed(0)
    return EmbeddingTower(spec or two_tower_spec(), small_contract())


def imported_spec() -> TowerSpec:
    return TowerSpec.imported(small_schema(), width=4)


def without_user_side() -> TowerSpec:
    return replace(imported_spec(), user_features=())


def test_each_side_reads_the_features_that_the_schema_gives_it() -> None:
    spec = two_tower_spec()

    assert spec.user_features == ("age", "user_id", "recent")
    assert spec.item_features == ("item_id", "price", "brand")


def test_features_that_share_a_vocabulary_share_one_table() -> None:
    assert set(small_tower().ebc.embedding_bags) == {"tower_user_id", "tower_item_id", "tower_brand"}


def test_both_sides_of_a_two_tower_are_unit_vectors() -> None:
    user, item = small_tower().sides(batch_of(ROWS))

    assert user.shape == item.shape == (6, 4)
    torch.testing.assert_close(user.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(item.norm(dim=1), torch.ones(6))


def test_the_ranker_gets_both_sides_and_their_product_at_unit_scale() -> None:
    tower, batch = small_tower(), batch_of(ROWS)
    user, item = (side * math.sqrt(4) for side in tower.sides(batch))

    output = tower(batch)

    assert output.shape == (6, tower.output_width) == (6, 12)
    torch.testing.assert_close(output, torch.cat([user, item, user * item], dim=1))
    torch.testing.assert_close(output[:, :4].square().mean(dim=1), torch.ones(6))


def test_an_imported_towers_item_is_its_row_and_its_user_the_mean_of_the_recent_items() -> None:
    tower = small_tower(imported_spec())
    table = tower.ebc.embedding_bags["tower_item_id"].weight

    output = tower(batch_of(ROWS))

    user, item = table[[3, 3, 1]].mean(dim=0), table[2]
    torch.testing.assert_close(output[0], torch.cat([user, item, user * item]))
    assert not output[1, :4].any(), "an empty list of recent items is a zero vector"


def test_an_imported_tower_has_no_user_side_where_no_list_shares_the_items_table() -> None:
    schema = small_schema()
    recent = replace(schema.feature("recent"), table="other")
    schema = replace(schema, features=tuple(recent if f.name == "recent" else f for f in schema.features))

    assert TowerSpec.imported(schema, width=4).user_features == ()


def test_a_tower_without_a_user_side_gives_the_item_alone_and_refuses_to_give_both() -> None:
    tower, batch = small_tower(without_user_side()), batch_of(ROWS)
    table = tower.ebc.embedding_bags["tower_item_id"].weight

    assert tower.output_width == 4
    torch.testing.assert_close(tower(batch), table[[row.item_id for row in ROWS]])
    with pytest.raises(UsageError, match="no user side"):
        tower.sides(batch)


@pytest.mark.parametrize("spec", [two_tower_spec(), imported_spec(), without_user_side()])
def test_chosen_rows_get_what_they_get_in_the_whole_batch(spec: TowerSpec) -> None:
    tower, batch = small_tower(spec), batch_of(ROWS)

    torch.testing.assert_close(tower(batch, torch.tensor([5, 0])), tower(batch)[[5, 0]])


@pytest.mark.parametrize("spec", [two_tower_spec(), imported_spec(), without_user_side()])
def test_without_rows_there_is_a_graph_to_the_tables_and_no_gradient_for_the_layers(spec: TowerSpec) -> None:
    tower = small_tower(spec)

    result = tower(batch_of(ROWS), torch.tensor([], dtype=torch.int64))
    result.sum().backward()

    assert result.shape == (0, tower.output_width)
    reached = {name for name, parameter in tower.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, _ in tower.named_parameters() if name.startswith("ebc.")}


@pytest.mark.parametrize("spec", [two_tower_spec(), imported_spec(), without_user_side()])
def test_a_frozen_tower_makes_no_graph_and_stays_in_evaluation_mode(spec: TowerSpec) -> None:
    tower, batch = small_tower(spec), batch_of(ROWS)
    assert tower(batch).requires_grad

    tower.is_frozen = True
    tower.train()

    assert not tower(batch).requires_grad
    assert not any(module.training for module in tower.modules())


def test_a_frozen_tower_says_the_same_as_one_that_learns() -> None:
    tower, batch = small_tower(), batch_of(ROWS)
    learning = tower(batch)
    tower.is_frozen = True

    assert torch.equal(tower(batch), learning)


def test_a_side_without_sparse_feature_is_refused_by_name() -> None:
    schema = small_schema()
    features = tuple(
        replace(f, used_by=tuple(part for part in f.used_by if part != USER_TOWER)) if f.name != "age" else f
        for f in schema.features
    )

    with pytest.raises(UsageError, match=r"user_tower the features \['age'\]; expected at least one sparse"):
        TowerSpec.two_tower(replace(schema, features=features), width=4, table_dimension=4, hidden_widths=[])


@pytest.mark.parametrize("spec", [two_tower_spec(), imported_spec(), without_user_side()])
def test_a_description_survives_its_own_json_values(spec: TowerSpec) -> None:
    assert TowerSpec.from_document(spec.to_document()) == spec


def test_a_description_with_an_unknown_key_or_kind_is_refused() -> None:
    document = two_tower_spec().to_document()

    with pytest.raises(DataError, match="depth"):
        TowerSpec.from_document({**document, "depth": 3})
    with pytest.raises(DataError, match="three_tower"):
        TowerSpec.from_document({**document, "kind": "three_tower"})
