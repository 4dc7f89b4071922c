"""The loop lowers the loss, reports when it should, ends when it should, and a bad batch changes nothing."""

import copy
import math

import pytest
import torch

from recsys.errors import DataError, TrainingError
from recsys.monitoring.segment_gradients import SegmentGradients
from recsys.sharding.gate import TableGate
from recsys.sharding.whole_state import whole, whole_state
from recsys.training import step
from recsys.training.loop import LoopState
from recsys.training.objectives.label_log_loss import log_loss_objective
from recsys.training.optimizer import RateSchedule
from recsys.training.precision import Precision
from recsys.training.snapshot import BestWeights
from recsys.training.stages import LEAST_GAIN
from tests.small_model import ROWS, SEGMENTS, batch_of
from tests.training.small_run import PARTS, Batches, gated_ranker, small_run


def poisoned(steps, make):
    """An objective that calls `make` on the loss in the given steps, counted from 1."""
    calls = iter(range(1, 1000))
    return lambda ranker, batch: (
        make(log_loss_objective(ranker, batch)) if next(calls) in steps else log_loss_objective(ranker, batch)
    )


def infinite_gradient(loss):
    """The same loss with a gradient that is not finite: that of the root at zero."""
    return loss + (loss * 0.0).sqrt()


def everything(run):
    return {**whole_state(run.ranker), **whole(run.optimizers.parts())}


def test_training_lowers_the_loss(context):
    reports = small_run(context).train(60)

    assert reports[-1].loss < 0.5 * reports[0].loss


def test_a_step_is_that_of_torch_on_the_plain_model(context):
    plain = gated_ranker()
    groups = [{"params": [p], "weight_decay": 0.1 if n.split(".")[-1] == "weight" else 0.0}
              for n, p in plain.named_parameters() if "embedding_bags" not in n]  # fmt: skip
    adamw = torch.optim.AdamW(groups, lr=0.05)
    log_loss_objective(plain, batch_of(ROWS)).backward()
    adamw.step()

    run = small_run(context)
    run.stream = Batches([batch_of(ROWS)])
    run.train(1)

    for name, parameter in plain.named_parameters():
        found = whole_state(run.ranker)[name]
        if "embedding_bags" in name:  # row-wise Adagrad's first step: the gradient over its root mean square
            root = parameter.grad.square().mean(dim=1, keepdim=True).sqrt()
            parameter = parameter - 0.05 * parameter.grad / (root + 1e-8)
        assert torch.allclose(found, parameter, atol=2e-5), name


def test_reports_come_when_due_and_count_rows(context):
    reports = small_run(context).train(5, report_every=2)

    assert [report.step for report in reports] == [2, 4, 5]
    assert [report.rows_seen for report in reports] == [4 + 3, 4 + 3 + 6 + 4, 4 + 3 + 6 + 4 + 3]
    assert [report.epoch for report in reports] == [0, 1, 1]
    halves = {f"{part}/{half}" for part in (*PARTS[:2], "head") for half in ("tables", "dense")}
    assert set(reports[1].gradient_norms) == {*PARTS, "whole", *halves, *(f"expert/{name}" for name in SEGMENTS)}
    absent = [name for name, norm in reports[0].gradient_norms.items() if norm == 0]
    assert absent == ["expert/light"]  # segment 1 has no row in the second batch


def test_norms_are_read_and_reported_in_their_own_turn(context):
    run = small_run(context)

    reports = run.train(7, report_every=5, norms_every=3, segment_view_every=4)

    assert [report.step for report in reports] == [3, 4, 5, 6, 7]
    assert [report.step for report in reports if report.gradient_norms] == [3, 6]
    assert [report.step for report in reports if report.segment_shares] == [4]


def test_clipping_reports_norms_in_no_other_steps(context):
    reports = small_run(context).train(4, report_every=1, norms_every=3, max_gradient_norm=0.1)

    assert [report.step for report in reports if report.gradient_norms] == [3]


def test_the_reported_loss_is_the_mean_since_the_last_report(context):
    every = small_run(context).train(4, report_every=1)
    second = small_run(context).train(4, report_every=2)

    assert second[0].loss == pytest.approx((every[0].loss + every[1].loss) / 2)
    assert second[1].loss == pytest.approx((every[2].loss + every[3].loss) / 2)


def test_the_rates_of_a_step_are_set_before_it(context):
    run = small_run(context, schedule=RateSchedule(warmup_steps=4, total_steps=100, final_share=0.0), rate=0.4)

    reports = run.train(3)

    assert [report.learning_rates["interaction_network_tables"] for report in reports] == pytest.approx([0.1, 0.2, 0.3])
    assert [report.learning_rates["head"] for report in reports] == pytest.approx([0.1, 0.2, 0.3])


