"""The gate holds the fused update back until it is released or discarded."""

import copy

import pytest
import torch
from torchrec.modules.embedding_configs import PoolingType

from recsys.sharding.gate import TableGate
from recsys.sharding.whole_state import table_weights
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from tests.sharding.tables import BAGS, TwoParts, keyed_ids, loss_of
from tests.sharding.whole_loads import table_optimizer_state

YES, NO = torch.tensor(True), torch.tensor(False)
SGD = TableOptimizer("sgd", 0.5)


def gated_parts(context, optimizer=SGD, **options):
    plain = TwoParts(PoolingType.MEAN, **options)
    optimizers = {"embedding_tower": optimizer, "interaction_network": optimizer}
    wrapped = wrap_ranker(copy.deepcopy(plain), optimizers, context)
    return plain, wrapped, TableGate(wrapped)


def plain_tables(plain):
    return {name: p for name, p in plain.named_parameters() if "embedding_bags" in name}


def test_tables_are_unchanged_until_the_gate_opens(context):
    plain, wrapped, gate = gated_parts(context)
    loss_of(wrapped, keyed_ids(BAGS[0])).backward()
    held = table_weights(wrapped)

    gate.release(YES)

    for name, table in plain_tables(plain).items():
        assert torch.equal(held[name], table)
        assert not torch.equal(table_weights(wrapped)[name], table)


def test_a_released_update_is_the_one_that_the_kernel_would_have_made(context):
    rowwise = TableOptimizer("rowwise_adagrad", 0.5)
    _, gated, gate = gated_parts(context, rowwise)
    _, free, free_gate = gated_parts(context, rowwise)
    free_gate.close()

    for bags in BAGS:
        loss_of(gated, keyed_ids(bags)).backward()
        gate.release(YES)
        loss_of(free, keyed_ids(bags)).backward()

    for name, weight in {**table_weights(free), **table_optimizer_state(free)}.items():
        assert torch.equal({**table_weights(gated), **table_optimizer_state(gated)}[name], weight)


def test_a_scaled_update_moves_tables_by_the_scaled_gradient(context):
    plain, wrapped, gate = gated_parts(context)
    loss_of(plain, keyed_ids(BAGS[0])).backward()

    loss_of(wrapped, keyed_ids(BAGS[0])).backward()
    gate.release(YES, scale=torch.tensor(0.25))

    for name, table in plain_tables(plain).items():
        by_hand = table - 0.5 * 0.25 * table.grad
        assert torch.allclose(table_weights(wrapped)[name], by_hand, atol=1e-7)


def test_a_withheld_update_moves_nothing_and_is_not_made_up_for_later(context):
    plain, wrapped, gate = gated_parts(context)
    loss_of(wrapped, keyed_ids(BAGS[0])).backward()
    gate.release(NO)
    for name, table in plain_tables(plain).items():
        assert torch.equal(table_weights(wrapped)[name], table)

    loss_of(plain, keyed_ids(BAGS[1])).backward()
    loss_of(wrapped, keyed_ids(BAGS[1])).backward()
    gate.release(YES)

    for name, table in plain_tables(plain).items():
        assert torch.allclose(table_weights(wrapped)[name], table - 0.5 * table.grad, atol=1e-7)


def test_evaluation_passes_the_gate_unseen(context):
    _, wrapped, gate = gated_parts(context)

    with torch.no_grad():
        wrapped(keyed_ids(BAGS[0]))

    assert gate.gradients() == []


def test_a_closed_gate_leaves_the_kernels_as_they_were(context):
    plain, wrapped, gate = gated_parts(context)
    gate.close()

    loss_of(wrapped, keyed_ids(BAGS[0])).backward()

    for name, table in plain_tables(plain).items():
        assert not torch.equal(table_weights(wrapped)[name], table)


@pytest.mark.parametrize("brand_width", [8, 4])  # 4: two widths in one kernel, where the items' table is 8 wide
def test_each_tables_norm_is_that_of_its_dense_gradient(context, brand_width):
    plain, wrapped, gate = gated_parts(context, brand_width=brand_width)
    loss_of(plain, keyed_ids(BAGS[0])).backward()

    loss_of(wrapped, keyed_ids(BAGS[0])).backward()

    for name, squared in gate.squared_norms().items():
        # Relative rounding of single precision over a handful of additions.
        assert squared.sqrt().item() == pytest.approx(plain_tables(plain)[name].grad.double().norm().item(), rel=1e-6)
