"""The benchmark of the recipes in small: what LightGBM would learn from, and how models are put side by side.

The whole of it: python tests/benchmarks/quality.py --task ml100k_temporal --raw <folder>
"""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from recsys.metrics.predictions import USER, Predictions
from tests.small_model import ROWS, batch_of, small_contract

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def features(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("quality_features")


@pytest.fixture
def measures(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("quality_measures")


def test_small_tables_are_categories_and_a_list_is_its_length_and_mean_label(features):
    rows = features.rows_of([batch_of(ROWS[:2]), batch_of(ROWS[2:])])
    made = features.TreeFeatures(small_contract(), rows)

    matrix = made.matrix(features.rows_of([batch_of(ROWS[:2])]))

    assert made.names == [
        *("age", "price", "length of recent", "label given recent"),
        *("user_id", "item_id", "brand", "user segment"),
    ]
    assert made.categories == [4, 5, 6, 7]
    # Half of the six rows are positive. Item 3 stands in rows 1 (twice) and 5, item 1 in 1 and 5: all are positive.
    three, one = (3 + 10 * 0.5) / (3 + 10), (2 + 10 * 0.5) / (2 + 10)
    assert matrix[0] == pytest.approx([0.5, -1, 3, (2 * three + one) / 3, 1, 2, 1, 0])
    assert matrix[1][:3] == pytest.approx([-1.5, 0.3, 0])
    assert np.isnan(matrix[1][3])


def test_a_training_row_is_encoded_without_its_own_label(features, monkeypatch):
    monkeypatch.setattr(features, "_MOST_CATEGORIES", 0)
    batch, turned = batch_of(ROWS * 3), batch_of(ROWS * 3)
    turned.label[4] = 1 - turned.label[4]

    columns = [features.TreeFeatures(small_contract(), features.rows_of([each])) for each in (batch, turned)]

    coded = [place for place, name in enumerate(columns[0].names) if name.startswith("label given")]
    assert len(coded) == 4
    moved = np.abs(columns[1].known[:, coded] - columns[0].known[:, coded])
    # The overall mean, which all rows are drawn toward alike, moves by a label in 18; of its own ids' means no row's.
    assert (moved[4] < 1 / 18).all()
    assert np.nanmax(moved) > 1 / 18


def one_run(measures: ModuleType, logit: list[float], shift: float):
    label = np.tile([0.0, 1], 40).astype(np.float32)
    rows = Predictions(
        np.tile(np.array(logit, np.float32) + np.float32(shift), 40),
        label,
        np.zeros(80, np.int64),
        np.ones(80, np.float32),
        {USER: np.repeat(np.arange(20), 4)},
    )
    scores = {"auc/all": 0.5 + shift, "log_loss/all": 1.0, "grouped_auc/all": 0.5, "ndcg_10/all": 0.25}
    return measures.Tested(scores, rows)


def test_figures_are_means_over_seeds_with_their_deviation(measures):
    found = measures.summary([one_run(measures, [-1, 1], 0.0), one_run(measures, [-1, 1], 0.2)], cutoff=10)

    assert (found["auc"], found["ndcg"], found["ndcg_new"], found["seeds"]) == (0.6, 0.25, None, 2)
    assert found["std"] == {"auc": pytest.approx(0.2 / np.sqrt(2)), "log_loss": 0, "grouped_auc": 0, "ndcg": 0}


def test_a_gain_is_paired_by_user_and_a_model_of_one_seed_stands_beside_every_seed(measures):
    better, worse = one_run(measures, [-1, 1], 0.0), one_run(measures, [1, -1], 0.0)

    found = measures.gains([better, better], [worse], ("all of them",))

    assert (found["auc"].value, found["auc"].half_width) == (1.0, 0.0)
    assert str(found["grouped_auc"]) == "+1.0000 (+1.0000 to +1.0000)"
    assert found["log_loss"].value == pytest.approx(-1)
    assert "ndcg" not in found
    unordered = measures.Tested({"auc/all": 0.5}, worse.predictions)
    assert list(measures.gains([better], [unordered], ("all of them",))) == ["auc"]
