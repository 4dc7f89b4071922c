"""Finished runs as a table."""

from pathlib import Path

import pytest

from recsys.errors import DataError
from recsys.tracking.history import finished_runs, metric_history, unfinished_runs
from recsys.tracking.run import start_run
from recsys.tracking.store import TrackingStore


def test_a_study_comes_back_as_one_row_per_finished_arm(tmp_path: Path):
    store = TrackingStore.in_folder(tmp_path, "e")
    for seed, study in ((0, "a"), (1, "a"), (0, "b")):
        with start_run(store, f"s{seed}", {"seed": seed}, {"kind": "arm", "ablation_id": study}) as run:
            run.log_step(2, {"train/loss": 0.5})
            run.log_step(1, {"train/epoch": 0})
            run.log_final({"test_auc/all": 0.7 + seed / 10})
    with pytest.raises(ValueError, match="nothing"), start_run(store, "x", {}, {"kind": "arm", "ablation_id": "a"}):
        raise ValueError("nothing")

    table = finished_runs(store, ablation_id="a")

    assert table["param.seed"].tolist() == ["0", "1"]
    assert table["metric.test_auc/all"].tolist() == pytest.approx([0.7, 0.8])
    assert (table["tag.ablation_id"] == "a").all()
    assert len(finished_runs(store)) == 3
    assert unfinished_runs(store, ablation_id="a")["status"].tolist() == ["FAILED"]
    assert metric_history(store, table["run_id"][0], "train/loss").to_dict("list") == {"step": [2], "value": [0.5]}
    assert metric_history(store, table["run_id"][0], "no such").empty


def test_an_experiment_that_is_not_there_is_named_with_those_that_are(tmp_path: Path):
    store = TrackingStore.in_folder(tmp_path, "there")
    store.experiment_id(store.open())

    with pytest.raises(DataError, match=r"no experiment 'elsewhere'; it has: .*there"):
        finished_runs(TrackingStore.in_folder(tmp_path, "elsewhere"))
