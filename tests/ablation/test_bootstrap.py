"""What the bootstrap promises: the metrics of rows that are written out as often as their user is drawn."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from recsys.ablation.bootstrap import MeasuredArm, UserBootstrap, measure_arm
from recsys.all_segments import ALL
from recsys.metrics.auc import bootstrapped_auc
from recsys.metrics.grouped_auc import user_sums
from recsys.metrics.metric import UserRows
from recsys.metrics.predictions import Predictions, QueryValues
from tests.ablation.simulated_studies import SEGMENTS, World, simulate


def _rows(**changed) -> Predictions:
    rng = np.random.default_rng(0)
    user = rng.integers(9, size=200) * 11
    columns = {
        "logit": (rng.integers(12, size=200) / 3 - 2).astype(np.float32),  # coarse: full of ties
        "label": (rng.random(200) < 0.4).astype(np.float32),
        "segment": (user // 11) % 3,
        "weight": np.ones(200, np.float32),
        "extra": {"user_key": user},
    }
    return Predictions(**(columns | changed))


def _measured(rows: Predictions, bootstrap: UserBootstrap, segments=SEGMENTS, queries=None) -> MeasuredArm:
    return measure_arm("frozen", 0, rows, queries or {}, segments, bootstrap)


def _written_out(rows: Predictions, bootstrap: UserBootstrap, sample: int) -> np.ndarray:
    """Row numbers, each as often as its user is drawn."""
    return np.repeat(np.arange(len(rows)), bootstrap.counts[sample][bootstrap.index_of(rows.extra["user_key"])])


def _few(label: list[int], user: list[int], weight: list[float] | None = None) -> Predictions:
    count = len(label)
    return Predictions(
        np.zeros(count), np.array(label), np.zeros(count, int), np.array(weight or np.ones(count)),
        {"user_key": np.array(user)},
    )  # fmt: skip


def _support(metric: str, rows: Predictions):
    return _measured(rows, UserBootstrap(rows, {}, samples=1, seed=0), ("only",)).support[metric, ALL]


def test_the_first_entry_is_the_real_sample_and_the_others_draw_as_many_users_as_there_are():
    bootstrap = UserBootstrap(_rows(), {}, samples=20, seed=0)
    assert (bootstrap.counts[0] == 1).all()
    assert (bootstrap.counts[1:].sum(axis=1) == 9).all()
    assert len(np.unique(bootstrap.counts[1:], axis=0)) > 10


@pytest.mark.parametrize("sample", [0, 1, 5])
def test_every_metric_of_a_sample_is_that_of_its_rows_written_out(sample):
    arm = _rows()
    bootstrap = UserBootstrap(arm, {}, samples=5, seed=1)
    measured = _measured(arm, bootstrap)
    rows = _written_out(arm, bootstrap, sample)
    probability = 1 / (1 + np.exp(-arm.logit[rows].astype(float)))
    for name in (ALL, *SEGMENTS):
        here = np.ones(len(rows), bool) if name == ALL else arm.segment[rows] == SEGMENTS.index(name)
        label, loss = arm.label[rows][here], measured.values["log_loss", name][sample]
        if not len(label):
            assert np.isnan(loss)
            continue
        assert loss == pytest.approx(log_loss(label, probability[here], labels=[0, 1]))
        if 0 < label.mean() < 1:
            expected = roc_auc_score(label, arm.logit[rows][here])
            assert measured.values["auc", name][sample] == pytest.approx(expected, abs=1e-12)
            entropy = log_loss(label, np.full(len(label), label.mean()))
            assert measured.values["normalised_entropy", name][sample] == pytest.approx(loss / entropy)


def test_grouped_auc_is_the_mean_of_the_drawn_users_own_aucs_weighted_by_their_rows():
    arm = _rows()
    bootstrap = UserBootstrap(arm, {}, samples=3, seed=2)
    values = _measured(arm, bootstrap).values["grouped_auc", ALL]
    own = {
        user: (roc_auc_score(arm.label[rows], arm.logit[rows]), rows.sum())
        for user in np.unique(arm.extra["user_key"])
        if 0 < arm.label[rows := arm.extra["user_key"] == user].mean() < 1
    }
    drawn = {user: bootstrap.counts[2][bootstrap.index_of(np.array([user]))[0]] for user in own}
    weights = np.array([drawn[user] * rows for user, (_, rows) in own.items()])
    assert values[2] == pytest.approx(weights @ [value for value, _ in own.values()] / weights.sum())


def test_row_weights_count_in_every_sample():
    rng = np.random.default_rng(3)
    weight = rng.exponential(size=200).astype(np.float32)
    arm = _rows(weight=weight)
    bootstrap = UserBootstrap(arm, {}, samples=2, seed=3)
    rows = _written_out(arm, bootstrap, 2)
    expected = roc_auc_score(arm.label[rows], arm.logit[rows], sample_weight=weight[rows])
    assert _measured(arm, bootstrap).values["auc", ALL][2] == pytest.approx(expected, abs=1e-6)


def test_a_sample_without_one_class_is_undefined_and_not_one_half():
    rows = UserRows(np.array([1.0, 0.0]), np.array([1.0, 0.0]), np.ones(2), np.array([0, 1]))
    values = bootstrapped_auc(rows, np.array([[1, 1], [2, 0]], np.uint8))
    assert values[0] == 1.0
    assert np.isnan(values[1])


def test_ranking_metrics_are_means_over_the_drawn_users_queries():
    queries = {"ndcg_20": QueryValues(np.array([0, 0, 11]), np.array([0, 0, 1]), np.array([0.2, 0.4, 0.9]))}
    bootstrap = UserBootstrap(_rows(), queries, samples=4, seed=4)
    measured = _measured(_rows(), bootstrap, queries=queries)
    assert measured.values["ndcg_20", ALL][0] == pytest.approx(0.5)
    assert measured.values["ndcg_20", "cold"][0] == pytest.approx(0.3)
    first, second = (bootstrap.counts[3][bootstrap.index_of(np.array([key]))[0]] for key in (0, 11))
    if first + second:
        expected = (0.6 * first + 0.9 * second) / (2.0 * first + second)
        assert measured.values["ndcg_20", ALL][3] == pytest.approx(expected)
    assert measured.support["ndcg_20", ALL].rows == 3


def test_without_users_rows_are_drawn_and_nothing_is_grouped():
    arm = _rows(extra={})
    measured = _measured(arm, UserBootstrap(arm, {}, samples=1, seed=0))
    assert measured.support["auc", ALL].users == 200
    assert not [key for key in measured.values if key[0] == "grouped_auc"]


def test_users_of_many_rows_make_fewer_effective_ones():
    # Rows per user 3, 1: (4^2) / (9 + 1) = 1.6.
    assert _support("log_loss", _few([0, 1, 0, 1], [5, 5, 5, 6])).effective_users == pytest.approx(1.6)


def test_an_auc_rests_on_the_users_of_its_scarcer_class():
    # Positives of users 5 and 6, one each; both negatives of user 5.
    support = _support("auc", _few([0, 1, 0, 1], [5, 5, 5, 6]))
    assert support.effective_users == pytest.approx(1.0)
    assert support.users == 2


def test_a_grouped_auc_rests_on_the_users_with_both_classes():
    # User 7 never has a positive: two users take part, with 2 and 4 rows, (6 ^ 2) / (4 + 16) = 1.8.
    support = _support("grouped_auc", _few([0, 1, 0, 1, 0, 0, 0, 0, 0], [5, 5, 6, 6, 6, 6, 7, 7, 7]))
    assert (support.rows, support.users, support.effective_users) == (6, 2, pytest.approx(1.8))


def test_rows_of_more_weight_make_fewer_effective_users():
    # Weights per user 3 and 1, of one row each: 16 / 10 again.
    assert _support("log_loss", _few([0, 1], [5, 6], [3.0, 1.0])).effective_users == pytest.approx(1.6)


def test_the_same_seed_draws_the_same_users_for_every_arm():
    one, other = (UserBootstrap(rows, {}, samples=10, seed=5) for rows in list(simulate(World(), seed=0).values())[:2])
    np.testing.assert_array_equal(one.counts, other.counts)


def test_users_with_one_class_have_no_auc_of_their_own():
    rows = UserRows(np.array([1, 0, 1, 1]), np.array([0.0, 0.0, 1.0, 2.0]), np.ones(4), np.array([0, 0, 1, 1]))
    sums = user_sums(rows)
    assert (sums.user.tolist(), (sums.above / sums.below).tolist(), sums.below.tolist()) == ([0], [0.5], [2.0])
