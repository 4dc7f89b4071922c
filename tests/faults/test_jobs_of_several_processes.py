"""A command on several processes that torchrun starts: whole, killed, preempted, and of two launchers, as on nodes."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from recsys.run.curves import load_curves
from tests.faults.commands import ROOT, Commands, Ending
from tests.faults.test_training_is_killed import SMALL, outcome, require_nothing_half_written, run_folders
from tests.pipelines.conftest import small_overrides
from tests.sharding import elastic_jobs

LAUNCH = f"{elastic_jobs.__name__}:{elastic_jobs.launch.__name__}"
STEPS = 13
GRACE_SECONDS = 30  # torchrun's own


def words_in(root: Path) -> list[str]:
    # Rows in step: those of one process. Tables are planned alike for one node and for two, to have the same bits.
    near = [f"cluster.{which}_bandwidth=10" for which in ("in_node", "between_nodes")]
    return [*small_overrides(root), *SMALL, "training.tower_day_share=0", "training.row_order=time", *near]


@pytest.fixture(scope="module")
def world(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared small world, a tower, and a run of one process."""
    root = tmp_path_factory.mktemp("world")
    assert commands.run(["train", *words_in(root)], root / "log").code == 0
    return root


def endpoint() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def started(commands: Commands, log: Path, words: list[str], moments: list[dict[str, Any]], *more: int) -> int:
    """Start a command in two processes of one launcher; `more` is how often it restarts them, and its grace."""
    restarts, grace = more or (0, GRACE_SECONDS)
    return commands.start_function(LAUNCH, [1, 2, endpoint(), restarts, words, moments, grace], log)


def job(commands: Commands, log: Path, words: list[str], moments: list[dict[str, Any]], restarts: int = 0) -> Ending:
    """Run a command in two processes of one launcher."""
    ending = commands.wait(started(commands, log, words, moments, restarts, GRACE_SECONDS), log)
    assert ending is not None
    return ending


@pytest.fixture(scope="module")
def unbroken(commands: Commands, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two launchers with a process each, which meet at one endpoint."""
    before, where = run_folders(world), endpoint()
    logs = [tmp_path_factory.mktemp("logs") / name for name in ("first", "second")]
    jobs = [
        commands.start_function(LAUNCH, [2, 1, where, 0, ["train", *words_in(world)], [], GRACE_SECONDS], log)
        for log in logs
    ]
    endings = [commands.wait(pid, log) for pid, log in zip(jobs, logs, strict=True)]
    assert [ending and ending.code for ending in endings] == [0, 0], endings
    printed = sorted(ending.printed for ending in endings if ending)
    # The first process speaks, and the other says nothing.
    assert "Run folder" in printed[1]
    assert "Run folder" not in printed[0]
    (folder,) = run_folders(world) - before
    return folder


def test_two_launchers_that_meet_train_one_run_as_one_process_does(world: Path, unbroken: Path):
    alone = min(run_folders(world))
    mine, ours = load_curves(alone)["train/loss"], load_curves(unbroken)["train/loss"]
    assert mine[0] == ours[0] == list(range(1, STEPS + 1))
    assert ours[1] == pytest.approx(mine[1], rel=1e-5)


def test_a_killed_process_takes_the_job_down_and_the_restarted_one_ends_as_an_unbroken_one(
    commands: Commands, world: Path, unbroken: Path, tmp_path: Path
):
    before = run_folders(world)
    kill = {"rank": 1, "function": "recsys.training.loop:wait_for_device", "call": 7}

    ending = job(commands, tmp_path / "log", ["train", *words_in(world)], [kill], restarts=1)

    assert ending.code == 0, ending.printed
    assert "process 0 of 2 lost another one" in ending.printed
    assert "Going on with the run" in ending.printed
    (folder,) = run_folders(world) - before
    assert outcome(folder) == outcome(unbroken)


def test_a_killed_process_is_named_as_the_first_that_failed(commands: Commands, world: Path, tmp_path: Path):
    before, began = run_folders(world), time.monotonic()
    kill = {"rank": 1, "function": "recsys.training.loop:wait_for_device", "call": 7}

    ending = job(commands, tmp_path / "log", ["train", *words_in(world)], [kill])

    assert ending.code == 1
    assert "FIRST rank 1" in ending.printed
    assert "FAILED rank 1 exit -9" in ending.printed
    assert time.monotonic() - began < 60
    (folder,) = run_folders(world) - before
    require_nothing_half_written(folder)


def test_a_process_that_hangs_takes_the_job_down_by_the_time_out_which_is_named(
    commands: Commands, world: Path, tmp_path: Path
):
    words = ["train", *words_in(world), "runtime.exchange_seconds=10", "training.checkpoint_every=99"]
    # In a step, and as the last checkpoint is written, when all that the other does is to wait for it.
    hangs = {
        "step": {"function": "recsys.training.loop:wait_for_device", "call": 7},
        "checkpoint": {"function": "recsys.artifacts.checkpoint_storage:flush_file"},
    }
    began = time.monotonic()
    jobs = {
        name: started(commands, tmp_path / name, words, [{"rank": 1, "then": "stop"} | where], 0, 1)
        for name, where in hangs.items()
    }
    for name, pid in jobs.items():
        ending = commands.wait(pid, tmp_path / name)
        assert ending is not None
        assert ending.code == 1, ending.printed
        assert "process 0 of 2 lost another one" in ending.printed
        assert "within 10 s (`runtime.exchange_seconds`)" in ending.printed
        assert "FAILED rank 0 exit 69" in ending.printed
    assert time.monotonic() - began < 300  # gloo's own time-out is 1800


@pytest.mark.parametrize(("who", "then"), [("the launcher", "preempt"), ("one process", "end")])
def test_a_job_asked_to_end_keeps_a_checkpoint_from_which_it_goes_on_as_an_unbroken_one(
    who: str, then: str, commands: Commands, world: Path, unbroken: Path, tmp_path: Path
):
    before = run_folders(world)
    ask = {"rank": 1, "function": "recsys.training.loop:wait_for_device", "call": 5, "then": then}

    ending = job(commands, tmp_path / "log", ["train", *words_in(world)], [ask])

    assert ending.code != 0, ending.printed
    (folder,) = run_folders(world) - before
    require_nothing_half_written(folder)
    newest = max(path.name for path in folder.glob("checkpoints/*"))
    assert int(newest.removeprefix("step-")) in (5, 6, 7)
    if then == "end":
        return
    again = job(commands, tmp_path / "log", ["train", "--resume", str(folder), *words_in(world)], [])
    assert again.code == 0, again.printed
    assert outcome(folder) == outcome(unbroken)


def test_torchrun_starts_the_command_as_a_module(world: Path):
    before = run_folders(world)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    done = subprocess.run(
        [*launcher, "-m", "recsys", "train", *words_in(world)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert done.returncode == 0, done.stderr
    (folder,) = run_folders(world) - before
    assert done.stdout.count(f"Run folder: {folder}") == 1
    assert json.loads((folder / "result.json").read_text())["record"]["steps"] == STEPS
