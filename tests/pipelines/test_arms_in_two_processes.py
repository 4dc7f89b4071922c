"""Arms that two processes train together: the results of one, and a study that goes on where one of the two was killed.

A process is killed in a way that only the first attempt meets: the job's own process makes it ready and forks both.
"""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.errors import DataError, RecsysError
from recsys.progress import Progress, silent
from recsys.run.folder import RunIdentity
from recsys.study import ablate, execute
from recsys.study.arm import train_arm
from recsys.study.job_processes import run_in_processes
from recsys.study.workers import Failure, Job, run_side_by_side
from recsys.training import loop
from tests.pipelines.conftest import small_overrides

# Rows in step: those of one process.
SMALL = [
    *("data.rows=1200", "data.users=60", "data.items=30", "training.batch_size=128", "training.row_order=time"),
    *("training.checkpoint_every=2", "training.tower_day_share=0", "ablation.seeds=[0]", "ablation.processes=1"),
    *("ablation.resamples=10", "evaluation.ranking=false"),
]


def train_arm_until_killed(config: RunConfig, identity: RunIdentity, progress: Progress) -> None:
    """Train the frozen arm until its second process is killed in the fifth step, and any other arm whole."""
    waits, calls = loop.wait_for_device, 0

    def wait(device: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5 and os.environ["RANK"] == "1" and "frozen" in identity.name:
            os.kill(os.getpid(), signal.SIGKILL)
        waits(device)

    loop.wait_for_device = wait
    train_arm(config, identity, progress)


def scores(study: ablate.FinishedStudy) -> dict[str, dict[str, float]]:
    return {each.arm.name: dict(each.result.scores) for each in study.arms}


def test_a_study_whose_arm_lost_a_process_goes_on_and_two_processes_find_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = [*small_overrides(tmp_path), *SMALL]
    together = [*words, "ablation.processes_per_arm=2"]
    monkeypatch.setattr(execute, "train_arm", train_arm_until_killed)
    with pytest.raises(RecsysError, match="1 of 2 arms failed") as failed:
        ablate.run(together, silent)
    assert "frozen/s0: its process 1 of 2 ended by signal SIGKILL" in str(failed.value)
    monkeypatch.undo()

    found = ablate.run(together, silent)

    alone = ablate.run(words, silent)
    assert found.folder != alone.folder
    mine, ours = scores(alone), scores(found)
    assert ours.keys() == mine.keys()
    assert all(ours[name] == pytest.approx(mine[name], abs=1e-5) for name in mine)
    for each in found.arms:
        manifest = max(each.folder.glob("checkpoints/*/manifest.json")).read_text()
        assert "rank-1.safetensors" in manifest


def fail_in_second(how: str, progress: Progress) -> None:
    if os.environ["RANK"] == "1":
        raise DataError("The rows are gone.") if how == "error" else ZeroDivisionError("by nought")
    loop.gathered(0)  # waits for the other


def test_what_one_of_a_jobs_processes_fails_with_is_the_jobs_failure(config: RunConfig, tmp_path: Path):
    both = replace(config, ablation=replace(config.ablation, processes_per_arm=2))
    arguments = {how: (both, how, fail_in_second, (how,)) for how in ("error", "bug")}
    jobs = [Job(how, run_in_processes, each, tmp_path / how) for how, each in arguments.items()]
    failures = run_side_by_side(jobs, 2, silent, "jobs", "cpu", 2)
    assert sorted(failures, key=lambda each: each.name) == [
        Failure("bug", 70, "ZeroDivisionError: by nought"),
        Failure("error", 65, "The rows are gone."),
    ]
    assert "process 0 of 2 lost another one" in (tmp_path / "error").read_text()


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return compose_config([*small_overrides(tmp_path), *SMALL])
