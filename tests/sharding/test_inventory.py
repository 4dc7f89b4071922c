"""Whole tables and accumulators go into the kernels and come out again, under the plain module's names."""

import copy

import pytest
import torch
from torchrec.modules.embedding_configs import PoolingType

from recsys.errors import DataError
from recsys.sharding.divided_state import divided_state
from recsys.sharding.inventory import inventory_of
from recsys.sharding.whole_state import load_table_weights, table_weights, whole_in_first, whole_state
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from tests.sharding.tables import BAGS, TwoParts, keyed_ids, loss_of
from tests.sharding.two_processes import run_in_two
from tests.sharding.whole_loads import load_table_optimizer_state, load_whole_state, table_optimizer_state

ROWWISE = TableOptimizer("rowwise_adagrad", 0.1)
OPTIMIZERS = {"embedding_tower": ROWWISE, "interaction_network": ROWWISE}
ITEMS = "embedding_tower.ebc.embedding_bags.item_rows.weight"


def wrapped_parts(context, optimizers=OPTIMIZERS):
    plain = TwoParts(PoolingType.MEAN)
    return plain, wrap_ranker(copy.deepcopy(plain), optimizers, context)


def test_tables_keep_their_weights_when_they_are_wrapped(context):
    plain, wrapped = wrapped_parts(context)

    after = table_weights(wrapped)

    assert set(after) == {name for name in plain.state_dict() if "embedding_bags" in name}
    for name, weight in after.items():
        assert torch.equal(weight, plain.state_dict()[name])


def test_a_wrapped_model_scores_as_the_plain_one(context):
    plain, wrapped = wrapped_parts(context)

    for bags in BAGS:
        assert torch.allclose(wrapped(keyed_ids(bags)), plain(keyed_ids(bags)), atol=1e-7)


def test_the_whole_state_of_a_wrapped_model_loads_into_a_plain_one_and_back(context):
    _, wrapped = wrapped_parts(context)
    loss_of(wrapped, keyed_ids(BAGS[0])).backward()
    plain = TwoParts(PoolingType.MEAN, seed=1)

    plain.load_state_dict(whole_state(wrapped))
    other = wrap_ranker(TwoParts(PoolingType.MEAN, seed=2), OPTIMIZERS, context)
    load_whole_state(other, plain.state_dict())

    for name, tensor in whole_state(wrapped).items():
        assert torch.equal(tensor, plain.state_dict()[name]), name
        assert torch.equal(tensor, whole_state(other)[name]), name


def test_dense_parameters_are_those_that_are_no_table(context):
    plain, wrapped = wrapped_parts(context)

    expected = {f"{part}.linear.{kind}" for part in OPTIMIZERS for kind in ("weight", "bias")}

    assert set(inventory_of(wrapped).dense_parameters()) == expected == set(inventory_of(plain).dense_parameters())


def test_rowwise_adagrad_keeps_the_mean_square_of_each_rows_gradient(context):
    plain, wrapped = wrapped_parts(context)
    loss_of(plain, keyed_ids(BAGS[0])).backward()

    loss_of(wrapped, keyed_ids(BAGS[0])).backward()

    by_hand = plain.embedding_tower.ebc.embedding_bags["item_rows"].weight.grad.square().mean(dim=1)
    # Relative rounding of single precision over a handful of additions.
    assert torch.allclose(table_optimizer_state(wrapped)[f"{ITEMS}.sum"], by_hand, rtol=1e-5, atol=0)


def test_accumulators_come_back_as_they_were(context):
    _, trained = wrapped_parts(context)
    loss_of(trained, keyed_ids(BAGS[0])).backward()
    _, fresh = wrapped_parts(context)

    load_table_optimizer_state(fresh, table_optimizer_state(trained))

    for name, state in table_optimizer_state(trained).items():
        assert state.any()
        assert torch.equal(table_optimizer_state(fresh)[name], state)


