"""How often a run reads its gradients, and under which names the readings are tracked."""

from dataclasses import replace

import pytest

from recsys.config.compose import compose_config
from recsys.run.assemble import loop_settings
from recsys.run.record import step_metrics
from recsys.training.reports import StepReport


@pytest.mark.parametrize(
    ("steps", "norms_every", "view_every"),
    [(10_000, 50, 100), (400, 10, 20), (7, 1, 1)],  # 40 points of the norms and 20 by segment in a short run
)
def test_short_runs_read_often_enough_for_a_chart(steps, norms_every, view_every):
    training = replace(compose_config([]).training, epochs=1, norms_every=50, segment_view_every=100)

    settings = loop_settings(training, steps, ("new", "heavy"))

    assert (settings.norms_every, settings.segment_view_every) == (norms_every, view_every)
    assert settings.segments == ("new", "heavy")


def test_a_view_that_is_off_stays_off_in_a_short_run():
    training = replace(compose_config([]).training, epochs=1, segment_view_every=0)

    assert loop_settings(training, 7, ("new",)).segment_view_every == 0


def test_readings_are_tracked_in_the_steps_that_have_them():
    report = StepReport(
        step=3,
        epoch=0,
        rows_seen=6,
        loss=0.5,
        gradient_norms={"embedding_tower": 0.0, "embedding_tower/tables": 0.0, "expert/a/b": 2.0},
        segment_shares={"a/b": 0.25},
        segment_cosines={"a/b": -0.5},
        learning_rates={},
        rows_per_second=1.0,
        data_wait_share=0.0,
        gpu_idle_share=None,
        non_finite_batches=0,
        stage=0,
        validation=None,
    )

    metrics = step_metrics(report)
    unread = step_metrics(
        replace(report, gradient_norms={}, segment_shares={}, segment_cosines={}, validation={"log_loss": 0.5})
    )
    gates = {"gate_embedding_tower/a:2f:b": 0.4}
    with_gates = step_metrics(replace(report, validation={"log_loss": 0.5} | gates))

    readings = {name: value for name, value in metrics.items() if name not in unread}
    assert readings == {
        "grad_norm/embedding_tower": 0.0,  # a frozen tower has its point too
        "grad_norm_tables/embedding_tower": 0.0,
        "grad_norm_expert/a:2f:b": 2.0,
        "segment_share/a:2f:b": 0.25,
        "segment_cosine/a:2f:b": -0.5,
    }
    assert {name: value for name, value in with_gates.items() if name.startswith("gate")} == gates
