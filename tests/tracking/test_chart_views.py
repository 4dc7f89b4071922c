"""Prepared chart pages: what comes first, and that a store takes them."""

import base64
import json
import zlib
from pathlib import Path

import pytest

from recsys.tracking import names
from recsys.tracking.chart_views import study_views
from recsys.tracking.run import start_run
from recsys.tracking.store import TrackingStore

METRICS = [
    "cost/train_seconds",
    "grad_norm/embedding_tower",
    "grad_norm/whole",
    "system/cpu_utilization_percentage",
    "test_auc/all",
    "train/loss",
    "valid_auc/all",
    "valid_auc/new",
]


def test_what_an_ablation_is_about_comes_first_and_final_scores_are_bars():
    by_arm, by_run = study_views("study-1", METRICS, {})
    state = by_arm.to_state()

    sections = [section["name"] for section in state["compareRunSections"]]
    assert sections[:5] == ["at a glance", "valid_auc", "test_auc", "grad_norm", "train"]
    charts = [(chart["metricSectionId"], chart["metricKey"], chart["type"]) for chart in state["compareRunCharts"]]
    assert charts[:5] == [
        ("section-at a glance", "valid_auc/all", "LINE"),
        ("section-at a glance", "train/loss", "LINE"),
        ("section-at a glance", "grad_norm/embedding_tower", "LINE"),
        ("section-at a glance", "valid_auc/new", "LINE"),
        ("section-valid_auc", "valid_auc/all", "LINE"),
    ]
    assert ("section-test_auc", "test_auc/all", "BAR") in charts
    assert not [metric for _, metric, _ in charts if metric.startswith("system/")]
    assert state["groupBy"]["groupByKeys"] == [{"mode": "param", "groupByData": "arm"}]
    assert by_run.to_state()["groupBy"] is None
    assert by_arm.key != by_run.key


def test_means_that_are_close_to_each_other_and_far_from_zero_are_told_apart():
    by_arm, by_run = study_views("study-1", METRICS, {"valid_auc/all": [0.6, 0.7, 0.8], "train/loss": [0.5, 0.5]})

    ranges = {chart["metricKey"]: chart.get("range") for chart in by_arm.to_state()["compareRunCharts"]}
    # A twentieth of what they span is left free above and below; where they span nothing, as much of 1.
    assert ranges["valid_auc/all"] == pytest.approx({"yMin": 0.59, "yMax": 0.81})
    assert ranges["train/loss"] == pytest.approx({"yMin": 0.45, "yMax": 0.55})
    assert ranges["grad_norm/whole"] == {}
    assert not any(chart.get("range") for chart in by_run.to_state()["compareRunCharts"])


def test_a_view_of_many_metrics_fits_into_a_tag_and_reads_back(tmp_path: Path):
    metrics = [f"{section}/part_{number}" for section in ("valid_auc", "test", "train") for number in range(20)]
    view, _ = study_views("study-1", metrics, {metric: [0.1, 0.2] for metric in metrics})
    store = TrackingStore.in_folder(tmp_path, "e")
    with start_run(store, "study", {}, {names.TAG_KIND: "study"}) as run:
        run.save_chart_view(view)

    client = store.open()
    saved = json.loads(client.get_experiment(store.experiment_id(client)).tags[view.tag])
    state = json.loads(zlib.decompress(base64.b64decode(saved["state"].removeprefix("deflate;"))))
    assert saved["name"] == "study-1: arms, mean over seeds"
    assert state == view.to_state()
    # MLflow cuts no tag of an experiment; it refuses one that is longer than this.
    assert len(client.get_experiment(store.experiment_id(client)).tags[view.tag]) < 20_000
