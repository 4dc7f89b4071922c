"""Wrapping refuses what the kernels would get wrong in silence, and two processes train as one on the joined batch."""

import copy
from itertools import product

import pytest
import torch
from torchrec.modules.embedding_configs import PoolingType

from recsys.errors import UsageError
from recsys.sharding.cluster import Bandwidths, Cluster
from recsys.sharding.inventory import inventory_of
from recsys.sharding.plan_rules import Planning, PlanRules
from recsys.sharding.whole_state import whole_state
from recsys.sharding.wrap import TableOptimizer, average_dense_gradients, wrap_ranker
from tests.sharding.tables import BAGS, FEATURES, TwoParts, keyed_ids, loss_of
from tests.sharding.two_processes import run_in_two
from tests.sharding.whole_loads import load_whole_state

SGD = TableOptimizer("sgd", 0.5)
BOTH = {"embedding_tower": SGD, "interaction_network": SGD}
# Remembers, so that the second step sees what the first one left.
ADAGRAD = TableOptimizer("adagrad", 0.5)
KINDS = list(product(["SUM", "MEAN"], ["table_wise", "row_wise", "column_wise"]))
PLANNED = list(product(["MEAN"], ["table_wise", "row_wise", "column_wise", "table_wise or row_wise"]))
CLUSTER = Cluster("cpu", 1, 2, 0, 10**6, Bandwidths(1e12, 1e11, 1e10, 1e11, 1e10), reserved_share=0.1)


def test_the_wrapped_module_is_the_ranker_with_its_named_children(context):
    ranker = TwoParts(PoolingType.SUM)

    wrapped = wrap_ranker(ranker, BOTH, context)

    assert wrapped.module is ranker
    assert [name for name, _ in ranker.named_children()] == ["embedding_tower", "interaction_network"]


def test_whole_tables_are_given_back_once_their_rows_lie_where_they_belong_and_replicated_ones_stay(context):
    ranker = TwoParts(PoolingType.SUM)
    sharded = list(ranker.embedding_tower.ebc.parameters())
    replicated = list(ranker.interaction_network.ebc.parameters())
    before = copy.deepcopy(ranker.state_dict())

    wrapped = wrap_ranker(ranker, dict.fromkeys(BOTH, ADAGRAD), context, {"interaction_network": "data_parallel"})

    # torch keeps the parameters themselves for as long as the process lives.
    assert [each.numel() for each in sharded] == [0, 0]
    assert [each.numel() for each in replicated] == [len(each) * each.shape[1] for each in replicated]
    assert {name: table.tolist() for name, table in whole_state(wrapped).items()} == {
        name: table.tolist() for name, table in before.items()
    }


def test_a_part_with_tables_and_no_optimizer_is_refused(context):
    with pytest.raises(UsageError, match=r"no table optimizer is given for `interaction_network` \(given: embedding_"):
        wrap_ranker(TwoParts(PoolingType.SUM), {"embedding_tower": SGD}, context)


def test_an_update_rule_that_the_kernels_lack_is_refused():
    with pytest.raises(UsageError, match="`adam`; the fused kernels have rowwise_adagrad, adagrad, sgd"):
        TableOptimizer("adam", 0.1)


def test_a_table_width_that_the_kernels_cannot_take_is_refused_with_one_that_they_can(context):
    with pytest.raises(UsageError, match=r"Table `brand_rows` of `embedding_tower\.ebc` is 6 wide; .* such as 8"):
        wrap_ranker(TwoParts(PoolingType.SUM, brand_width=6), BOTH, context)


def test_rowwise_adagrad_is_refused_for_tables_split_by_columns(context):
    rowwise = {part: TableOptimizer("rowwise_adagrad", 0.1) for part in BOTH}

    with pytest.raises(UsageError, match="Shard it table_wise or row_wise, or use adagrad"):
        wrap_ranker(TwoParts(PoolingType.SUM), rowwise, context, {"embedding_tower": "column_wise"})


