"""Reports by time change nothing in training, come a step late while the device computes on, and miss nothing."""

import pytest
import torch

from recsys.errors import TrainingError
from recsys.sharding.whole_state import whole, whole_state
from recsys.training import loop
from recsys.training.objectives.label_log_loss import log_loss_objective
from recsys.training.stages import TrainingStage
from tests.sharding.two_processes import run_in_two
from tests.small_model import ROWS, batch_of
from tests.training.small_run import Batches, SmallRun, small_run, staged_run

ALWAYS, NEVER = 0.0, 1e9  # seconds
READINGS = {"norms_every": 3, "segment_view_every": 4}


def trained(context, **settings) -> SmallRun:
    run = small_run(context)
    run.train(7, validate_every=5, checkpoint_every=2, **READINGS, **settings)
    return run


def everything(run):
    return {**whole_state(run.ranker), **whole(run.optimizers.parts())}


@pytest.mark.parametrize(("seconds", "steps"), [(ALWAYS, [1, 2, 3, 4, 5, 6, 7]), (NEVER, [3, 4, 5, 6, 7])])
def test_training_is_the_same_and_so_is_every_reading_at_its_own_step(context, seconds, steps):
    by_steps, by_time = trained(context, report_every=1), trained(context, report_seconds=seconds)

    assert all(torch.equal(tensor, everything(by_time)[name]) for name, tensor in everything(by_steps).items())
    assert [report.step for report in by_time.reports] == steps
    expected = {report.step: report for report in by_steps.reports}
    for report in by_time.reports:
        own = expected[report.step]
        assert report.gradient_norms == own.gradient_norms
        assert (report.segment_shares, report.segment_cosines) == (own.segment_shares, own.segment_cosines)
        assert (report.epoch, report.rows_seen, report.validation) == (own.epoch, own.rows_seen, own.validation)
        assert report.learning_rates == own.learning_rates
        assert seconds == NEVER or report.loss == own.loss
    assert [bool(report.gradient_norms) for report in by_time.reports] == [step % 3 == 0 for step in steps]


def test_a_report_is_read_a_step_late_but_before_a_validation_a_checkpoint_and_the_end(context):
    run, told = small_run(context), []

    def objective(ranker, batch):
        told.append([report.step for report in run.reports])
        return log_loss_objective(ranker, batch)

    run.on_checkpoint = lambda state: told.append([report.step for report in run.reports])
    run.train(5, objective, report_seconds=ALWAYS, checkpoint_every=3, validate_every=4)

    steps = [[], [], [1], [1, 2, 3], [1, 2, 3, 4]]  # what had been told when each step began
    checkpoints = [[1, 2, 3], [1, 2, 3, 4, 5]]
    assert told == [*steps[:3], checkpoints[0], *steps[3:], checkpoints[1]]


@pytest.mark.parametrize(
    ("settings", "waits_after"),
    [
        ({"report_seconds": ALWAYS, "norms_every": 2}, [4, 5, 7]),
        ({"report_seconds": NEVER, "norms_every": 2}, [4, 5, 7]),
        ({"report_every": 3, "norms_every": 6}, [3, 4, 5, 6, 7]),
    ],
)
def test_a_device_is_waited_for_before_time_that_is_not_trainings_and_never_for_a_late_report(
    context, monkeypatch, settings, waits_after
):
    run, waits = small_run(context), []
    monkeypatch.setattr(loop, "wait_for_device", lambda device: waits.append(run.state.step))
    validated = run.validated

    def validate():
        assert waits[-1] == run.state.step
        return validated()

    run.validated, run.asked_at = validate, 7

    run.train(100, validate_every=5, checkpoint_every=4, **settings)

    assert waits == waits_after  # step 4 is kept, 5 validates, 7 is the last


def test_a_late_report_tells_the_stage_that_its_step_was_of(context):
    run = staged_run(context, [TrainingStage("frozen_tower", steps=2), TrainingStage("end_to_end")])

    run.train(4, report_seconds=ALWAYS)

    assert [(report.step, report.stage) for report in run.reports] == [(1, 0), (2, 0), (3, 1), (4, 1)]


def test_bad_batches_are_counted_in_late_reports_as_in_others_and_end_the_run(context):
    def objective(ranker, batch):
        return log_loss_objective(ranker, batch) * (torch.nan if run.state.step in (1, 4, 5, 6) else 1.0)

    run = small_run(context)
    with pytest.raises(TrainingError, match="steps 5 to 7 gave a loss or gradient that is not finite"):
        run.train(10, objective, report_seconds=ALWAYS)
    assert [report.non_finite_batches for report in run.reports] == [0, 1, 1, 1, 2]
    assert [report.loss is None for report in run.reports] == [False, True, False, False, True]


def late_in_one(context):
    run = small_run(context)
    run.stream = Batches([batch_of(ROWS[:3] if context.rank == 0 else ROWS[3:])])
    reports = run.train(4, report_seconds=NEVER if context.rank == 0 else ALWAYS, norms_every=100)
    return [(report.step, report.loss) for report in reports]


def test_when_one_process_is_due_a_report_all_report_and_tell_the_same(tmp_path):
    first, second = run_in_two(late_in_one, tmp_path)

    assert first == second
    assert [step for step, _ in first] == [1, 2, 3, 4]