def test_validation_that_stops_improving_ends_the_run_and_its_best_weights_come_back(context):
    run = small_run(context)
    run.log_losses = [0.6, 0.5, 0.55, 0.51]
    kept = {}

    def objective(ranker, batch):
        kept[run.state.step] = copy.deepcopy(whole_state(ranker))
        return log_loss_objective(ranker, batch)

    reports = run.train(100, objective, validate_every=2, patience=2)

    assert (run.state.ended, run.state.step, run.state.best_step, run.state.best_log_loss) == ("patience", 8, 4, 0.5)
    assert [report.validation for report in reports if report.validation][-1] == {"log_loss": 0.51}
    run.best.restore()
    assert all(torch.equal(tensor, kept[4][name]) for name, tensor in whole_state(run.ranker).items())


def test_the_budgets_last_step_is_validated(context):
    run = small_run(context)

    reports = run.train(5, validate_every=4)

    assert [report.step for report in reports if report.validation] == [4, 5]
    assert run.state.ended == "budget"


def test_a_request_to_stop_ends_the_run_after_the_step_with_a_report_and_a_checkpoint(context):
    run = small_run(context)
    run.asked_at = 3

    reports = run.train(100, report_every=50, checkpoint_every=2)

    assert run.state.ended == "asked"
    assert [(report.step, report.gradient_norms) for report in reports] == [(3, {})]
    assert run.checkpoints == [2, 3]


@pytest.mark.parametrize("poison", [lambda loss: loss * math.nan, lambda loss: loss / 0.0, infinite_gradient])
def test_a_batch_without_a_finite_loss_and_gradient_moves_nothing_and_is_counted(context, poison):
    run, states = small_run(context), []

    def objective(ranker, batch):
        states.append(everything(run))
        loss = log_loss_objective(ranker, batch)
        return poison(loss) if len(states) == 3 else loss

    reports = run.train(5, objective)

    assert all(torch.equal(tensor, states[2][name]) for name, tensor in states[3].items())
    assert not all(torch.equal(tensor, states[3][name]) for name, tensor in states[4].items())
    assert [report.non_finite_batches for report in reports] == [0, 0, 1, 1, 1]
    assert [report.loss is None for report in reports] == [False, False, True, False, False]
    assert [report.gradient_norms == {} for report in reports] == [False, False, True, False, False]


def test_three_bad_batches_in_a_row_end_the_run_and_name_the_steps(context):
    run = small_run(context)

    with pytest.raises(TrainingError, match=r"steps 4 to 6 gave a loss or gradient that is not finite") as failure:
        run.train(10, poisoned({2, 4, 5, 6}, lambda loss: loss * math.nan))

    assert failure.value.exit_code == 70
    assert all(tensor.isfinite().all() for tensor in everything(run).values())


def test_two_bad_batches_in_a_row_are_forgiven(context):
    run = small_run(context)

    run.train(6, poisoned({2, 3, 5}, lambda loss: loss * math.nan))

    assert (run.state.non_finite_batches, run.state.bad_in_a_row, run.state.step) == (3, 0, 6)


def test_clipping_scales_the_whole_gradient_tables_included(context):
    reported = small_run(context).train(1)[0].gradient_norms["whole"]
    limit = reported / 4

    plain = gated_ranker()
    log_loss_objective(plain, batch_of(ROWS[2:])).backward()
    assert torch.nn.utils.clip_grad_norm_(plain.parameters(), limit).item() == pytest.approx(reported, rel=1e-5)
    run = small_run(context)
    report = run.train(1, max_gradient_norm=limit)[0]

    assert report.gradient_norms["whole"] == pytest.approx(reported, rel=1e-6)  # before clipping
    state = whole(run.optimizers.parts())
    for name, parameter in plain.named_parameters():
        if f"{name}.sum" in state:  # the first step's accumulator shows the gradient that the table was given
            by_hand, found = parameter.grad.square().mean(dim=1), state[f"{name}.sum"]
        elif f"{name}.exp_avg" in state:
            by_hand, found = 0.1 * parameter.grad, state[f"{name}.exp_avg"]
        else:
            continue
        assert torch.allclose(found, by_hand, rtol=1e-4, atol=1e-9), name


def test_an_absent_segments_parameters_and_moments_are_unchanged(context):
    run, states = small_run(context, weight_decay=0.5), []

    def objective(ranker, batch):
        states.append(everything(run))
        return log_loss_objective(ranker, batch)

    run.train(3, objective)  # the second batch has no row of segment 1

    names = [name for name in states[1] if name.startswith("composition.segments.1.")]
    assert any(name.endswith("exp_avg") for name in names)
    assert all(torch.equal(states[1][name], states[2][name]) for name in names)
    assert not all(torch.equal(states[0][name], states[1][name]) for name in names if name in states[0])


def test_a_stream_without_batches_is_refused(context):
    run = small_run(context)
    run.stream = Batches([])

    with pytest.raises(DataError, match="has no batches"):
        run.train(1)


