"""A tuned study: an equal budget for every condition, spent on validation alone, kept, and gone on with."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

import recsys.run.streams
from recsys.config.compose import compose_config
from recsys.progress import silent
from recsys.run import prepare
from recsys.run.record import open_store
from recsys.study import ablate, tuning
from recsys.study.plan import StudyGrid, StudyPlan
from tests.recorded import recorded_table

WORDS = ["ablation.tune.trials=3", "ablation.seeds=[0]"]


@pytest.fixture(scope="module")
def tuned(small_world: list[str]) -> ablate.FinishedStudy:
    return ablate.run([*small_world, *WORDS], silent)


def trials_of(study: ablate.FinishedStudy) -> dict[str, list[dict[str, Any]]]:
    found = study.folder.glob("tuning/*/trials.json")
    return {path.parent.name.rpartition("-")[0]: json.loads(path.read_text()) for path in found}


def test_every_condition_spends_the_same_budget_and_trains_with_its_best_values(tuned: ablate.FinishedStudy):
    trials = trials_of(tuned)
    assert {name: len(found) for name, found in trials.items()} == {"end-to-end": 3, "frozen": 3}
    for each in tuned.arms:
        best = min(trials[each.arm.condition], key=lambda trial: trial["log_loss"])
        config = json.loads((each.folder / "config.json").read_text())
        assert config["training"]["learning_rate"] == best["values"]["training.learning_rate"]
        assert config["training"]["table_learning_rate"] == best["values"]["training.table_learning_rate"]


def test_an_arms_run_holds_the_table_of_its_trials_and_the_study_says_what_was_tuned(
    tuned: ablate.FinishedStudy, small_world: list[str]
):
    store = open_store(compose_config(small_world))
    client = mlflow.MlflowClient(store.uri)
    for run_id in recorded_table(store, tuned.id)["run_id"]:
        table = Path(client.download_artifacts(run_id, "tuning.md")).read_text()
        assert table.count("\n") == 2 + 3
        assert table.count("(best)") == 1
    held = {line["what"]: line["detail"] for line in json.loads((tuned.folder / "held_equal.json").read_text())}
    assert held["Tuning"] == "3 trials for every condition, judged by validation log loss, with seed 1000"
    assert "end-to-end: learning_rate" in held["Rates"]


def test_trials_never_read_a_test_row_and_a_search_goes_on_where_it_was(
    tuned: ablate.FinishedStudy, small_world: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened = []
    stream = recsys.run.streams.BatchStream

    def watched(root: Path, split: str, *arguments: Any, **options: Any) -> Any:
        opened.append(split)
        return stream(root, split, *arguments, **options)

    monkeypatch.setattr(recsys.run.streams, "BatchStream", watched)
    words = [*small_world, *WORDS]
    search = StudyPlan(StudyGrid(words), prepare.run(compose_config(words), silent)).searches()["frozen"]
    kept = trials_of(tuned)["frozen"]
    fresh = replace(search, folder=tmp_path)
    tuning.tune(replace(fresh, trials=2), silent)
    tuning.tune(fresh, silent)
    assert opened == ["train", "validation"] * 3
    found = [trial.to_document() for trial in tuning.load_trials(tmp_path)]
    assert [{**trial, "seconds": 0} for trial in found] == [{**trial, "seconds": 0} for trial in kept]
