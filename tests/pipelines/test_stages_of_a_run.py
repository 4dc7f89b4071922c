"""A staged run through the command line: what it keeps of its stages, and that a signal and a resume change nothing."""

import json
from pathlib import Path

import mlflow
import pytest

from pipelines.cli import main
from recsys.run.curves import load_curves
from recsys.run.folder import RESULT
from recsys.run.stopping import StopRequest
from recsys.tracking.figures import Curve
from tests.pipelines.conftest import runs_folder
from tests.pipelines.test_proof_of_a_run import folders, newest_run

# The small world's epoch has about a dozen steps.
STAGED = [
    "training_mode=staged_tables_first",
    "training_mode.stages.frozen_tower={steps: 3}",
    "training_mode.stages.tower_tables={steps: 2}",
]


def trained(overrides: list[str]) -> Path:
    before = folders(overrides)
    assert main(["train", *overrides]) == 0
    (folder,) = folders(overrides) - before
    return folder


def stages_by_step(run: mlflow.entities.Run, overrides: list[str]) -> dict[int, float]:
    client = mlflow.MlflowClient(f"sqlite:///{runs_folder(overrides)}/mlflow.db")
    return {point.step: point.value for point in client.get_metric_history(run.info.run_id, "train/stage")}


@pytest.fixture(scope="module")
def unbroken(small_world: list[str]) -> Path:
    """The folder of a staged run that nothing stopped."""
    return trained([*small_world, *STAGED])


def test_a_staged_run_follows_its_stages_and_keeps_the_contract_and_the_proof_of_each(
    small_world: list[str], unbroken: Path
) -> None:

    run = newest_run(small_world)
    stages = stages_by_step(run, small_world)
    assert [stages[step] for step in range(1, 8)] == [0, 0, 0, 1, 1, 2, 2]
    assert run.data.params["training_mode.stages"] == "frozen_tower 3 steps,tower_tables 2 steps,end_to_end"
    assert run.data.params["training_mode.rates"] == "embedding_tower 0.2"
    client = mlflow.MlflowClient(f"sqlite:///{runs_folder(small_world)}/mlflow.db")
    kept = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert {f"optimizer_contract{suffix}.json" for suffix in ("", "_stage_1", "_stage_2")} <= kept
    proof = json.loads((unbroken / RESULT).read_text())["frozen_proof"]
    assert {path: (each["from_step"], each["to_step"]) for path, each in proof.items()} == {
        "embedding_tower": (0, 3),
        "embedding_tower.user_side": (3, 5),
        "embedding_tower.item_side": (3, 5),
    }
    assert all(each["is_unchanged"] for each in proof.values())


@pytest.mark.parametrize("stop_after", [2, 3, 4])
def test_a_staged_run_that_was_stopped_goes_on_to_the_same_scores(
    small_world: list[str], unbroken: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    asked = []

    def stop(request: StopRequest) -> bool:
        asked.append(None)
        return len(asked) >= stop_after

    before = folders(small_world)
    with monkeypatch.context() as patched:
        patched.setattr(StopRequest, "__call__", stop)
        patched.setattr(StopRequest, "raise_if_asked", lambda request: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(["train", *small_world, *STAGED]) == 130
    (folder,) = folders(small_world) - before

    assert main(["train", "--resume", str(folder), *small_world]) == 0

    scores = [json.loads((each / RESULT).read_text())["scores"] for each in (unbroken, folder)]
    assert scores[0] == scores[1]
    assert curves_of(folder) == curves_of(unbroken)


def test_a_run_with_an_adapter_serves_it(small_world: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained([*small_world, "training_mode=frozen_adapter", "training_mode.adapter_rank=2"])

    assert main(["evaluate", "--run", str(folder), *small_world]) == 0
    expected = json.loads((folder / RESULT).read_text())["scores"]["auc/all"]
    assert f"{expected:.4f}" in capsys.readouterr().out
    described = next((folder / "model").rglob("*.json"), None)
    assert described is not None


def curves_of(folder: Path) -> dict[str, Curve]:
    """All but how fast the run was."""
    return {name: curve for name, curve in load_curves(folder).items() if not name.startswith("perf/")}
