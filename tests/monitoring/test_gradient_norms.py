"""A part's norm is that of the gradient that the same model, unfused, has in `.grad`: exact, tables included."""

import copy
from itertools import product

import pytest
import torch
from torchrec.modules.embedding_configs import PoolingType

from recsys.errors import TrainingError
from recsys.monitoring.gradient_norms import gradient_norms
from recsys.sharding.fused import dense_parameters
from recsys.sharding.gate import TableGate
from recsys.sharding.wrap import TableOptimizer, average_dense_gradients, wrap_ranker
from tests.sharding.tables import BAGS, FEATURES, TwoParts, keyed_ids, loss_of, norms_by_hand
from tests.sharding.two_processes import run_in_two

ADAGRAD = TableOptimizer("adagrad", 0.5)
BOTH = {"embedding_tower": ADAGRAD, "interaction_network": ADAGRAD}
KINDS = list(product(["SUM", "MEAN"], ["table_wise", "row_wise", "column_wise"]))


def gated(model, context, optimizers=BOTH, sharding=None):
    wrapped = wrap_ranker(model, optimizers, context, sharding)
    return wrapped, TableGate(wrapped)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("pooling", [PoolingType.SUM, PoolingType.MEAN])
@pytest.mark.parametrize("bags", BAGS)
def test_norms_equal_those_of_the_unfused_model(context, pooling, weighted, bags):
    if weighted and pooling is PoolingType.MEAN:
        pytest.skip("nn.EmbeddingBag has no weighted mean to compare with")
    plain = TwoParts(pooling, weighted=weighted)
    wrapped, gate = gated(copy.deepcopy(plain), context)
    loss_of(plain, keyed_ids(bags, weighted)).backward()

    loss_of(wrapped, keyed_ids(bags, weighted)).backward()

    assert gradient_norms(wrapped, gate, context) == pytest.approx(norms_by_hand(plain), rel=1e-5)


def test_a_row_looked_up_twice_counts_with_its_summed_gradient(context):
    """Item 3 is looked up with gradients a and b: its norm is |a + b|, and not the root of |a|^2 + |b|^2."""
    wrapped, gate = gated(TwoParts(PoolingType.SUM), context)
    bags = {"item": [[3], [3]], "brand": [[], []], "recent": [[], []], "user": [[0], [0]]}
    wrapped(keyed_ids(bags)).sum().backward()

    with torch.no_grad():
        per_lookup = (
            wrapped.module.embedding_tower.linear.weight[0, :8] * wrapped.module.interaction_network(keyed_ids(bags))[0]
        )
    items = gate.squared_norms()["embedding_tower.ebc.embedding_bags.item_rows.weight"].sqrt().item()

    assert items == pytest.approx(2 * per_lookup.norm().item(), rel=1e-5)


def test_several_forward_passes_in_one_step_have_the_norm_of_their_sum(context):
    plain = TwoParts(PoolingType.MEAN)
    wrapped, gate = gated(copy.deepcopy(plain), context)
    (loss_of(plain, keyed_ids(BAGS[0])) + loss_of(plain, keyed_ids(BAGS[1]))).backward()

    (loss_of(wrapped, keyed_ids(BAGS[0])) + loss_of(wrapped, keyed_ids(BAGS[1]))).backward()

    assert gradient_norms(wrapped, gate, context) == pytest.approx(norms_by_hand(plain), rel=1e-5)


def test_a_frozen_parts_norm_is_zero_and_the_others_stay(context):
    plain = TwoParts(PoolingType.MEAN)
    frozen = copy.deepcopy(plain)
    frozen.embedding_tower.is_frozen = True
    wrapped, gate = gated(frozen, context, {**BOTH, "embedding_tower": None})
    loss_of(plain, keyed_ids(BAGS[0])).backward()
    by_hand = norms_by_hand(plain)

    loss_of(wrapped, keyed_ids(BAGS[0])).backward()
    norms = gradient_norms(wrapped, gate, context)

    assert norms["embedding_tower"] == 0.0
    assert norms["interaction_network"] == pytest.approx(by_hand["interaction_network"], rel=1e-5)
    assert norms["whole"] == norms["interaction_network"]


def test_a_table_that_learns_past_the_gate_is_not_called_zero(context):
    wrapped, gate = gated(TwoParts(PoolingType.MEAN), context)
    gate.close()
    loss_of(wrapped, keyed_ids(BAGS[0])).backward()

    with pytest.raises(
        TrainingError, match=r"The gradient of `embedding_tower\.ebc\.embedding_bags\.item_rows\.weight`"
    ):
        gradient_norms(wrapped, gate, context)


def norms_in_two(context):
    return {f"{pooling} {sharding}": norms_of(context, pooling, sharding) for pooling, sharding in KINDS}


def norms_of(context, pooling, sharding):
    wrapped, gate = gated(TwoParts(PoolingType[pooling]), context, sharding=dict.fromkeys(BOTH, sharding))
    loss_of(wrapped, keyed_ids(BAGS[context.rank])).backward()
    average_dense_gradients(list(dense_parameters(wrapped).values()), context)
    return gradient_norms(wrapped, gate, context)


def test_two_processes_report_the_norm_of_the_mean_of_their_losses_however_tables_are_sharded(tmp_path):
    joined = {feature: BAGS[0][feature] + BAGS[1][feature] for feature in FEATURES}

    first, second = run_in_two(norms_in_two, tmp_path)

    assert first == second
    for pooling, sharding in KINDS:
        plain = TwoParts(PoolingType[pooling])
        loss_of(plain, keyed_ids(joined)).backward()
        assert first[f"{pooling} {sharding}"] == pytest.approx(norms_by_hand(plain), rel=1e-5), (pooling, sharding)
