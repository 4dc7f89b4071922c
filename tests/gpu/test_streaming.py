"""Batches on a GPU: the same numbers as on the CPU, copied while the step before them computes."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.streaming.rows import open_stream, write_layout

pytestmark = pytest.mark.gpu


def test_batches_on_the_gpu_equal_those_on_the_cpu(tmp_path):
    write_layout(tmp_path, [[300, 80], [0], [500]])
    changed = {"batch_size": 64, "shuffle_buffer_rows": 400}

    there = list(open_stream(tmp_path, device=torch.device("cuda"), **changed))
    here = list(open_stream(tmp_path, **changed))

    assert len(there) == len(here) == 14
    for moved, batch in zip(there, here, strict=True):
        assert moved.label.is_cuda
        for name in ("dense", "segment", "label", "weight"):
            assert torch.equal(getattr(moved, name).cpu(), getattr(batch, name))
        assert torch.equal(moved.sparse.values().cpu(), batch.sparse.values())
        assert torch.equal(moved.sparse.lengths().cpu(), batch.sparse.lengths())
        assert torch.equal(moved.extra["user_key"].cpu(), batch.extra["user_key"])


def test_memory_of_a_batch_is_not_reused_while_a_slow_step_still_reads_it(tmp_path):
    write_layout(tmp_path, [[1000]] * 20)
    device = torch.device("cuda")
    expected = [float(batch.dense.double().sum()) for batch in open_stream(tmp_path, batch_size=500)]

    sums = []
    for batch in open_stream(tmp_path, batch_size=500, device=device):
        torch.cuda._sleep(20_000_000)  # about 10 ms on the step's stream, while later batches arrive
        sums.append(batch.dense.double().sum())
        del batch

    assert [float(value) for value in sums] == expected


def test_copies_run_on_a_stream_of_their_own_while_the_step_computes(tmp_path):
    write_layout(tmp_path, [[20_000]] * 4)
    matrix = torch.randn(4096, 4096, device="cuda")
    stream = open_stream(tmp_path, batch_size=2000, device=torch.device("cuda"))

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as recorded:
        for _ in stream:
            matrix = (matrix @ matrix).tanh()
        torch.cuda.synchronize()

    # Kineto gives each GPU activity its stream as `device_resource_id`.
    events = [event for event in recorded.profiler.kineto_results.events() if "CUDA" in str(event.device_type())]
    copies = [event for event in events if "HtoD" in event.name()]
    kernels = [event for event in events if "gemm" in event.name().lower() or "tanh" in event.name().lower()]
    assert copies
    assert kernels
    assert {event.device_resource_id() for event in copies}.isdisjoint({e.device_resource_id() for e in kernels})
    assert all("Pinned" in event.name() for event in copies)
    overlapping = [copy for copy in copies if any(_overlap(copy, kernel) for kernel in kernels)]
    assert overlapping


def _overlap(one, other):
    return one.start_ns() < other.end_ns() and other.start_ns() < one.end_ns()
