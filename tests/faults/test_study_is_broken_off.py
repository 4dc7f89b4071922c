"""A study that is killed, stopped, or loses an arm keeps what was done, leaves no process behind, and goes on.

Its figures depend on none of that, nor on how many arms run at once.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from recsys.config.compose import compose_config
from recsys.run.record import open_store
from tests.faults.commands import Commands
from tests.pipelines.conftest import small_overrides
from tests.recorded import recorded_table
from tests.waiting import wait_until

ARMS = 4
TIMEOUT = 240
SMALL = ["data.rows=1200", "data.users=60", "data.items=30", "training.batch_size=128"]
LONG = ["training.epochs=200", "training.patience=200"]


@pytest.fixture(scope="module")
def world(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a study on a small world that is prepared and has its tower; without `runtime.runs`."""
    root = tmp_path_factory.mktemp("world")
    words = [*small_overrides(root), *SMALL]
    assert commands.run(["pretrain", *words], root / "said").code == 0
    return [word for word in words if not word.startswith("runtime.runs=")]


@pytest.fixture(scope="module")
def unbroken(commands: Commands, world: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study whose arms were all started at once on a fresh store, and ended."""
    runs = tmp_path_factory.mktemp("unbroken")
    ending = commands.run(ablate(world, runs, f"ablation.processes={ARMS}"), runs / "said")
    assert ending.code == 0, ending.printed
    return runs


def ablate(world: list[str], runs: Path, *more: str) -> list[str]:
    return ["ablate", *world, f"runtime.runs={runs}", *more]


def results(runs: Path) -> dict[str, Path]:
    """Arm -> its result's file."""
    found = runs.glob("simulated/*/*/result.json")
    return {path.parent.name: path for path in found}


def outcome(runs: Path) -> dict[str, dict[str, Any]]:
    """Of every arm, what must not depend on how the study came about."""
    documents = {name: json.loads(path.read_text()) for name, path in results(runs).items()}
    return {name: {key: each[key] for key in ("scores", "record")} for name, each in documents.items()}


def test_arms_that_start_at_once_on_a_fresh_store_are_as_many_finished_runs(unbroken: Path, world: list[str]):
    store = open_store(compose_config([*world, f"runtime.runs={unbroken}"]))
    assert len(results(unbroken)) == ARMS
    assert len(recorded_table(store, kind="arm")) == ARMS


def test_a_study_that_was_killed_goes_on_and_its_figures_are_those_of_an_unbroken_one_bit_for_bit(
    unbroken: Path, commands: Commands, world: list[str], tmp_path: Path
):
    often = "training.checkpoint_every=2"
    study = commands.start(ablate(world, tmp_path, "ablation.processes=2", often), tmp_path / "said")
    wait_until(lambda: results(tmp_path), TIMEOUT)
    processes = psutil.Process(study).children(recursive=True)
    os.kill(study, signal.SIGKILL)
    commands.wait(study, tmp_path / "said")
    wait_until(lambda: not any(process.is_running() for process in processes), TIMEOUT)
    done = {name: path.stat().st_mtime_ns for name, path in results(tmp_path).items()}
    assert 0 < len(done) < ARMS

    again = commands.run(ablate(world, tmp_path, "ablation.processes=1", often), tmp_path / "said")
    assert again.code == 0, again.printed
    after = results(tmp_path)
    assert {name: after[name].stat().st_mtime_ns for name in done} == done
    assert outcome(tmp_path) == outcome(unbroken)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_study_that_is_stopped_stops_its_arms_leaves_no_process_and_lets_no_second_one_in_before(
    number: signal.Signals, code: int, commands: Commands, world: list[str], tmp_path: Path
):
    words = ablate(world, tmp_path, "ablation.processes=2", *LONG)
    study = commands.start(words, tmp_path / "said")
    wait_until(lambda: len(list(tmp_path.glob("simulated/*/*/config.json"))) == 2, TIMEOUT)
    if number == signal.SIGTERM:
        second = commands.run(words, tmp_path / "second")
        assert second.code == 75
        assert f"is being worked on by process {study}" in " ".join(second.printed.split())
    processes = psutil.Process(study).children(recursive=True)
    os.kill(study, number)
    ending = commands.wait(study, tmp_path / "said")
    assert ending is not None
    assert ending.code == code, ending.printed
    wait_until(lambda: not any(process.is_running() for process in processes), TIMEOUT)
    assert len(list(tmp_path.glob("simulated/*/*/checkpoints/step-*/manifest.json"))) == 2
    assert not results(tmp_path)


def test_an_arm_that_fails_is_told_by_name_and_the_others_finish(commands: Commands, world: list[str], tmp_path: Path):
    grid = "ablation.grid={training.learning_rate:[1e30,0.001]}"
    words = [grid, "ablation.contrast=training.learning_rate", "ablation.seeds=[0]", "ablation.processes=2"]
    ending = commands.run(ablate(world, tmp_path, *words), tmp_path / "said")
    printed = " ".join(ending.printed.split())
    assert ending.code == 70, printed
    assert [name.partition("-s0")[0] for name in results(tmp_path)] == ["learning_rate=0.001"]
    assert "1 of 2 arms failed; what the others did is kept" in printed
    assert "learning_rate=1e+30/s0: " in printed
    assert "not finite" in printed
