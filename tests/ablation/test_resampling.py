"""What resampling promises: the metrics of rows that are written out as often as their user is drawn."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from recsys.ablation.resampling import ALL, ArmPredictions, QueryValues, UserResamples, measure_arm, resampled_auc
from recsys.ablation.user_sums import user_auc
from tests.ablation.simulated_studies import SEGMENTS, World, simulate


def _arm(**changed) -> ArmPredictions:
    rng = np.random.default_rng(0)
    user = rng.integers(9, size=200) * 11
    columns = {
        "logit": (rng.integers(12, size=200) / 3 - 2).astype(np.float32),  # coarse: full of ties
        "label": (rng.random(200) < 0.4).astype(np.float32),
        "segment": (user // 11) % 3,
        "weight": np.ones(200, np.float32),
        "user": user,
    }
    return ArmPredictions("frozen", 0, **(columns | changed))


def _written_out(arm: ArmPredictions, resamples: UserResamples, resample: int) -> np.ndarray:
    """Row numbers, each as often as its user is drawn."""
    return np.repeat(np.arange(len(arm.label)), resamples.draws[resample][resamples.index_of(arm.user)])


def test_the_first_entry_is_the_real_sample_and_the_others_draw_as_many_users_as_there_are():
    resamples = UserResamples(_arm(), resamples=20, seed=0)
    assert (resamples.draws[0] == 1).all()
    assert (resamples.draws[1:].sum(axis=1) == 9).all()
    assert len(np.unique(resamples.draws[1:], axis=0)) > 10


@pytest.mark.parametrize("resample", [0, 1, 5])
def test_every_metric_of_a_resample_is_that_of_its_rows_written_out(resample):
    arm = _arm()
    resamples = UserResamples(arm, resamples=5, seed=1)
    measured = measure_arm(arm, SEGMENTS, resamples)
    rows = _written_out(arm, resamples, resample)
    probability = 1 / (1 + np.exp(-arm.logit[rows].astype(float)))
    for name in (ALL, *SEGMENTS):
        here = np.ones(len(rows), bool) if name == ALL else arm.segment[rows] == SEGMENTS.index(name)
        label, loss = arm.label[rows][here], measured.values["log_loss", name][resample]
        if not len(label):
            assert np.isnan(loss)
            continue
        assert loss == pytest.approx(log_loss(label, probability[here], labels=[0, 1]))
        if 0 < label.mean() < 1:
            expected = roc_auc_score(label, arm.logit[rows][here])
            assert measured.values["auc", name][resample] == pytest.approx(expected, abs=1e-12)
            entropy = log_loss(label, np.full(len(label), label.mean()))
            assert measured.values["normalised_entropy", name][resample] == pytest.approx(loss / entropy)


def test_grouped_auc_is_the_mean_of_the_drawn_users_own_aucs_weighted_by_their_rows():
    arm = _arm()
    resamples = UserResamples(arm, resamples=3, seed=2)
    values = measure_arm(arm, SEGMENTS, resamples).values["grouped_auc", ALL]
    own = {
        user: (roc_auc_score(arm.label[rows], arm.logit[rows]), rows.sum())
        for user in np.unique(arm.user)
        if 0 < arm.label[rows := arm.user == user].mean() < 1
    }
    drawn = {user: resamples.draws[2][resamples.index_of(np.array([user]))[0]] for user in own}
    weights = np.array([drawn[user] * rows for user, (_, rows) in own.items()])
    assert values[2] == pytest.approx(weights @ [value for value, _ in own.values()] / weights.sum())


def test_row_weights_count_in_every_resample():
    rng = np.random.default_rng(3)
    weight = rng.exponential(size=200).astype(np.float32)
    arm = _arm(weight=weight)
    resamples = UserResamples(arm, resamples=2, seed=3)
    rows = _written_out(arm, resamples, 2)
    expected = roc_auc_score(arm.label[rows], arm.logit[rows], sample_weight=weight[rows])
    assert measure_arm(arm, SEGMENTS, resamples).values["auc", ALL][2] == pytest.approx(expected, abs=1e-6)


def test_a_resample_without_one_class_is_undefined_and_not_one_half():
    draws = np.array([[1, 1], [2, 0]], np.uint8)
    values = resampled_auc(np.array([1.0, 0.0]), np.array([1.0, 0.0]), np.ones(2), np.array([0, 1]), draws)
    assert values[0] == 1.0
    assert np.isnan(values[1])


def test_ranking_metrics_are_means_over_the_drawn_users_queries():
    queries = {"ndcg_20": QueryValues(np.array([0, 0, 11]), np.array([0, 0, 1]), np.array([0.2, 0.4, 0.9]))}
    arm = _arm(queries=queries)
    resamples = UserResamples(arm, resamples=4, seed=4)
    measured = measure_arm(arm, SEGMENTS, resamples)
    assert measured.values["ndcg_20", ALL][0] == pytest.approx(0.5)
    assert measured.values["ndcg_20", "cold"][0] == pytest.approx(0.3)
    first, second = (resamples.draws[3][resamples.index_of(np.array([key]))[0]] for key in (0, 11))
    if first + second:
        expected = (0.6 * first + 0.9 * second) / (2.0 * first + second)
        assert measured.values["ndcg_20", ALL][3] == pytest.approx(expected)
    assert measured.support["ndcg_20", ALL].rows == 3


def test_without_users_rows_are_resampled_and_nothing_is_grouped():
    arm = _arm(user=None)
    resamples = UserResamples(arm, resamples=1, seed=0)
    measured = measure_arm(arm, SEGMENTS, resamples)
    assert measured.support["auc", ALL].users == 200
    assert not [key for key in measured.values if key[0] == "grouped_auc"]


def test_users_of_many_rows_make_fewer_effective_ones():
    # Rows per user 3, 1: (4^2) / (9 + 1) = 1.6.
    arm = ArmPredictions(
        "a", 0, np.zeros(4), np.array([0, 1, 0, 1]), np.zeros(4, int), np.ones(4), np.array([5, 5, 5, 6])
    )
    measured = measure_arm(arm, ("only",), UserResamples(arm, resamples=1, seed=0))
    assert measured.support["log_loss", ALL].effective_users == pytest.approx(1.6)


def test_an_auc_rests_on_the_users_of_its_scarcer_class():
    # Positives of users 5 and 6, one each; both negatives of user 5.
    arm = ArmPredictions(
        "a", 0, np.zeros(4), np.array([0, 1, 0, 1]), np.zeros(4, int), np.ones(4), np.array([5, 5, 5, 6])
    )
    measured = measure_arm(arm, ("only",), UserResamples(arm, resamples=1, seed=0))
    assert measured.support["auc", ALL].effective_users == pytest.approx(1.0)
    assert measured.support["auc", ALL].users == 2


def test_a_grouped_auc_rests_on_the_users_with_both_classes():
    # User 7 never has a positive: two users take part, with 2 and 4 rows, (6 ^ 2) / (4 + 16) = 1.8.
    user = np.array([5, 5, 6, 6, 6, 6, 7, 7, 7])
    label = np.array([0, 1, 0, 1, 0, 0, 0, 0, 0])
    arm = ArmPredictions("a", 0, np.zeros(9), label, np.zeros(9, int), np.ones(9), user)
    support = measure_arm(arm, ("only",), UserResamples(arm, resamples=1, seed=0)).support["grouped_auc", ALL]
    assert (support.rows, support.users, support.effective_users) == (6, 2, pytest.approx(1.8))


def test_rows_of_more_weight_make_fewer_effective_users():
    # Weights per user 3 and 1, of one row each: 16 / 10 again.
    arm = ArmPredictions(
        "a", 0, np.zeros(2), np.array([0, 1]), np.zeros(2, int), np.array([3.0, 1.0]), np.array([5, 6])
    )
    measured = measure_arm(arm, ("only",), UserResamples(arm, resamples=1, seed=0))
    assert measured.support["log_loss", ALL].effective_users == pytest.approx(1.6)


def test_the_same_seed_draws_the_same_users_for_every_arm():
    arms = simulate(World(), seed=0)
    one, other = (UserResamples(arm, resamples=10, seed=5) for arm in arms[:2])
    np.testing.assert_array_equal(one.draws, other.draws)


def test_users_with_one_class_have_no_auc_of_their_own():
    key, value, rows = user_auc(
        np.array([1, 0, 1, 1]), np.array([0.0, 0.0, 1.0, 2.0]), np.ones(4), np.array([0, 0, 1, 1])
    )
    assert (key.tolist(), value.tolist(), rows.tolist()) == ([0], [0.5], [2.0])
