"""A run's record says what that run did and nothing else: a pre-training, a training, one that failed, one resumed."""

import re
from pathlib import Path

import pytest
from mlflow.entities import Run

from pipelines.cli import main
from recsys.config.compose import compose_config
from recsys.errors import TrainingError
from recsys.progress import silent
from recsys.run import prepare
from recsys.run.record import open_store
from recsys.run.session import Session
from recsys.run.streams import TRAIN, divided_days
from recsys.tracking import names


class Records:
    """What the commands below left in one store and one folder of runs."""

    def __init__(self, world: list[str], runs: Path) -> None:
        self.runs = runs
        # A tower of its own, so that it is made here.
        self.words = [*world, f"runtime.runs={runs}", "tower.seed=77", "training_mode=frozen_tower"]
        assert main(["train", *self.words]) == 0

    @property
    def folder(self) -> Path:
        (result,) = self.runs.glob("simulated/*/result.json")
        return result.parent

    def of(self, kind: str) -> list[Run]:
        client = open_store(compose_config(self.words)).open()
        experiment = client.get_experiment_by_name("simulated")
        return list(client.search_runs([experiment.experiment_id], f"tags.{names.TAG_KIND} = '{kind}'"))

    def one(self, kind: str) -> Run:
        (run,) = self.of(kind)
        return run


@pytest.fixture(scope="module")
def records(small_world: list[str], tmp_path_factory: pytest.TempPathFactory) -> Records:
    return Records(small_world, tmp_path_factory.mktemp("records"))


def rows_read(run: Run) -> dict[str, int]:
    """Split -> number of rows, of the data that a run says it read."""
    found = {use.tags[0].value: use.dataset.profile for use in run.inputs.dataset_inputs}
    return {split: int(re.findall(r'"num_rows": (\d+)', profile)[0]) for split, profile in found.items()}


def test_the_pre_training_of_a_frozen_study_has_nothing_of_the_rankers(records: Records) -> None:
    params, ranker = records.one("pretrain").data.params, records.one("train").data.params
    assert set(params) == set(ranker), "people group runs by params that all of them have"
    assert "frozen_tower" not in params.values()
    groups = ("training_mode", "composition", "network", "daily", "ablation")
    of_others = {key for key in params if key.partition(".")[0] in groups} | {"evaluation.ranking"}
    assert len(of_others) > 20
    assert {params[key] for key in of_others} == {"none"}
    assert (params[names.PARAM_ARM], params[names.PARAM_TOWER], params[names.PARAM_SEED]) == (
        "pretrain",
        "two_tower",
        "77",
    )
    assert (params["tower.seed"], params["training.batch_size"], params["training.epochs"]) == ("77", "512", "1")


def test_a_pre_training_has_no_rates_of_parts_that_it_does_not_have(records: Records) -> None:
    metrics, ranker = records.one("pretrain").data.metrics, records.one("train").data.metrics
    assert names.learning_rate("embedding_tower") in metrics
    assert names.learning_rate("interaction_network") in ranker
    assert not [name for name in metrics if "interaction" in name]


def test_tower_and_ranker_each_name_the_days_that_they_learnt_from(records: Records) -> None:
    config = compose_config(records.words)
    encoded = prepare.run(config, silent)
    tower, ranker = (
        sum(encoded.days(TRAIN)[day] for day in days) for days in divided_days(encoded, config.training.tower_day_share)
    )
    validation, test = encoded.rows("validation"), encoded.rows("test")
    assert rows_read(records.one("pretrain")) == {"train": tower, "validation": validation}
    assert rows_read(records.one("train")) == {"train": ranker, "validation": validation, "test": test}
    assert 0 < tower < tower + ranker == encoded.rows(TRAIN)


def test_a_run_outside_of_a_study_has_no_study_and_no_night(records: Records) -> None:
    params = records.one("train").data.params
    assert {value for key, value in params.items() if key.startswith(("ablation.", "daily."))} == {"none"}
    assert params[names.PARAM_MODE] == "frozen_tower"


def test_a_run_that_has_finished_is_not_resumed_and_keeps_its_record_bit_for_bit(
    records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    def state() -> dict[Path, tuple[bytes, int]]:
        files = [path for path in records.runs.rglob("*") if path.is_file() and "mlflow" not in path.name]
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    files, before = state(), records.one("train")
    assert len(files) > 20
    assert main(["train", "--resume", str(records.folder)]) == 0
    assert "This run has finished" in capsys.readouterr().out
    after = records.one("train")
    assert state() == files
    assert (after.info.start_time, after.info.end_time, after.info.status) == (
        before.info.start_time,
        before.info.end_time,
        "FINISHED",
    )
    assert after.data.metrics == before.data.metrics
    assert after.data.tags == before.data.tags


def test_a_run_that_failed_before_it_was_measured_has_not_read_the_test_rows(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise TrainingError("It was not to be.")

    monkeypatch.setattr(Session, "finish", failing)
    assert main(["train", *records.words, "training.seed=5"]) == 70
    (failed,) = (run for run in records.of("train") if run.info.status == "FAILED")
    assert set(rows_read(failed)) == {"train", "validation"}