def test_each_part_learns_at_its_own_rate(context):
    plain = TwoParts(PoolingType.SUM)
    rates = {"embedding_tower": 0.5, "interaction_network": 0.125}
    loss_of(plain, keyed_ids(BAGS[0])).backward()
    wrapped = wrap_ranker(copy.deepcopy(plain), {p: TableOptimizer("sgd", r) for p, r in rates.items()}, context)

    loss_of(wrapped, keyed_ids(BAGS[0])).backward()

    for name, p in plain.named_parameters():
        if "embedding_bags" in name:
            by_hand = p - rates[name.split(".")[0]] * p.grad
            assert torch.allclose(whole_state(wrapped)[name], by_hand, atol=1e-7)


def planning(types, cluster=CLUSTER, **rules):
    kinds = tuple(types.split(" or "))
    return Planning(cluster, PlanRules(dict.fromkeys(BOTH, kinds), {}, **rules), batch_rows=4)


def train_in_two(context):
    by_hand = {
        f"{pooling} {sharding}": trained(context, pooling, sharding=dict.fromkeys(BOTH, sharding))
        for pooling, sharding in KINDS
    }
    planned = {
        f"{pooling} planned {types}": trained(context, pooling, planning=planning(types)) for pooling, types in PLANNED
    }
    return by_hand | planned


def trained(context, pooling, **how):
    # Each process draws its own dense weights: wrapping must give all of them the first one's.
    ranker = TwoParts(PoolingType[pooling], seed=context.rank)
    load_whole_state(ranker, {**whole_state(TwoParts(PoolingType[pooling])), **drawn_dense(ranker)})
    wrapped = wrap_ranker(ranker, dict.fromkeys(BOTH, ADAGRAD), context, **how)
    for step in range(2):
        take_step(wrapped, BAGS[(step + context.rank) % 2], context)
    return {name: tensor.flatten().tolist() for name, tensor in whole_state(wrapped).items()}


def drawn_dense(ranker):
    return {name: p.detach().clone() for name, p in inventory_of(ranker).dense_parameters().items()}


def take_step(wrapped, bags, context):
    parameters = list(inventory_of(wrapped).dense_parameters().values())
    for parameter in parameters:
        parameter.grad = None
    loss_of(wrapped, keyed_ids(bags)).backward()
    average_dense_gradients(parameters, context)
    with torch.no_grad():
        for parameter in parameters:
            parameter -= 0.5 * parameter.grad


def test_two_processes_train_as_one_on_the_joined_batch_however_tables_are_sharded(tmp_path, context):
    joined = {feature: BAGS[0][feature] + BAGS[1][feature] for feature in FEATURES}

    first, second = run_in_two(train_in_two, tmp_path)

    assert first == second
    for pooling, sharding in [*KINDS, *((pooling, f"planned {types}") for pooling, types in PLANNED)]:
        alone = wrap_ranker(TwoParts(PoolingType[pooling]), dict.fromkeys(BOTH, ADAGRAD), context)
        for _ in range(2):
            take_step(alone, joined, context)
        for name, tensor in whole_state(alone).items():
            found = torch.tensor(first[f"{pooling} {sharding}"][name])
            # Two halves are summed in another order than one whole; row-wise means divide by length + 1e-6.
            assert torch.allclose(found, tensor.flatten(), atol=1e-5), (name, pooling, sharding)


def average_in_two(context):
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.tensor([1.0, 2.0]) * (context.rank + 1)
    if context.rank == 1:
        parameters[1].grad = torch.tensor([4.0, 6.0])
    average_dense_gradients(parameters, context)
    return [None if p.grad is None else p.grad.tolist() for p in parameters]


def test_a_gradient_absent_in_one_process_counts_as_zero_and_one_absent_everywhere_stays_absent(tmp_path):
    results = run_in_two(average_in_two, tmp_path)

    assert results[0] == results[1] == [[1.5, 3.0], [2.0, 3.0], None]