class RunsOut(torch.autograd.Function):
    """Fails in the backward pass."""

    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise torch.OutOfMemoryError("of memory")


def run_out(*_, **__):
    raise torch.OutOfMemoryError("of memory")


PLACES = {
    "gradient averages": (step, "average_dense_gradients"),
    "norms": (step, "squared_gradient_norms"),
    "AdamW's first state": (torch.optim.AdamW, "step"),
    "the tables' update": (TableGate, "release"),
    "the segment view": (SegmentGradients, "read"),
    "the loss scale": (Precision, "unscale"),
}


@pytest.mark.parametrize(("owner", "name"), PLACES.values(), ids=PLACES.keys())
def test_memory_that_runs_out_anywhere_in_a_step_is_told_with_the_batch_size(context, monkeypatch, owner, name):
    run = small_run(context)
    monkeypatch.setattr(owner, name, run_out)

    with pytest.raises(TrainingError, match=r"Out of memory in step 1 with 4 rows in the batch: lower `training.batch"):
        run.train(1, segment_view_every=1)
    assert run.checkpoints == []


@pytest.mark.parametrize(
    "objective",
    [run_out, lambda ranker, batch: RunsOut.apply(log_loss_objective(ranker, batch))],
    ids=["forward", "back"],
)
def test_memory_that_runs_out_in_a_pass_is_told_with_the_batch_size(context, objective):
    run = small_run(context)

    with pytest.raises(TrainingError, match=r"Out of memory in step 1 with 4 rows in the batch: lower `training.batch"):
        run.train(1, objective)
    assert run.checkpoints == []


@pytest.mark.parametrize("place", ["the stream", "validation", "a checkpoint"])
def test_memory_that_runs_out_between_steps_is_told_with_the_last_step(context, monkeypatch, place):
    run = small_run(context)
    if place == "the stream":
        batches = run.stream.batches

        def two_batches():
            yield from batches[:2]
            run_out()

        monkeypatch.setattr(Batches, "__iter__", lambda stream: two_batches())
    elif place == "validation":
        run.log_losses = [0.5]
        monkeypatch.setattr(BestWeights, "keep", run_out)
    else:
        run.on_checkpoint = run_out

    with pytest.raises(TrainingError, match=r"Out of memory after step 2: lower .* The last checkpoint is untouched"):
        run.train(3, validate_every=2, checkpoint_every=2)


@pytest.mark.parametrize(
    "error", [RuntimeError("a shape"), MemoryError(), RuntimeError("[] DefaultCPUAllocator: can't")]
)
def test_a_lack_of_memory_is_told_from_other_errors(context, error):
    def objective(ranker, batch):
        raise error

    with pytest.raises(RuntimeError if str(error) == "a shape" else TrainingError):
        small_run(context).train(1, objective)


def test_tables_update_inside_backward_again_once_the_loop_is_left(context):
    run = small_run(context)
    run.train(1)
    before = whole_state(run.ranker)

    log_loss_objective(run.ranker.module, batch_of(ROWS)).backward()

    moved = {name for name, tensor in whole_state(run.ranker).items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all("embedding_bags" in name for name in moved)


def test_a_loop_state_of_another_version_is_refused():
    assert LoopState.from_document(LoopState(step=3).to_document()) == LoopState(step=3)
    with pytest.raises(DataError, match="written by another version"):
        LoopState.from_document({"step": 3})


def validated_start(context, losses, *, least_gain, **settings):
    run = small_run(context)
    figures = iter(losses)
    run.validated = lambda: {"log_loss": next(figures), LEAST_GAIN: least_gain}
    first = whole_state(run.ranker)
    run.train(len(losses) - 1, validates_start=True, validate_every=1, **settings)
    return run, first


def test_a_start_that_no_later_weights_beat_by_more_than_chance_is_what_is_kept(context):
    run, first = validated_start(context, [0.5, 0.49, 0.485, 0.495], least_gain=0.02, patience=9)

    assert (run.state.best_step, run.state.best_log_loss) == (0, 0.5)
    run.best.restore()
    assert all(torch.equal(value, first[name]) for name, value in whole_state(run.ranker).items())


def test_weights_that_beat_the_start_by_more_than_chance_are_kept_and_from_then_on_the_better_ones(context):
    run, _ = validated_start(context, [0.5, 0.49, 0.47, 0.469, 0.475], least_gain=0.02, patience=9)

    assert (run.state.best_step, run.state.best_log_loss) == (3, 0.469)


def test_patience_counts_from_the_lowest_loss_also_while_the_start_is_kept(context):
    losses = [0.5, 0.499, 0.498, 0.497, 0.499, 0.499, 0.4]
    run, _ = validated_start(context, losses, least_gain=0.02, patience=2)

    assert (run.state.step, run.state.ended, run.state.best_step) == (5, "patience", 0)
