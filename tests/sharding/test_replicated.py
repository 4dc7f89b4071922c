"""Replicated tables learn as the fused kernels do, by the gate alone, and are the same in every process."""

import copy

import pytest
import torch
from torchrec.modules.embedding_configs import PoolingType

from recsys.sharding.gate import TableGate
from recsys.sharding.inventory import inventory_of
from recsys.sharding.whole_state import table_weights
from recsys.sharding.wrap import TableOptimizer, average_dense_gradients, wrap_ranker
from tests.sharding.tables import BAGS, FEATURES, TwoParts, keyed_ids, loss_of
from tests.sharding.two_processes import run_in_two
from tests.sharding.whole_loads import load_table_optimizer_state, table_optimizer_state

YES, NO = torch.tensor(True), torch.tensor(False)
PARTS = ("embedding_tower", "interaction_network")
REPLICATED = dict.fromkeys(PARTS, "data_parallel")
RULES = ["sgd", "adagrad", "rowwise_adagrad"]


def wrapped_parts(context, rule, sharding, seed=0):
    plain = TwoParts(PoolingType.MEAN, seed=seed)
    wrapped = wrap_ranker(plain, dict.fromkeys(PARTS, TableOptimizer(rule, 0.5)), context, sharding)
    return wrapped, TableGate(wrapped)


def learn(context, wrapped, gate, bags, scale=None):
    loss_of(wrapped, keyed_ids(bags)).backward()
    average_dense_gradients(inventory_of(wrapped).averaged_parameters(), context)
    gate.release(YES, scale)


@pytest.mark.parametrize("rule", RULES)
def test_they_learn_as_fused_tables_do(context, rule):
    fused, fused_gate = wrapped_parts(context, rule, None)
    replicated, gate = wrapped_parts(context, rule, REPLICATED)

    for step, bags in enumerate([*BAGS, *BAGS]):
        learn(context, fused, fused_gate, bags, torch.tensor(0.25 if step == 1 else 1.0))
        learn(context, replicated, gate, bags, torch.tensor(0.25 if step == 1 else 1.0))

    assert inventory_of(fused).tables.keys() == inventory_of(replicated).tables.keys()
    assert [t.optimizer for t in inventory_of(fused).tables.values()] == [
        t.optimizer for t in inventory_of(replicated).tables.values()
    ]
    expected = {**table_weights(fused), **table_optimizer_state(fused)}
    found = {**table_weights(replicated), **table_optimizer_state(replicated)}
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        # Adagrad divides a small gradient by a small root: rounding is relative to a step of 0.5.
        assert torch.allclose(found[name], tensor, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("rule", RULES)
def test_a_withheld_update_moves_no_bit_of_them(context, rule):
    wrapped, gate = wrapped_parts(context, rule, REPLICATED)
    learn(context, wrapped, gate, BAGS[0])
    before = {**table_weights(wrapped), **table_optimizer_state(wrapped)}

    loss_of(wrapped, keyed_ids(BAGS[1])).backward()
    gate.release(NO)

    assert all(
        torch.equal(t, before[n]) for n, t in {**table_weights(wrapped), **table_optimizer_state(wrapped)}.items()
    )
    assert all(
        table.grad is None
        for table in inventory_of(wrapped).averaged_parameters()
        if table.dim() == 2 and table.shape[1] == 8
    )


@pytest.mark.parametrize("rule", RULES)
def test_rows_that_no_id_names_keep_every_bit(context, rule):
    wrapped, gate = wrapped_parts(context, rule, REPLICATED)
    learn(context, wrapped, gate, BAGS[0])
    before = table_weights(wrapped)["embedding_tower.ebc.embedding_bags.brand_rows.weight"]

    learn(context, wrapped, gate, BAGS[1])  # in which no brand is looked up

    assert torch.equal(table_weights(wrapped)["embedding_tower.ebc.embedding_bags.brand_rows.weight"], before)


def test_their_rate_is_set_like_any_kernels(context):
    wrapped, gate = wrapped_parts(context, "sgd", REPLICATED)
    before = table_weights(wrapped)

    for kernel in inventory_of(wrapped).kernels():
        kernel.set_learning_rate(0.0)
    learn(context, wrapped, gate, BAGS[0])

    assert [kernel.learning_rate for kernel in inventory_of(wrapped).kernels()] == [0.0, 0.0]
    assert all(torch.equal(weight, before[name]) for name, weight in table_weights(wrapped).items())


def test_their_accumulators_come_back_as_they_were_saved(context):
    wrapped, gate = wrapped_parts(context, "rowwise_adagrad", REPLICATED)
    learn(context, wrapped, gate, BAGS[0])
    saved = copy.deepcopy(table_optimizer_state(wrapped))
    learn(context, wrapped, gate, BAGS[1])

    load_table_optimizer_state(wrapped, saved)

    assert all(torch.equal(state, saved[name]) for name, state in table_optimizer_state(wrapped).items())


def test_a_frozen_part_of_them_keeps_every_bit(context):
    frozen = TwoParts(PoolingType.MEAN)
    frozen.embedding_tower.is_frozen = True
    optimizers = {"embedding_tower": None, "interaction_network": TableOptimizer("adagrad", 0.5)}
    wrapped = wrap_ranker(frozen, optimizers, context, REPLICATED)
    before = table_weights(wrapped)

    learn(context, wrapped, TableGate(wrapped), BAGS[0])

    moved = {n.split(".")[0] for n, weight in table_weights(wrapped).items() if not torch.equal(weight, before[n])}
    assert moved == {"interaction_network"}


def learn_in_two(context):
    wrapped, gate = wrapped_parts(context, "adagrad", REPLICATED, seed=context.rank)
    started = {name: weight.tolist() for name, weight in table_weights(wrapped).items()}
    learn(context, wrapped, gate, BAGS[context.rank])
    return started, {name: weight.tolist() for name, weight in table_weights(wrapped).items()}


def test_two_processes_start_from_the_first_ones_tables_and_learn_from_both_batches(tmp_path, context):
    (started, learned), (started_too, learned_too) = run_in_two(learn_in_two, tmp_path)
    wrapped, gate = wrapped_parts(context, "adagrad", None)
    learn(context, wrapped, gate, {feature: BAGS[0][feature] + BAGS[1][feature] for feature in FEATURES})

    assert started == started_too
    assert learned == learned_too
    for name, weight in table_weights(wrapped).items():
        assert torch.allclose(torch.tensor(learned[name]), weight, atol=1e-5)
