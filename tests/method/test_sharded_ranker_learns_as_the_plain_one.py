"""The ranker behind TorchRec's fused kernels is the plain ranker: equal logits, equal gradients.

A fused table has no gradient to look at. But under SGD at rate 1 it moves by just that.
"""

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from recsys.composition.conditional import (
    ParallelConditionalComposition,
    SegmentGatedComposition,
    SegmentRoutedComposition,
)
from recsys.composition.parallel import ConcatJoin, ParallelComposition
from recsys.composition.sequential import SequentialComposition
from recsys.sharding.inventory import inventory_of
from recsys.sharding.processes import ProcessContext
from recsys.sharding.whole_state import table_weights
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from recsys.towers.embedding import EmbeddingTower
from recsys.towers.pretraining import TwoTowerObjective
from tests.small_model import (
    FIELD_WIDTH,
    JOINED_WIDTH,
    NETWORK_WIDTH,
    ROWS,
    ROWS_WITHOUT_LIGHT,
    SEGMENTS,
    TOWER_WIDTH,
    batch_of,
    small_contract,
    small_ranker,
    two_tower_spec,
)

W, S = JOINED_WIDTH, len(SEGMENTS)
# The absent segment 1 is the only one that passes the tower in one of the routes, and the network in the other.
COMPOSITIONS = {
    "sequential": lambda _: SequentialComposition(3 * TOWER_WIDTH, FIELD_WIDTH, NETWORK_WIDTH),
    "parallel": lambda p: ParallelComposition(p, ConcatJoin(W)),
    "conditional": lambda p: SegmentGatedComposition(p, S, [7]),
    "conditional, no row for the tower": lambda p: SegmentRoutedComposition(
        p, [["interaction_network"], ["embedding_tower"], ["interaction_network"]], None
    ),
    "conditional, no row for the network": lambda p: SegmentRoutedComposition(
        p, [["embedding_tower"], ["interaction_network"], ["embedding_tower"]], None
    ),
    "parallel and conditional": lambda p: ParallelConditionalComposition(p, ConcatJoin(W), S, [7]),
}
SGD = TableOptimizer("sgd", learning_rate=1.0)


@pytest.mark.parametrize(("name", "make"), COMPOSITIONS.items(), ids=COMPOSITIONS.keys())
def test_the_sharded_ranker_has_the_plain_ones_logits_and_gradients(
    name: str, make: Callable, context: ProcessContext
) -> None:
    batch = batch_of(ROWS_WITHOUT_LIGHT)
    plain = small_ranker(make, has_tower_field=name == "sequential")
    wrapped = wrap_ranker(
        small_ranker(make, has_tower_field=name == "sequential"),
        {"embedding_tower": SGD, "interaction_network": SGD, "head": SGD},
        context,
    )
    before = table_weights(wrapped)

    logits, expected = wrapped(batch), plain(batch)
    for result in (logits, expected):
        binary_cross_entropy_with_logits(result, batch.label).backward()

    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    for name, weight in table_weights(wrapped).items():
        # The difference of two weights near 1 is known to about 1e-7.
        torch.testing.assert_close(before[name] - weight, gradients[name], rtol=1e-5, atol=2e-7)
    for name, parameter in inventory_of(wrapped).dense_parameters().items():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-5, atol=1e-7)


def test_a_frozen_towers_tables_keep_every_bit_behind_the_fused_kernels(context: ProcessContext) -> None:
    ranker = small_ranker(COMPOSITIONS["parallel"])
    ranker.embedding_tower.is_frozen = True
    wrapped = wrap_ranker(ranker, {"embedding_tower": SGD, "interaction_network": SGD, "head": SGD}, context)
    before = table_weights(wrapped)

    batch = batch_of(ROWS_WITHOUT_LIGHT)
    binary_cross_entropy_with_logits(wrapped(batch), batch.label).backward()

    moved = {name.split(".")[0] for name, weight in table_weights(wrapped).items() if not weight.equal(before[name])}
    assert moved == {"interaction_network", "head"}


@pytest.mark.parametrize("rows", [ROWS, [row for row in ROWS if not row.label]], ids=["rows", "no positive row"])
def test_the_sharded_pre_training_has_the_plain_ones_loss_and_gradients(rows: list, context: ProcessContext) -> None:
    def objective() -> TwoTowerObjective:
        torch.manual_seed(0)
        return TwoTowerObjective(EmbeddingTower(two_tower_spec(), small_contract()), "item_id", torch.zeros(6), 0.5)

    plain, wrapped = objective(), wrap_ranker(objective(), {"embedding_tower": SGD}, context)
    before = table_weights(wrapped)

    losses = [module(batch_of(rows)) for module in (wrapped, plain)]
    for loss in losses:
        loss.backward()

    torch.testing.assert_close(*losses)
    for name, weight in table_weights(wrapped).items():
        torch.testing.assert_close(before[name] - weight, plain.get_parameter(name).grad, rtol=1e-5, atol=2e-7)
    for name, parameter in inventory_of(wrapped).dense_parameters().items():
        torch.testing.assert_close(parameter.grad, plain.get_parameter(name).grad, rtol=1e-5, atol=1e-7)
