"""Two processes train, skip and stop together, and as one process on the joined batch."""

import math
from pathlib import Path

import pytest
import torch

from recsys.monitoring.frozen_proof import FrozenProof
from recsys.sharding.cluster import Bandwidths, Cluster
from recsys.sharding.plan_rules import Planning, PlanRules
from recsys.training.objectives.label_log_loss import log_loss_objective
from tests.sharding.two_processes import run_in_two
from tests.small_model import ROWS, batch_of
from tests.training.saved_runs import everything, resume_run, save_run
from tests.training.small_run import Batches, small_run

# Equal halves. Segment 1 is in the second process's half alone in the first step, and in neither in the second.
HALVES = [[ROWS[:3], ROWS[3:]], [ROWS[:2], (ROWS[2], ROWS[4])]]


# Each table whole in one of the processes, or divided between both.
CLUSTER = Cluster("cpu", 1, 2, 0, 10**7, Bandwidths(1e12, 1e11, 1e10, 1e11, 1e10), reserved_share=0.1)
TABLES = ("embedding_tower", "interaction_network", "head")


def train_by_plans(context):
    return [train_together(context, types) for types in ("table_wise", "row_wise")]


def train_together(context, types):
    rules = PlanRules(dict.fromkeys(TABLES, (types,)), {})
    run = small_run(context, planning=Planning(CLUSTER, rules, batch_rows=3))
    run.stream = Batches([batch_of(step[context.rank]) for step in HALVES])
    absent = []

    def objective(ranker, batch):
        absent.append({name: tensor.tolist() for name, tensor in everything(run).items() if ".segments.1." in name})
        return log_loss_objective(ranker, batch)

    reports = run.train(3, objective)
    return {
        "loss": [report.loss for report in reports],
        "norms": [report.gradient_norms for report in reports],
        "rows_seen": [report.rows_seen for report in reports],
        "weights": {name: tensor.flatten().tolist() for name, tensor in everything(run).items()},
        "is_unchanged_in_the_second_step": absent[1] == absent[2],
        "moved_in_the_first_step": absent[0] != absent[1],
    }


def test_two_processes_take_the_steps_of_one_on_the_joined_batch(tmp_path, context):
    alone = small_run(context)
    alone.stream = Batches([batch_of(first + second) for first, second in HALVES])
    reports = alone.train(3)

    ours, theirs = run_in_two(train_by_plans, tmp_path)

    assert ours == theirs
    for found in ours:
        require_the_same(found, reports, everything(alone))


def require_the_same(first, reports, weights):
    # Two halves are summed in another order than one whole, and AdamW's first steps divide by gradients near 0.
    assert first["loss"] == pytest.approx([report.loss for report in reports], rel=1e-4)
    assert first["rows_seen"] == [report.rows_seen for report in reports] == [6, 10, 16]
    for found, report in zip(first["norms"], reports, strict=True):
        assert found == pytest.approx(report.gradient_norms, rel=1e-3)
    for name, tensor in weights.items():
        assert torch.allclose(torch.tensor(first["weights"][name]), tensor.flatten(), atol=1e-4), name
    assert first["moved_in_the_first_step"]
    assert first["is_unchanged_in_the_second_step"]


def skip_and_stop(context, folder):
    run = small_run(context, "frozen_tower")
    run.stream = Batches([batch_of(step[context.rank]) for step in HALVES])
    run.asked_at = 4 if context.rank == 0 else None  # one process alone is asked to stop
    proof = FrozenProof(run.ranker, run.optimizers.local_state)
    states = []

    def objective(ranker, batch):
        states.append(everything(run))
        loss = log_loss_objective(ranker, batch)
        bad = context.rank == 1 and run.state.step == 1  # one process alone has a bad batch
        return loss * math.nan if bad else loss

    run.train(100, objective)
    save_run(run, Path(folder))
    fresh = small_run(context, "frozen_tower")
    resume_run(fresh, Path(folder))
    after = everything(fresh)
    return {
        "step": run.state.step,
        "skipped": all(torch.equal(tensor, states[1][name]) for name, tensor in states[2].items()),
        "bad": run.state.non_finite_batches,
        "resumed": all(torch.equal(tensor, after[name]) for name, tensor in everything(run).items()),
        "proof": proof.record()["embedding_tower"]["is_unchanged"],
    }


def test_a_bad_batch_or_a_request_in_one_process_is_one_in_both(tmp_path):
    results = run_in_two(skip_and_stop, tmp_path, str(tmp_path / "run"))

    # The request is passed on with the gradients of the next step.
    assert results == [{"step": 5, "skipped": True, "bad": 1, "resumed": True, "proof": True}] * 2
