"""On a GPU reports by time do not make the host wait, tell what the others tell, and know how long the device idled."""

import time
from dataclasses import replace

import pytest
import torch

from recsys.monitoring.device_idle import device_idle
from recsys.sharding.whole_state import whole_state
from recsys.training.host_copy import HostCopy
from recsys.training.objectives.log_loss import log_loss_objective
from tests.training.small_run import small_run

pytestmark = pytest.mark.gpu
CYCLES = 200_000_000  # about a tenth of a second of a GPU's clock


def trained(context, objective=log_loss_objective, **settings):
    run = small_run(context)
    run.stream.batches = [batch.to(context.device) for batch in run.stream.batches]
    run.train(9, objective, norms_every=3, **settings)
    return run


def test_reports_by_time_are_those_by_steps_at_their_own_steps(context):
    by_steps, by_time = trained(context, report_every=1), trained(context, report_seconds=1e-9)

    assert [report.step for report in by_time.reports] == list(range(1, 10))
    for late, own in zip(by_time.reports, by_steps.reports, strict=True):
        assert late.loss == pytest.approx(own.loss, rel=1e-5)
        assert late.gradient_norms == pytest.approx(own.gradient_norms, rel=1e-4)
    for name, tensor in whole_state(by_steps.ranker).items():
        assert torch.allclose(whole_state(by_time.ranker)[name], tensor, rtol=1e-4, atol=1e-6), name


def test_steps_that_read_norms_do_not_make_the_host_wait(context):
    def objective(ranker, batch):
        # The first two epochs fill what is kept; the last step is followed by a validation.
        torch.cuda.set_sync_debug_mode("error" if 6 <= run.state.step < 11 else "default")
        return log_loss_objective(ranker, batch)

    run = small_run(context)
    counted = [replace(batch, segment_counts=batch.counts_by_segment(3)) for batch in run.stream.batches]
    run.stream.batches = [batch.to(context.device) for batch in counted]
    try:
        run.train(12, objective, report_seconds=1e-9, norms_every=2)
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert [report.step for report in run.reports if report.gradient_norms] == [2, 4, 6, 8, 10, 12]


def test_a_late_report_waits_for_its_own_step_alone(context):
    numbers = torch.tensor([1.0, 2.0], device=context.device)
    HostCopy([numbers]).arrived()  # the first one makes page-locked memory, which waits

    copy = HostCopy([numbers, None])
    numbers.zero_()
    torch.cuda._sleep(CYCLES)
    told, nothing = copy.arrived()

    assert not torch.cuda.current_stream().query()  # what came behind still runs
    assert (told.tolist(), nothing) == ([1.0, 2.0], None)


def test_the_idle_share_is_of_the_time_between_steps(context):
    def work(seconds_of_the_host: float) -> float:
        idle = device_idle(context.device)
        for _ in range(4):
            with idle.step():
                torch.cuda._sleep(CYCLES // 4)
            if seconds_of_the_host:
                torch.cuda.synchronize()
                time.sleep(seconds_of_the_host)
        torch.cuda.synchronize()
        return idle.read()

    assert work(0.0) < 0.05
    assert work(0.1) > 0.3


def test_a_report_carries_the_idle_share(context):
    shares = [report.gpu_idle_share for report in trained(context, report_every=3).reports]

    assert all(0 <= share <= 1 for share in shares)
