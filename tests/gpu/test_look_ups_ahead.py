"""On a GPU ids are brought to their tables on a stream of their own, while the step before computes."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from recsys.sharding.input_ahead import InputAhead
from recsys.sharding.whole_state import whole_state
from recsys.training.objectives.log_loss import log_loss_objective
from tests.sharding.small_rows import open_small_rows
from tests.training.small_run import small_run

pytestmark = pytest.mark.gpu
CYCLES = 20_000_000  # about ten milliseconds of a GPU's clock


def trained(context, root, *, is_ahead, cycles=CYCLES, steps=40):
    def objective(ranker, batch):
        torch.cuda._sleep(cycles)  # while the next batches arrive, and give and take memory
        return log_loss_objective(ranker, batch)

    run = small_run(context)
    run.stream = open_small_rows(root, context.device)
    run.stream.prepare = InputAhead(run.ranker) if is_ahead else None
    run.train(steps, objective, report_seconds=1e9, norms_every=7, validate_every=16)
    return run


def test_a_run_that_looks_up_ahead_learns_what_the_other_one_learns(context, tmp_path):
    plain, ahead = (trained(context, tmp_path / str(is_ahead), is_ahead=is_ahead) for is_ahead in (False, True))

    for name, tensor in whole_state(plain.ranker).items():
        assert torch.allclose(whole_state(ahead.ranker)[name], tensor, rtol=1e-4, atol=1e-6), name
    for one, other in zip(plain.reports, ahead.reports, strict=True):
        assert other.gradient_norms == pytest.approx(one.gradient_norms, rel=1e-3)


def test_the_kernels_that_bring_ids_to_their_tables_run_beside_the_step(context, tmp_path):
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as recorded:
        trained(context, tmp_path, is_ahead=True, steps=6)
        torch.cuda.synchronize()

    events = [event for event in recorded.profiler.kineto_results.events() if "CUDA" in str(event.device_type())]
    permutes = {event.device_resource_id() for event in events if "permute_2D" in event.name()}
    products = {event.device_resource_id() for event in events if "gemm" in event.name().lower()}
    assert permutes
    assert permutes.isdisjoint(products)
