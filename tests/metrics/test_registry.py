"""A metric that is registered is measured, recorded, named in tables, bootstrapped and judged, with no other edit."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.ablation.bootstrap import UserBootstrap, measure_arm
from recsys.ablation.comparison import Rules, Verdict, compare
from recsys.ablation.verdict import verdict_paragraph
from recsys.all_segments import ALL
from recsys.evaluation.ranking import evaluate_ranking
from recsys.evaluation.scores import column_score
from recsys.evaluation.split_evaluation import evaluate
from recsys.metrics import registry
from recsys.metrics.metric import Metric, RatioOfSums, UserSums
from recsys.run.record import final_metrics
from tests.ablation.simulated_studies import QUESTION, SEGMENTS, World, simulate
from tests.evaluation.small_split import Stream, rows


def _mistakes(label, logit):
    return ((logit > 0) != (label == 1)).astype(np.float64)


ERROR_RATE = Metric(
    "error_rate",
    "rate of errors",
    value=lambda rows: float(_mistakes(rows.label, rows.logit).mean()) if len(rows) else None,
    bootstrap=RatioOfSums(
        {"error_rate": lambda rows: UserSums(rows.user, _mistakes(rows.label, rows.logit), np.ones(len(rows.label)))},
        lambda rate: rate,
    ),
    is_lower_better=True,
)
HIT_RATE = Metric(
    "hit_rate",
    "hit rate",
    of_queries=lambda ranked: np.isin(np.arange(len(ranked.relevant)), ranked.hit_query).astype(np.float64),
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(registry, "METRICS", [*registry.METRICS, ERROR_RATE, HIT_RATE])


def test_a_registered_metric_of_rows_is_measured_in_every_segment_and_recorded():
    predictions = simulate(World(), seed=0)["frozen", 0]
    evaluation = evaluate(predictions, SEGMENTS)
    expected = float(_mistakes(predictions.label, predictions.logit).mean())
    assert evaluation.overall["error_rate"] == expected
    assert set(evaluation.flat_metrics("test")) >= {f"test_error_rate/{name}" for name in (ALL, *SEGMENTS)}
    assert final_metrics(evaluation.flat_metrics(""))["test"]["test/error_rate"] == expected


def test_a_registered_metric_of_rows_is_bootstrapped_compared_and_judged_in_its_own_direction():
    arms = simulate(World(users=400, luck=0.02, user_error=0.1, handicap=(2.0, 2.0, 2.0)), seed=0)
    bootstrap = UserBootstrap(arms["frozen", 0], {}, samples=40, seed=0)
    measured = [measure_arm(*arm, predictions, {}, SEGMENTS, bootstrap) for arm, predictions in arms.items()]
    rules = Rules(0.05, {})
    comparison = compare(QUESTION, measured, rules)
    found = comparison.find("error_rate")
    assert found is not None
    assert found.low is not None
    assert found.difference < 0  # the first makes fewer errors
    assert found.verdict is Verdict.BETTER
    assert "rate of errors" in verdict_paragraph([comparison], "error_rate", rules, {})


def test_a_registered_metric_of_lists_is_ranked_recorded_and_shown():
    split = Stream(rows(logit=[5.0, 4.0, 3.0, 2.0], label=[1, 0, 0, 1], query=[8, 8, 9, 9]), batch_size=4)
    ranking = evaluate_ranking({"x": column_score(("logit",), "logit")}, split, ("new",), cutoff=1)["x"]
    assert ranking.flat_metrics("")["hit_rate_1/all"] == 0.5
    assert ranking.by_query()["hit_rate_1"].value.tolist() == [1.0, 0.0]
    assert final_metrics(ranking.flat_metrics(""), cutoff=1)["ranking_test"]["ranking/hit_rate1_all"] == 0.5
    assert "hit_rate_1_new" in registry.study_metrics(1)


def test_the_tables_of_a_study_have_their_columns_in_one_order():
    assert registry.study_metrics(20) == (
        *("auc", "log_loss", "grouped_auc", "error_rate"),
        *("recall_20", "ndcg_20", "hit_rate_20", "recall_20_new", "ndcg_20_new", "hit_rate_20_new"),
    )


def test_the_direction_of_a_metric_of_lists_is_that_of_every_cutoff_and_scope(monkeypatch):
    first_place = replace(HIT_RATE, name="first_place", is_lower_better=True)
    monkeypatch.setattr(registry, "METRICS", [*registry.METRICS, first_place])
    assert registry.is_gain("first_place_20_new", -1.0)
    assert registry.is_gain("recall_20_new", 1.0)
    assert not registry.is_gain("recall_20_new", -1.0)


def test_every_metric_has_a_name_of_its_own():
    names = [metric.name for metric in registry.METRICS]
    assert len(set(names)) == len(names)
