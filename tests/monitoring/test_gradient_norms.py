"""Norms are those of the gradient that the same model, unfused, has in `.grad`: exact, tables included.

The tolerance of 1e-5 is what the norms promise; rounding of single precision is about 1e-7 here.
"""

import copy
from itertools import product

import pytest
import torch
from torchrec.modules.embedding_configs import PoolingType

from recsys.errors import TrainingError
from recsys.monitoring.gradient_norms import gradient_norms
from recsys.sharding.gate import TableGate
from recsys.sharding.inventory import inventory_of
from recsys.sharding.wrap import TableOptimizer, average_dense_gradients, wrap_ranker
from recsys.training.objectives.log_loss import log_loss_objective
from recsys.training.objectives.ordinal import OrdinalObjective
from tests.method.test_objectives_equal_a_plain_model import GRADED, ranker_of
from tests.method.test_objectives_equal_a_plain_model import batch as graded_batch
from tests.sharding.tables import BAGS, TwoParts, keyed_ids, loss_of, norm, norms_by_hand
from tests.sharding.two_processes import run_in_two
from tests.small_model import ROWS_WITHOUT_LIGHT, batch_of
from tests.training.small_run import gated_ranker

ADAGRAD = TableOptimizer("adagrad", 0.5)
BOTH = {"embedding_tower": ADAGRAD, "interaction_network": ADAGRAD}
SHARDINGS = ["table_wise", "row_wise", "column_wise", "data_parallel"]
# Pooling, weighted ids, how the tables lie. Weighted means: `tests/method`.
KINDS = list(product([("SUM", False), ("SUM", True), ("MEAN", False)], SHARDINGS))


def gated(model, context, optimizers=BOTH, sharding=None):
    wrapped = wrap_ranker(model, optimizers, context, sharding)
    return wrapped, TableGate(wrapped)


@pytest.mark.parametrize(("pooled", "sharding"), KINDS)
@pytest.mark.parametrize("bags", BAGS)
def test_norms_equal_those_of_the_unfused_model(context, pooled, sharding, bags):
    pooling, weighted = pooled
    plain = TwoParts(PoolingType[pooling], weighted=weighted)
    wrapped, gate = gated(copy.deepcopy(plain), context, sharding=dict.fromkeys(BOTH, sharding))
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


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_several_forward_passes_in_one_step_have_the_norm_of_their_sum(context, sharding):
    plain = TwoParts(PoolingType.MEAN)
    wrapped, gate = gated(copy.deepcopy(plain), context, sharding=dict.fromkeys(BOTH, sharding))
    (loss_of(plain, keyed_ids(BAGS[0])) + loss_of(plain, keyed_ids(BAGS[1]))).backward()

    (loss_of(wrapped, keyed_ids(BAGS[0])) + loss_of(wrapped, keyed_ids(BAGS[1]))).backward()

    assert gradient_norms(wrapped, gate, context) == pytest.approx(norms_by_hand(plain), rel=1e-5)


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_frozen_parts_norm_is_zero_and_the_others_stay(context, sharding):
    plain = TwoParts(PoolingType.MEAN)
    frozen = copy.deepcopy(plain)
    frozen.embedding_tower.is_frozen = True
    kinds = dict.fromkeys(BOTH, sharding)
    wrapped, gate = gated(frozen, context, {**BOTH, "embedding_tower": None}, kinds)
    loss_of(plain, keyed_ids(BAGS[0])).backward()
    by_hand = norms_by_hand(plain)

    loss_of(wrapped, keyed_ids(BAGS[0])).backward()
    norms = gradient_norms(wrapped, gate, context)

    assert [norms[f"embedding_tower{half}"] for half in ("", "/tables", "/dense")] == [0.0, 0.0, 0.0]
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


def test_each_segments_own_modules_have_a_norm_and_an_absent_segments_is_zero(context):
    plain = gated_ranker()
    wrapped, gate = gated(copy.deepcopy(plain), context, {**BOTH, "head": ADAGRAD})
    batch = batch_of(ROWS_WITHOUT_LIGHT)
    log_loss_objective(plain, batch).backward()

    log_loss_objective(wrapped.module, batch).backward()
    norms = gradient_norms(wrapped, gate, context)

    for segment, expert in enumerate(plain.composition.segments):
        by_hand = norm([p.grad for p in expert.parameters() if p.grad is not None])
        assert norms[f"expert/{segment}"] == pytest.approx(by_hand, rel=1e-5)
        assert (by_hand > 0) == (segment != 1)
    assert norms["composition"] > max(norms[f"expert/{segment}"] for segment in range(3))


@pytest.mark.parametrize("members", [1, 3])
def test_each_member_and_each_threshold_of_a_head_has_a_norm(context, members):
    plain = ranker_of(members, GRADED.names, GRADED.place)
    wrapped, gate = gated(copy.deepcopy(plain), context, {**BOTH, "head": ADAGRAD})
    OrdinalObjective(GRADED)(plain, graded_batch()).backward()

    OrdinalObjective(GRADED)(wrapped.module, graded_batch()).backward()
    norms = gradient_norms(wrapped, gate, context)

    own = list(plain.head.members or ())
    by_hand = {f"member/{number}": norm([p.grad for p in each.parameters()]) for number, each in enumerate(own)}
    layers = [member.output for member in own] or [plain.head.output]
    for number, name in enumerate(GRADED.names):
        rows = [each.grad[number] for layer in layers for each in (layer.weight, layer.bias)]
        by_hand[f"threshold/{name}"] = norm(rows)
    assert {name: norms[name] for name in norms if name.startswith(("member/", "threshold/"))} == pytest.approx(
        by_hand, rel=1e-5
    )


def norms_in_two(context):
    return [norms_of(context, *kind, passes) for kind in KINDS for passes in (1, 2)]


def norms_of(context, pooled, sharding, passes):
    pooling, weighted = pooled
    model = TwoParts(PoolingType[pooling], weighted=weighted)
    wrapped, gate = gated(model, context, sharding=dict.fromkeys(BOTH, sharding))
    for number in range(passes):
        loss_of(wrapped, keyed_ids(BAGS[context.rank - number], weighted)).backward()
    average_dense_gradients(inventory_of(wrapped).averaged_parameters(), context)
    return gradient_norms(wrapped, gate, context)


def test_two_processes_report_the_norm_of_the_mean_of_their_losses_however_tables_are_sharded(tmp_path):
    first, second = run_in_two(norms_in_two, tmp_path)

    assert first == second
    for found, ((pooled, sharding), passes) in zip(first, product(KINDS, (1, 2)), strict=True):
        plain = TwoParts(PoolingType[pooled[0]], weighted=pooled[1])
        for bags in BAGS:  # in two passes each process sees both, so that the mean of sums is twice that of one pass
            (loss_of(plain, keyed_ids(bags, pooled[1])) * passes / 2).backward()
        assert found == pytest.approx(norms_by_hand(plain), rel=1e-5), (pooled, sharding, passes)
