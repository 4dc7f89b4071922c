"""What of a report is recorded, and what of the arms' curves reaches the prepared chart pages."""

from dataclasses import replace

from recsys.run.curves import CURVES, CurveFile, charted_values, gradient_norms, load_curves
from recsys.run.record import step_metrics
from recsys.tracking import names
from recsys.training.reports import StepReport


def report(step: int, *, norms: bool = False, validated: bool = False) -> StepReport:
    return StepReport(
        step=step,
        epoch=0,
        rows_seen=10 * step,
        loss=1 / step,
        gradient_norms={"embedding_tower": 0.0, "whole": 0.5} if norms else {},
        segment_shares={},
        segment_cosines={},
        learning_rates={"embedding_tower": 0.1},
        rows_per_second=100.0,
        data_wait_share=0.0,
        gpu_idle_share=None,
        non_finite_batches=0,
        stage=0,
        validation={"log_loss": 0.6, "auc": 0.7, "auc/new": 0.65} if validated else None,
    )


def test_loss_and_speed_are_recorded_with_every_report_and_slow_counts_where_norms_or_validation_are():
    slow = {names.EPOCH, names.ROWS_SEEN, names.SKIPPED_BATCHES, names.learning_rate("embedding_tower")}

    plain, read, validated = (
        set(step_metrics(one)) for one in (report(5), report(50, norms=True), report(70, validated=True))
    )

    assert plain == {names.TRAIN_LOSS, names.ROWS_PER_SECOND, names.DATA_WAIT_SHARE}
    # Of a GPU alone: an idle share of 0 on a CPU would be read as a finding.
    assert step_metrics(replace(report(5), gpu_idle_share=0.25))[names.GPU_IDLE_SHARE] == 0.25
    assert slow <= read & validated
    assert names.grad_norm("embedding_tower") in read
    assert {names.auc(names.VALIDATION), names.auc(names.VALIDATION, "new")} <= validated


def test_what_a_run_reports_is_kept_as_curves_and_cut_back_to_the_checkpoint_that_it_goes_on_from(tmp_path):
    curves = CurveFile(tmp_path)
    for one in (report(5, norms=True), report(10, validated=True), report(15)):
        curves.add(one.step, step_metrics(one))
    with (tmp_path / CURVES).open("a") as file:
        file.write('{"step": 20, "train/lo')

    CurveFile(tmp_path, up_to_step=10).add(20, {names.TRAIN_LOSS: 0.25, names.ROWS_PER_SECOND: float("nan")})

    found = load_curves(tmp_path)
    assert found[names.TRAIN_LOSS] == ([5, 10, 20], [1 / 5, 1 / 10, 0.25])
    assert found[names.auc(names.VALIDATION, "new")] == ([10], [0.65])
    assert found[names.ROWS_PER_SECOND] == ([5, 10], [100.0, 100.0])
    assert gradient_norms(tmp_path) == [(5, "embedding_tower", 0.0), (5, "whole", 0.5)]


def test_a_run_that_begins_anew_has_no_curves_of_the_one_before(tmp_path):
    CurveFile(tmp_path).add(5, {names.TRAIN_LOSS: 1.0})
    CurveFile(tmp_path)
    assert (tmp_path / CURVES).read_text() == ""


def test_pages_learn_all_values_of_all_arms():
    arms = [
        {"train/loss": ([5, 10], [0.5, 0.4]), "valid_auc/all": ([10], [0.7]), "grad_norm/head": ([5], [1.0])},
        {"train/loss": ([5], [0.3]), "valid_auc/new": ([10], [0.6])},
    ]

    assert charted_values(arms) == {"train/loss": [0.5, 0.4, 0.3], "valid_auc/all": [0.7], "valid_auc/new": [0.6]}
