"""A run shows who steps what before its first step, and fails, for all to see, where something frozen changed."""

import json
from pathlib import Path

import mlflow
import pytest
import torch

import pipelines.console
from pipelines.cli import main
from recsys.config.compose import compose_config
from recsys.monitoring.frozen_proof import FrozenProof
from recsys.run.folder import CHECKPOINTS, RESULT
from recsys.run.record import open_store
from recsys.training.optimizer import RankerOptimizers
from recsys.training.snapshot import BestWeights
from tests.pipelines.conftest import runs_folder

FROZEN = ["training_mode=frozen_tower", "composition=conditional"]


def newest_run(overrides: list[str]) -> mlflow.entities.Run:
    store = open_store(compose_config(overrides))
    client = mlflow.MlflowClient(store.uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == store.experiment]
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"], max_results=1)[0]


def folders(overrides: list[str]) -> set[Path]:
    return set((runs_folder(overrides) / "simulated").glob("*"))


def test_a_run_prints_and_keeps_who_steps_what_and_its_proof(
    small_world: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipelines.console.console, "width", 120)

    assert main(["train", *small_world, *FROZEN]) == 0

    printed, run = capsys.readouterr().out, newest_run(small_world)
    summary = printed.partition("Which optimizer steps what")[2].partition("the best weights")[0]
    row = next(line for line in summary.splitlines() if "embedding_tower" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")][3:] == ["no", "none", "0", "0"]
    assert "rowwise_adagrad" in summary
    client = mlflow.MlflowClient(open_store(compose_config(small_world)).uri)
    kept = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert {"optimizer_contract.md", "optimizer_contract.json", "frozen_proof.json"} <= kept
    assert run.data.tags["frozen_proof"] == "unchanged"
    proof = json.loads(Path(client.download_artifacts(run.info.run_id, "frozen_proof.json")).read_text())
    (process,) = proof["embedding_tower"]["processes"]
    assert process["digest_before"] == process["digest_after"]
    assert process["optimizer_state_tensors"] == 0


def change_the_tower(proof: FrozenProof) -> None:
    tower = proof._inventory.module.embedding_tower
    next(iter(parameter for parameter in tower.parameters() if parameter.dim() == 2)).data[0, 0] += 1e-6


def fail_after_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something writes to the tower while the run learns."""
    record = FrozenProof.record

    def changed(proof: FrozenProof) -> dict:
        change_the_tower(proof)
        return record(proof)

    monkeypatch.setattr(FrozenProof, "record", changed)


def fail_by_the_best_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training leaves the tower alone; putting the best weights back does not."""
    restore = BestWeights.restore

    def restored(best: BestWeights) -> None:
        restore(best)
        best._copy._inventory.module.embedding_tower.user_side[0][0].weight.data += 1e-6

    monkeypatch.setattr(BestWeights, "restore", restored)


@pytest.mark.parametrize("fault", [fail_after_training, fail_by_the_best_weights])
def test_a_frozen_tower_that_changed_fails_the_run_with_70_and_says_so_on_its_page(
    small_world: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault
) -> None:
    before = folders(small_world)
    fault(monkeypatch)

    assert main(["train", *small_world, *FROZEN, "training.seed=1"]) == 70

    assert "The frozen part `embedding_tower` is not proven unchanged: `embedding_tower." in capsys.readouterr().err
    run = newest_run(small_world)
    assert run.info.status == "FAILED"
    assert "is not proven unchanged: `embedding_tower." in run.data.tags["end_reason"]
    assert run.data.tags["frozen_proof"] == "changed"
    (folder,) = folders(small_world) - before
    assert not (folder / "result.json").exists()


def test_a_resumed_run_whose_checkpoint_holds_another_tower_ends_with_70_before_its_first_step(
    small_world: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = folders(small_world)
    assert main(["train", *small_world, *FROZEN, "training.seed=2"]) == 0
    (folder,) = folders(small_world) - before
    assert any((folder / CHECKPOINTS).glob("step-*"))
    (folder / RESULT).unlink()  # as where it was killed before it had finished
    # The tower that the resumed run starts from is another one than the checkpoint's.
    init = FrozenProof.__init__

    def of_another_tower(proof: FrozenProof, ranker: torch.nn.Module, state) -> None:
        with torch.no_grad():
            ranker.module.embedding_tower.user_side[0][0].weight.add_(1e-6)
        init(proof, ranker, state)

    monkeypatch.setattr(FrozenProof, "__init__", of_another_tower)
    capsys.readouterr()

    assert main(["train", "--resume", str(folder), *small_world]) == 70

    captured = capsys.readouterr()
    assert "`embedding_tower.user_side.0.0.weight` changed" in captured.err


def test_a_parameter_that_no_optimizer_steps_ends_the_run_with_70_before_its_first_step(
    small_world: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = RankerOptimizers._groups

    def without_the_last(optimizers: RankerOptimizers) -> list:
        found = groups(optimizers)
        found[-1]["params"] = found[-1]["params"][:-1]
        return found

    monkeypatch.setattr(RankerOptimizers, "_groups", without_the_last)

    assert main(["train", *small_world, *FROZEN, "training.seed=3"]) == 70

    captured = capsys.readouterr()
    assert "learns, but no optimizer steps it" in captured.err
    assert "training frozen_tower" not in captured.out  # the label of the first step