def test_a_part_without_optimizer_has_no_accumulators_and_does_not_move(context):
    plain, wrapped = wrapped_parts(context, {**OPTIMIZERS, "embedding_tower": None})

    loss_of(wrapped, keyed_ids(BAGS[0])).backward()

    assert not [name for name in table_optimizer_state(wrapped) if name.startswith("embedding_tower")]
    assert torch.equal(table_weights(wrapped)[ITEMS], plain.state_dict()[ITEMS])
    assert {rule.optimizer for name, rule in inventory_of(wrapped).tables.items() if "tower" in name} == {"exact_sgd"}


def test_the_rate_of_a_kernel_holds_for_the_next_backward_pass(context):
    _, wrapped = wrapped_parts(context)
    before = table_weights(wrapped)

    for kernel in inventory_of(wrapped.module.embedding_tower).fused:
        kernel.set_learning_rate(0.0)
    loss_of(wrapped, keyed_ids(BAGS[0])).backward()

    moved = {
        name.split(".")[0] for name, weight in table_weights(wrapped).items() if not torch.equal(weight, before[name])
    }
    assert moved == {"interaction_network"}


def test_a_table_of_another_size_is_refused_by_name(context):
    _, wrapped = wrapped_parts(context)
    weights = table_weights(wrapped)

    with pytest.raises(DataError, match=r"item_rows\.weight` has shape \(7, 8\) in the saved state and \(5, 8\)"):
        load_table_weights(wrapped, {**weights, ITEMS: torch.zeros(7, 8)})
    with pytest.raises(DataError, match=r"has no `embedding_tower\.ebc\.embedding_bags\.item_rows\.weight`"):
        load_table_weights(wrapped, {name: weight for name, weight in weights.items() if name != ITEMS})


def test_state_of_another_model_is_refused_by_name(context):
    _, wrapped = wrapped_parts(context)

    with pytest.raises(DataError, match=r"holds `head\.bias` \(1 such\), which this model has not"):
        load_whole_state(wrapped, {**whole_state(wrapped), "head.bias": torch.zeros(1)})


def test_an_id_outside_its_table_stops_the_run(context):
    _, wrapped = wrapped_parts(context)
    bags = {**BAGS[0], "brand": [[1], [], [3], [1]]}  # brands 0 to 2 exist

    with pytest.raises(RuntimeError, match="idx"):
        wrapped(keyed_ids(bags))


def whole_state_in_two(context):
    return [there_and_back(context, sharding) for sharding in ("table_wise", "row_wise", "column_wise")]


def there_and_back(context, sharding):
    optimizer = TableOptimizer("adagrad", 0.1)
    plain = TwoParts(PoolingType.MEAN)
    wrapped = wrap_ranker(
        copy.deepcopy(plain),
        {"embedding_tower": optimizer, "interaction_network": optimizer},
        context,
        {"embedding_tower": sharding, "interaction_network": sharding},
    )
    kept = all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in whole_state(wrapped).items())
    loss_of(wrapped, keyed_ids(BAGS[context.rank])).backward()
    in_first, learnt = whole_in_first(divided_state(wrapped)), whole_state(wrapped)
    kept = kept and in_first.keys() == (learnt.keys() if context.is_first else set())
    kept = kept and all(torch.equal(tensor, learnt[name]) for name, tensor in in_first.items())
    weights, state = table_weights(wrapped), table_optimizer_state(wrapped)
    fresh = wrap_ranker(TwoParts(PoolingType.MEAN, seed=3), dict.fromkeys(OPTIMIZERS, optimizer), context)
    load_table_weights(fresh, weights)
    load_table_optimizer_state(fresh, state)
    again = {**table_weights(fresh), **table_optimizer_state(fresh)}
    came_back = all(torch.equal(tensor, again[name]) for name, tensor in {**weights, **state}.items())
    return {"kept": kept, "came_back": came_back, "accumulated": [name for name, t in state.items() if t.any()]}


def test_two_processes_put_whole_tables_together_and_take_them_apart_however_they_are_sharded(tmp_path):
    first, second = run_in_two(whole_state_in_two, tmp_path)

    for result in (*first, *second):
        assert result["kept"]
        assert result["came_back"]
        assert len(result["accumulated"]) == 3  # items, brands and users
