"""A run of one needs no torchrun, no port and no name service; torchrun's variables are all there or refused."""

from pathlib import Path

import pytest
import torch

from recsys.errors import UsageError
from recsys.sharding.processes import device_kind, device_name, gpus, start_processes
from tests.faults.commands import Commands, Ending


def start_alone() -> None:
    context = start_processes("cpu")
    print(context.rank, context.world_size)


def test_a_run_of_one_starts_by_itself(context):
    assert (context.rank, context.world_size, context.is_first) == (0, 1, True)
    assert context.device == torch.device("cpu")


def test_a_group_that_stands_is_used_as_it_is(context):
    assert start_processes("cpu") == context


def test_many_runs_start_on_one_machine_at_the_same_moment(commands: Commands, tmp_path: Path):
    logs = [tmp_path / name for name in ("first", "second", "third")]
    runs = [commands.start_function(f"{__name__}:{start_alone.__name__}", [], log) for log in logs]

    assert [commands.wait(run, log) for run, log in zip(runs, logs, strict=True)] == [Ending(0, "0 1\n")] * 3


@pytest.mark.parametrize(
    ("available", "wished", "kind", "count"),
    [
        (True, "auto", "cuda", 3),
        (True, "cuda", "cuda", 3),
        (True, "cpu", "cpu", 0),
        (False, "auto", "cpu", 0),
        (False, "cpu", "cpu", 0),
    ],
)
def test_the_device_is_the_one_wished_for(monkeypatch, available, wished, kind, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3 if available else 0)

    assert device_kind(wished) == kind
    assert gpus(wished) == count


@pytest.mark.parametrize(
    ("is_built", "visible", "found"),
    [
        (False, None, r"torch \S+ was built without CUDA"),
        (True, "", r"torch \S+ sees no GPU, with CUDA_VISIBLE_DEVICES=''"),
        (True, None, r"torch \S+ sees no GPU; `nvidia-smi` says"),
    ],
)
def test_a_gpu_that_is_wished_for_and_absent_is_refused_with_what_was_found(monkeypatch, is_built, visible, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: is_built)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    with pytest.raises(UsageError, match=rf"`runtime\.device` is cuda, but {found}.*runtime\.device=auto, or cpu"):
        start_processes("cuda")


def test_a_process_that_keeps_to_the_cpu_asks_for_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("asked"))

    assert device_name(start_processes("cpu").device) == "cpu"


def test_half_set_torchrun_variables_are_refused(monkeypatch):
    from recsys.sharding import processes

    monkeypatch.setattr(processes.dist, "is_initialized", lambda: False)
    monkeypatch.setenv("RANK", "1")
    for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(UsageError, match="RANK is set to 1, but WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is"):
        start_processes("cpu")
