"""The mean of weighted ids is sum(weight * vector) / number of ids: its value, gradient and update, however tables lie.

Held against autograd over that very formula and torch's own optimizers. The tolerance, 1e-5, is some hundred roundings
of single precision; a mean whose gradient were not divided is off by the length of a bag, which is up to three here.
"""

import pytest
import torch
from torchrec.modules.embedding_configs import PoolingType

from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from tests.method.weighted_means import KINDS, PARTS, RATE, assert_equal, take_steps, take_steps_by_hand
from tests.sharding.tables import BAGS, TwoParts, keyed_ids
from tests.sharding.two_processes import run_in_two


@pytest.mark.parametrize(("sharding", "rule"), KINDS)
def test_value_gradient_norm_and_update_are_the_formulas(context, sharding, rule):
    assert_equal(take_steps(context, sharding, rule), take_steps_by_hand(rule, processes=1), rank=0)


# In two processes the sharding matters, and the rule no more than in one.
IN_TWO = [(sharding, rule) for sharding, rule in KINDS if rule == "adagrad"]


def each_sharding(context):
    return [take_steps(context, *kind) for kind in IN_TWO]


def test_they_are_in_two_processes_too(tmp_path):
    results = run_in_two(each_sharding, tmp_path)

    for number, (_, rule) in enumerate(IN_TWO):
        by_hand = take_steps_by_hand(rule, processes=2)
        for rank, found in enumerate(results):
            assert_equal(found[number], by_hand, rank)


def test_a_table_of_sums_beside_one_of_means_keeps_its_weights(context):
    plain, model = TwoParts(PoolingType.SUM, weighted=True), TwoParts(PoolingType.SUM, weighted=True)
    for half in (plain, model):
        half.embedding_tower.ebc.embedding_bag_configs()[1].pooling = PoolingType.MEAN  # of brands, at most one a bag
    wrapped = wrap_ranker(model, dict.fromkeys(PARTS, TableOptimizer("sgd", RATE)), context)

    for bags in BAGS:
        ids = keyed_ids(bags, weighted=True)
        torch.testing.assert_close(wrapped(ids), plain(ids))
