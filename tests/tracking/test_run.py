"""The life of a run in a local store: how it ends, and what it leaves."""

import os
import signal
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Run

from recsys.errors import CannotWriteError, UsageError
from recsys.tracking import names
from recsys.tracking.run import DatasetUse, TrackedRun, start_run
from recsys.tracking.store import TrackingStore
from tests.faults.commands import Commands, Ending
from tests.waiting import wait_until

TAGS = {names.TAG_KIND: "arm", names.TAG_ABLATION_ID: "study-1"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrackingStore:
    return TrackingStore.in_folder(tmp_path_factory.mktemp("runs"), "small")


def runs_in(store: TrackingStore) -> tuple[MlflowClient, list[Run]]:
    client = store.open()
    return client, client.search_runs([store.experiment_id(client)])


def only_run(store: TrackingStore, run_id: str | None) -> tuple[MlflowClient, Run]:
    client = store.open()
    return client, client.get_run(run_id)


def die_after_two_steps(run: TrackedRun) -> None:
    with run:
        run.log_step(1, {"train/loss": 0.5})
        run.log_step(2, {"train/loss": 0.4})
        raise RuntimeError("power cut")


def test_a_run_leaves_params_tags_metrics_files_and_data_and_is_finished(store: TrackingStore):
    data = DatasetUse("small", "train", "sha256:" + "ab" * 32, "/data/small", {"price": "float"}, 100)
    with start_run(store, "frozen/s0", {"seed": 0}, TAGS, [data]) as run:
        run.log_step(1, {"train/loss": 0.7})
        run.log_step(2, {"train/loss": 0.6})
        run.attach("config.yaml", "seed: 0\n")
        run.attach("plots/empty.png", Figure())
        run.log_final({"test_auc/all": 0.75}, data)

    client, found = only_run(store, run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "frozen/s0"
    assert found.data.params == {"seed": "0"}
    assert TAGS.items() <= found.data.tags.items()
    assert [(point.step, point.value) for point in client.get_metric_history(run.run_id, "train/loss")] == [
        (1, 0.7),
        (2, 0.6),
    ]
    assert found.data.metrics["test_auc/all"] == 0.75
    (use,) = found.inputs.dataset_inputs
    assert (use.dataset.name, use.dataset.digest) == ("small", "ab" * 18)
    assert Path(client.download_artifacts(run.run_id, "config.yaml")).read_text() == "seed: 0\n"
    assert found.info.artifact_uri.startswith(store.database.parent.as_uri())
    assert [file.path for file in client.list_artifacts(run.run_id, "plots")] == ["plots/empty.png"]


def test_nan_is_counted_and_leaves_no_point(store: TrackingStore):
    with start_run(store, "r", {}, TAGS) as run:
        run.log_step(1, {"train/loss": float("nan"), "grad_norm/head": float("inf"), "train/epoch": 0})

    _, found = only_run(store, run.run_id)
    assert found.data.metrics == {"train/epoch": 0.0, names.NON_FINITE: 2.0}


def test_an_error_ends_the_run_as_failed_with_its_reason_and_goes_on_to_the_caller(store: TrackingStore):
    with pytest.raises(ValueError, match="17"), start_run(store, "r", {}, TAGS) as run:
        raise ValueError("segment 17 is unknown")

    _, found = only_run(store, run.run_id)
    assert found.info.status == "FAILED"
    assert found.data.tags[names.TAG_END_REASON] == "ValueError: segment 17 is unknown"


def test_ctrl_c_ends_the_run_as_killed(store: TrackingStore):
    with pytest.raises(KeyboardInterrupt), start_run(store, "r", {}, TAGS) as run:
        raise KeyboardInterrupt

    _, found = only_run(store, run.run_id)
    assert found.info.status == "KILLED"
    assert "Ctrl-C" in found.data.tags[names.TAG_END_REASON]


def record_until_stopped(folder: str) -> None:
    with start_run(TrackingStore.in_folder(Path(folder), "e"), "r", {}, {}) as run:
        run.log_step(1, {"train/loss": 0.5})
        print("ready", flush=True)
        time.sleep(60)


def test_sigterm_ends_the_run_as_killed_and_the_process_with_143(commands: Commands, tmp_path: Path):
    process = commands.start_function(f"{__name__}:{record_until_stopped.__name__}", [str(tmp_path)], tmp_path / "log")
    wait_until(lambda: (tmp_path / "log").read_text() == "ready\n")
    os.kill(process, signal.SIGTERM)

    assert commands.wait(process, tmp_path / "log") == Ending(143, "ready\n")
    _, (found,) = runs_in(TrackingStore.in_folder(tmp_path, "e"))
    assert found.info.status == "KILLED"
    assert found.data.metrics == {"train/loss": 0.5}
    assert found.data.tags[names.TAG_END_REASON] == "stopped by SIGTERM"


def test_a_resumed_run_is_the_same_run_and_finishes(store: TrackingStore):
    run = start_run(store, "r", {"seed": 3}, TAGS)
    with pytest.raises(RuntimeError):
        die_after_two_steps(run)

    with start_run(store, "ignored", {"ignored": 1}, TAGS, resume=run.spool_id) as again:
        run_id = run.run_id
        again.log_step(2, {"train/loss": 0.4})
        again.log_step(3, {"train/loss": 0.3})

    assert again.run_id == run_id
    client, found = only_run(store, run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"seed": "3"}
    assert [point.step for point in client.get_metric_history(run_id, "train/loss")] == [1, 2, 3]


def test_a_run_that_is_trained_further_shows_its_new_scores_and_equal_ones_once(store: TrackingStore):
    with start_run(store, "r", {}, TAGS) as run:
        run.log_step(5, {"train/loss": 0.5})
        run.log_final({"test_auc/all": 0.7, "test/log_loss": 0.5})
    with start_run(store, "r", {}, TAGS, resume=run.spool_id) as again:
        again.log_final({"test_auc/all": 0.8, "test/log_loss": 0.5})

    client, found = only_run(store, again.run_id)
    # At step 0, or the chart page draws lines instead of bars.
    assert [(p.step, p.value) for p in client.get_metric_history(again.run_id, "test/log_loss")] == [(0, 0.5)]
    assert found.data.metrics["test_auc/all"] == 0.8


def test_system_metrics_are_sampled_when_asked_for(store: TrackingStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("recsys.tracking.forwarder._SECONDS_BETWEEN_DELIVERIES", 0.05)
    with start_run(store, "r", {}, TAGS, system_metrics=True) as run:
        run._forwarder._next_sample = 0.0
        wait_until(lambda: run._forwarder._samples > 0)

    _, found = only_run(store, run.run_id)
    assert found.data.metrics["system/process_memory_megabytes"] > 10


def test_a_logged_model_is_listed_with_its_scores_and_their_data_and_loads_by_its_id(
    store: TrackingStore, tmp_path: Path
):
    code = tmp_path / "doubling.py"
    code.write_text(
        "from mlflow.models import set_model\n"
        "from mlflow.pyfunc import PythonModel\n"
        "class Doubling(PythonModel):\n"
        "    def predict(self, context, model_input, params=None): return model_input * 2\n"
        "set_model(Doubling())\n"
    )
    mlflow.pyfunc.save_model(tmp_path / "model", python_model=str(code), pip_requirements=[])
    data = DatasetUse("small", "test", "sha256:" + "cd" * 32, "/data/small", {"price": "float"}, 100)
    with start_run(store, "r", {}, TAGS, [data]) as run:
        run.log_model("ranker", tmp_path / "model")
        run.log_final({"test_auc/all": 0.75}, data, model="ranker")

    client, found = only_run(store, run.run_id)
    (output,) = found.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.name, model.source_run_id, str(model.status)) == ("ranker", run.run_id, "READY")
    (score,) = model.metrics
    assert (score.key, score.value, score.dataset_name, score.dataset_digest) == (
        "test_auc/all", 0.75, "small", "cd" * 18,
    )  # fmt: skip
    assert found.data.metrics["test_auc/all"] == 0.75
    previous = mlflow.get_tracking_uri()
    try:
        mlflow.set_tracking_uri(store.uri)
        loaded = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
        assert loaded.predict(pd.DataFrame({"x": [2]}))["x"].tolist() == [4]
    finally:
        mlflow.set_tracking_uri(previous)


def test_an_attachment_cannot_leave_the_run(store: TrackingStore):
    with start_run(store, "r", {}, TAGS) as run, pytest.raises(UsageError, match=r"'\.\./x' leaves the run's folder"):
        run.attach("../x", "text")


def test_a_runs_folder_that_cannot_be_written_is_said_before_training(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(CannotWriteError, match="Cannot write to"):
        start_run(TrackingStore.in_folder(tmp_path / "file", "e"), "r", {}, TAGS)
