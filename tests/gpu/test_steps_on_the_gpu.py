"""On a GPU the loop takes the CPU's steps, and a bad batch changes nothing although the host does not wait."""

import math

import pytest
import torch

from recsys.errors import TrainingError
from recsys.features.column_names import SEGMENT_KEY
from recsys.sharding.processes import ProcessContext
from recsys.sharding.whole_state import whole, whole_state
from recsys.training.objectives.label_log_loss import log_loss_objective
from tests.small_model import ROWS, ROWS_WITHOUT_LIGHT, batch_of
from tests.training.small_run import Batches, gated_ranker, small_run

pytestmark = pytest.mark.gpu


def run_on(context: ProcessContext):
    run = small_run(context)
    run.stream = Batches([batch.to(context.device) for batch in run.stream.batches])
    return run


def test_the_first_steps_norms_are_those_of_the_plain_model_on_the_cpu(context):
    module = gated_ranker()
    log_loss_objective(module, batch_of(ROWS[2:])).backward()

    report = run_on(context).train(1)[0]

    for part, child in module.named_children():
        squares = [p.grad.double().square().sum() for p in child.parameters() if p.grad is not None]
        assert report.gradient_norms[part] == pytest.approx(torch.stack(squares).sum().sqrt().item(), rel=1e-4)


def test_a_bad_batch_moves_nothing(context):
    run, states = run_on(context), []

    def objective(ranker, batch):
        states.append({**whole_state(run.ranker), **whole(run.optimizers.parts())})
        loss = log_loss_objective(ranker, batch)
        return loss * math.nan if len(states) == 3 else loss

    reports = run.train(5, objective)

    assert all(torch.equal(tensor, states[2][name]) for name, tensor in states[3].items())
    assert [report.non_finite_batches for report in reports] == [0, 0, 1, 1, 1]


def test_divergence_is_told_on_the_next_report_and_names_the_steps(context):
    run = run_on(context)

    def objective(ranker, batch):
        return log_loss_objective(ranker, batch) * (math.nan if run.state.step >= 2 else 1.0)

    with pytest.raises(TrainingError, match="steps 3 to 5 gave a loss or gradient that is not finite"):
        run.train(20, objective, report_every=8)
    assert all(tensor.isfinite().all() for tensor in whole_state(run.ranker).values())


def test_an_absent_segment_keeps_every_bit(context):
    """The fused step reads on the device whether to step at all; what has no gradient is not in it."""
    run = run_on(context)
    run.train(3)
    run.stream = Batches([batch_of(ROWS_WITHOUT_LIGHT).to(context.device)])
    before = {**whole_state(run.ranker), **whole(run.optimizers.parts())}

    run.train(6)

    after = {**whole_state(run.ranker), **whole(run.optimizers.parts())}
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert not [name for name in moved if name.startswith("composition.segments.1.")]
    assert [name for name in moved if name.startswith("composition.segments.0.")]
    (segments,) = [name for name in after if SEGMENT_KEY in name and name.endswith("weight")]
    for name in (segments, f"{segments}.sum"):
        assert torch.equal(after[name][1], before[name][1])
        assert not torch.equal(after[name][0], before[name][0])
