"""A run of one process looks ids up where they are, and learns as a plain model does."""

import copy

import pytest
import torch
from torchrec.distributed import dist_data
from torchrec.modules.embedding_configs import PoolingType

from recsys.sharding.gate import TableGate
from recsys.sharding.whole_state import table_weights
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from tests.sharding.tables import BAGS, TwoParts, keyed_ids, loss_of

RATE = 0.5
TABLES = dict.fromkeys(("embedding_tower", "interaction_network"), TableOptimizer("sgd", RATE))


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "column_wise"])
@pytest.mark.parametrize("pooling", [PoolingType.MEAN, PoolingType.SUM])
def test_nothing_is_built_for_an_exchange_and_the_tables_learn_as_plain_ones(
    context, monkeypatch: pytest.MonkeyPatch, sharding: str, pooling: PoolingType
) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise AssertionError("an index for an exchange was built")

    monkeypatch.setattr(dist_data, "_get_recat", refuse)
    plain = TwoParts(pooling)
    wrapped = wrap_ranker(copy.deepcopy(plain), TABLES, context, dict.fromkeys(TABLES, sharding))
    gate = TableGate(wrapped)

    for bags in BAGS:
        loss, expected = loss_of(wrapped, keyed_ids(bags)), loss_of(plain, keyed_ids(bags))
        torch.testing.assert_close(loss, expected)
        for each in (wrapped, plain):
            each.zero_grad()
        loss.backward()
        gate.release(torch.tensor(True))
        expected.backward()
        with torch.no_grad():
            for name, parameter in plain.named_parameters():
                if "embedding_bags" in name:
                    parameter -= RATE * parameter.grad

    for name, weight in table_weights(wrapped).items():
        torch.testing.assert_close(weight, plain.get_parameter(name).detach())
