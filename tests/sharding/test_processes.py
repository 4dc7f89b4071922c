"""A run of one needs no torchrun, no port and no name service; torchrun's variables are all there or refused."""

import subprocess
import sys

import pytest
import torch

from recsys.errors import UsageError
from recsys.sharding.processes import start_processes

ALONE = "from recsys.sharding.processes import start_processes; c = start_processes(); print(c.rank, c.world_size)"


def test_a_run_of_one_starts_by_itself(context):
    assert (context.rank, context.world_size, context.is_first) == (0, 1, True)
    assert context.device == torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def test_a_group_that_stands_is_used_as_it_is(context):
    assert start_processes() == context


def test_many_runs_start_on_one_machine_at_the_same_moment():
    runs = [subprocess.Popen([sys.executable, "-c", ALONE], stdout=subprocess.PIPE, text=True) for _ in range(3)]

    assert [run.communicate(timeout=60)[0] for run in runs] == ["0 1\n"] * 3


def test_half_set_torchrun_variables_are_refused(monkeypatch):
    from recsys.sharding import processes

    monkeypatch.setattr(processes.dist, "is_initialized", lambda: False)
    monkeypatch.setenv("RANK", "1")
    for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(UsageError, match="RANK is set to 1, but WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is"):
        start_processes()
