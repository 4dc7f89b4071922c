"""A run that dies at any moment is resumed to the very same result; nothing half-written carries a final name."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from recsys.config.compose import compose_config
from recsys.run.curves import load_curves
from recsys.run.record import open_store
from recsys.run.stopping import stoppable
from recsys.tracking import names
from tests.faults.commands import Commands, Moment
from tests.pipelines.conftest import small_overrides
from tests.recorded import metric_history, recorded_table

# Thirteen steps of 256 rows: checkpoints after steps 4, 8, 12 and 13, two validations.
SMALL = ["training.checkpoint_every=4", "training.validations_per_epoch=2", "training.keep_checkpoints=2"]


@pytest.fixture(scope="module")
def world(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared small world, a tower, and one run that nothing broke."""
    root = tmp_path_factory.mktemp("world")
    assert commands.run(["train", *words(root)], root / "log").code == 0
    return root


def words(root: Path) -> list[str]:
    # Every day for both tower and ranker: the moments below count steps.
    return [*small_overrides(root), *SMALL, "training.tower_day_share=0"]


def run_folders(root: Path) -> set[Path]:
    return {path.parent for path in root.glob("runs/simulated/*/config.json")}


def outcome(folder: Path) -> dict[str, Any]:
    """Everything of a run's result that a resumed run must reach as well."""
    result = json.loads((folder / "result.json").read_text())
    kept = {name: result[name] for name in ("scores", "best_step", "record")}
    # How fast it was is another matter.
    curves = {name: curve for name, curve in load_curves(folder).items() if not name.startswith("perf/")}
    return kept | {"curves": curves}


def require_nothing_half_written(folder: Path) -> None:
    assert all((step / "manifest.json").is_file() for step in folder.glob("checkpoints/step-*"))
    assert not (folder / "result.json").exists()
    for name in ("model", "predictions", "queries"):
        assert not (folder / name).exists() or any((folder / name).iterdir())


