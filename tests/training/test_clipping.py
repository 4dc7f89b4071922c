"""Clipping by the whole gradient's norm, fused tables included, is torch's `clip_grad_norm_` on the unfused model.

Over 20 steps, all of them clipped: the weights agree to 1e-6. AdamW and Adagrad divide by the root of what they have
seen, so a gradient near 0 turns rounding into a step: their rates are small enough for it to stay below the tolerance.
"""

import pytest
import torch
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from recsys.sharding.whole_state import whole_state
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from recsys.training.objectives.log_loss import log_loss_objective
from recsys.training.optimizer import DenseOptimizer, RankerOptimizers
from tests.sharding.two_processes import run_in_two
from tests.small_model import ROWS, batch_of
from tests.training.small_run import CONSTANT, PARTS, Batches, SmallRun, gated_ranker

STEPS, LIMIT, RATE = 20, 0.05, 1e-3
RULES = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "rowwise_adagrad": RowWiseAdagrad}
TABLE_RATES = {"sgd": 0.5, "adagrad": 0.02, "rowwise_adagrad": 0.02}
# Equal halves; the first and last hold a segment each that the other has not.
HALVES = [(ROWS[:3], ROWS[3:]), (ROWS[:2], (ROWS[2], ROWS[4])), (ROWS[1:4], ROWS[:3])]


def clipped_by_torch(rule):
    """The unfused model after 20 steps, and the norms that torch found before clipping."""
    plain = gated_ranker()
    tables = [p for name, p in plain.named_parameters() if "embedding_bags" in name]
    dense = [p for name, p in plain.named_parameters() if "embedding_bags" not in name]
    epsilon = {} if rule == "sgd" else {"eps": 1e-8}
    optimizers = torch.optim.AdamW(dense, RATE, weight_decay=0.0), RULES[rule](tables, lr=TABLE_RATES[rule], **epsilon)
    norms = []
    for step in range(STEPS):
        for optimizer in optimizers:
            optimizer.zero_grad()
        log_loss_objective(plain, batch_of(sum(HALVES[step % len(HALVES)], ()))).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(plain.parameters(), LIMIT).item())
        for optimizer in optimizers:
            optimizer.step()
    return plain.state_dict(), norms


def clipped(context, rule, batches, sharding=None):
    """A run of ours after the same steps, its weights and the norms that it reported."""
    parts = ("embedding_tower", "interaction_network", "head")
    tables = dict.fromkeys(parts, TableOptimizer(rule, TABLE_RATES[rule]))
    wrapped = wrap_ranker(gated_ranker(), tables, context, dict.fromkeys(parts, sharding) if sharding else None)
    dense = dict.fromkeys(PARTS, DenseOptimizer(RATE, 0.0))
    run = SmallRun(wrapped, RankerOptimizers(wrapped, dense, tables, CONSTANT), context)
    run.stream = Batches(batches)
    reports = run.train(STEPS, max_gradient_norm=LIMIT)
    return whole_state(wrapped), [report.gradient_norms["whole"] for report in reports]


def require_equal(found, rule):
    weights, norms = found
    by_torch, norms_by_torch = clipped_by_torch(rule)
    assert min(norms_by_torch) > LIMIT
    assert norms == pytest.approx(norms_by_torch, rel=1e-4)  # of weights that differ by rounding
    for name, weight in by_torch.items():
        assert (torch.as_tensor(weights[name]) - weight).abs().max() <= 1e-6, name


@pytest.mark.parametrize("sharding", ["table_wise", "data_parallel"])
@pytest.mark.parametrize("rule", RULES)
def test_twenty_clipped_steps_equal_those_of_torch_on_the_unfused_model(context, rule, sharding):
    require_equal(clipped(context, rule, [batch_of(first + second) for first, second in HALVES], sharding), rule)


def clipped_in_two(context):
    batches = [batch_of(halves[context.rank]) for halves in HALVES]
    kinds = [(rule, sharding) for rule in RULES for sharding in ("table_wise", "row_wise", "data_parallel")]
    found = {" ".join(kind): clipped(context, kind[0], batches, kind[1]) for kind in [*kinds, ("sgd", "column_wise")]}
    return {
        kind: ({name: weight.tolist() for name, weight in weights.items()}, norms)
        for kind, (weights, norms) in found.items()
    }


def test_two_processes_clip_as_torch_does_on_the_joined_batch(tmp_path):
    first, second = run_in_two(clipped_in_two, tmp_path)

    assert first == second
    for kind, found in first.items():
        require_equal(found, kind.split()[0])