# Where it dies, and the checkpoints of which one is the newest then: the second is written while steps are taken, and
# not begun before the first one stands.
MOMENTS = {
    "between two steps": (Moment("recsys.run.session:step_metrics", 9), (4, 8)),
    "while a checkpoint is written": (Moment("recsys.artifacts.checkpoint_storage:sha256_of_file", 4), (4,)),
    "before the checkpoint takes its name": (Moment("recsys.files:_replace_directory", 2), (4,)),
    "during a validation": (Moment("recsys.run.fitted_baselines:evaluate", 3), (4, 8)),
    "during the evaluation on the test split": (Moment("recsys.run.session:save_predictions"), (13,)),
    "while the result is recorded": (Moment("recsys.run.session:attach_calibration"), (13,)),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_any_moment_is_resumed_to_the_same_result_bit_for_bit(
    moment: str, commands: Commands, world: Path, tmp_path: Path
):
    (unbroken, *_) = sorted(run_folders(world))
    before = run_folders(world)
    when, newest_checkpoints = MOMENTS[moment]
    assert commands.run(["train", *words(world)], tmp_path / "log", when).code == -signal.SIGKILL
    (killed,) = run_folders(world) - before
    require_nothing_half_written(killed)
    steps = [int(path.name.removeprefix("step-")) for path in killed.glob("checkpoints/step-*")]
    assert max(steps) in newest_checkpoints
    resumed = commands.run(["train", "--resume", str(killed), *words(world)], tmp_path / "log")
    assert resumed.code == 0, resumed.printed
    assert outcome(killed) == outcome(unbroken)
    assert not list(killed.rglob(".*.partial"))


# Where it is asked to end, and the checkpoint that stands then: of the step that follows in which it looks, which is
# one of several where the request comes from the thread that writes.
REQUESTS = {
    "between two steps": (Moment("recsys.run.session:step_metrics", 6, "end"), range(7, 8)),
    "while a checkpoint is saved": (Moment("recsys.files:_replace_directory", 2, "end"), range(9, 14)),
    "during the evaluation on the test split": (Moment("recsys.run.session:save_predictions", 1, "end"), range(13, 14)),
}


@pytest.mark.parametrize("moment", REQUESTS)
def test_a_run_asked_to_end_keeps_a_checkpoint_ends_with_143_as_killed_and_is_resumed_to_the_same_result(
    moment: str, commands: Commands, world: Path, tmp_path: Path
):
    (unbroken, *_) = sorted(run_folders(world))
    before = run_folders(world)
    when, newest_checkpoints = REQUESTS[moment]
    ending = commands.run(["train", *words(world)], tmp_path / "log", when)
    assert ending.code == 143, ending.printed
    (ended,) = run_folders(world) - before
    require_nothing_half_written(ended)
    steps = [int(path.name.removeprefix("step-")) for path in ended.glob("checkpoints/step-*")]
    assert max(steps) in newest_checkpoints
    last = recorded_table(open_store(compose_config(words(world))), kind="train", is_finished=False).iloc[-1]
    assert last["status"] == "KILLED"
    resumed = commands.run(["train", "--resume", str(ended), *words(world)], tmp_path / "log")
    assert resumed.code == 0, resumed.printed
    assert outcome(ended) == outcome(unbroken)


def test_a_command_asked_to_end_before_there_is_a_run_ends_at_once_with_143(
    commands: Commands, world: Path, tmp_path: Path
):
    before = run_folders(world)
    ending = commands.run(["train", *words(world)], tmp_path / "log", Moment("recsys.run.train:ready_ranker", 1, "end"))
    assert ending.code == 143
    assert run_folders(world) == before


def test_a_second_signal_does_not_wait_for_the_step_in_hand() -> None:
    with stoppable() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        assert request()
        with pytest.raises(SystemExit) as ended:
            os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 143


def test_the_cost_of_a_resumed_run_is_that_of_all_its_parts(commands: Commands, world: Path, tmp_path: Path):
    before = run_folders(world)
    commands.run(["train", *words(world)], tmp_path / "log", Moment("recsys.run.session:save_predictions"))
    (killed,) = run_folders(world) - before
    saved = json.loads((killed / "checkpoints" / "step-00000013" / "rank-0.json").read_text())["run"]["cost"]
    assert commands.run(["train", "--resume", str(killed), *words(world)], tmp_path / "log").code == 0
    # Every step was taken by the first part, and the second one only measured.
    result = json.loads((killed / "result.json").read_text())
    assert 1.0 <= result["cost"]["cpu_seconds"] / saved["cpu_seconds"] < 1.5
    assert result["cost"]["wall_seconds"] >= saved["wall_seconds"] > 0


def test_a_tower_whose_making_is_killed_is_made_again_from_the_start(commands: Commands, world: Path, tmp_path: Path):
    (tower,) = world.glob("towers/[!.]*/tower/weights.safetensors")
    fresh = [*words(world), f"runtime.towers={tmp_path}/towers"]
    before = run_folders(world)
    killed = commands.run(["train", *fresh], tmp_path / "log", Moment("recsys.run.pretrain:step_metrics", 3))
    assert killed.code == -signal.SIGKILL
    assert not list((tmp_path / "towers").glob("[!.]*"))
    assert run_folders(world) == before
    assert commands.run(["pretrain", *fresh], tmp_path / "log").code == 0
    (again,) = (tmp_path / "towers").glob("[!.]*/tower/weights.safetensors")
    assert again.read_bytes() == tower.read_bytes()


def test_a_run_killed_before_its_first_checkpoint_says_to_start_afresh(commands: Commands, world: Path, tmp_path: Path):
    before = run_folders(world)
    commands.run(["train", *words(world)], tmp_path / "log", Moment("recsys.run.session:step_metrics", 2))
    (killed,) = run_folders(world) - before
    ending = commands.run(["train", "--resume", str(killed), *words(world)], tmp_path / "log")
    assert ending.code == 65
    assert f"{killed / 'checkpoints'} holds no checkpoint to resume from" in ending.printed.replace("\n", " ")
    assert "afresh without --resume" in ending.printed


def test_sync_ends_a_killed_run_as_killed_and_loses_no_metric_and_resuming_it_doubles_none(
    commands: Commands, world: Path, tmp_path: Path
):
    config = compose_config(words(world))
    store = open_store(config)
    unbroken = recorded_table(store, kind="train")["run_id"][0]
    before = run_folders(world)
    commands.run(["train", *words(world)], tmp_path / "log", Moment("recsys.run.session:step_metrics", 10))
    (killed,) = run_folders(world) - before
    assert commands.run(["sync", f"runtime.runs={world}/runs"], tmp_path / "log").code == 0
    dead = recorded_table(store, kind="train", is_finished=False).iloc[-1]
    assert dead["status"] == "KILLED"
    assert metric_history(store, dead["run_id"], names.TRAIN_LOSS)["step"].tolist() == list(range(1, 10))

    assert commands.run(["train", "--resume", str(killed), *words(world)], tmp_path / "log").code == 0
    finished = recorded_table(store, kind="train")
    resumed = finished[finished["run_id"] == dead["run_id"]]
    assert len(resumed) == 1
    for metric in (names.TRAIN_LOSS, names.grad_norm("embedding_tower"), names.auc(names.VALIDATION)):
        expected, found = (metric_history(store, run, metric) for run in (unbroken, dead["run_id"]))
        assert found.equals(expected), metric


@pytest.mark.parametrize(
    ("command", "function"),
    [("prepare", "recsys.datasets.encode:_write_manifest"), ("pretrain", "recsys.run.pretrain:step_metrics")],
)
def test_of_two_starters_the_second_ends_with_75_and_names_the_first(
    command: str, function: str, commands: Commands, world: Path, tmp_path: Path
):
    fresh = [*words(world), f"runtime.towers={tmp_path}/towers"]
    fresh += [f"runtime.encoded={tmp_path}/encoded"] if command == "prepare" else []
    first = commands.start([command, *fresh], tmp_path / "first", Moment(function, then="stop"))
    assert commands.wait(first, tmp_path / "first") is None
    second = commands.run([command, *fresh], tmp_path / "second")
    os.kill(first, signal.SIGCONT)
    assert commands.wait(first, tmp_path / "first").code == 0
    assert second.code == 75
    assert f"is being worked on by process {first} on" in second.printed.replace("\n", " ")
    assert commands.run([command, *fresh], tmp_path / "second").code == 0


def test_a_disk_that_fills_up_ends_the_run_with_73_and_leaves_what_stood(
    commands: Commands, world: Path, tmp_path: Path
):
    before = run_folders(world)
    full = Moment("recsys.artifacts.checkpoint:_require_space", 2, then="full")
    ending = commands.run(["train", *words(world)], tmp_path / "log", full)
    assert ending.code == 73, ending.printed
    assert "Cannot write" in ending.printed
    (stopped,) = run_folders(world) - before
    require_nothing_half_written(stopped)
    assert [path.name for path in stopped.glob("checkpoints/*")] == ["step-00000004"]
    assert not list(stopped.glob("**/.*.partial"))
    resumed = commands.run(["train", "--resume", str(stopped), *words(world)], tmp_path / "log")
    assert resumed.code == 0, resumed.printed
    assert outcome(stopped) == outcome(sorted(before)[0])
