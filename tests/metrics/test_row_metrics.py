"""What the pointwise metrics promise: the textbook's values, weights that count, None where a figure is undefined."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from recsys.metrics.auc import auc
from recsys.metrics.best_possible import best_auc, best_log_loss
from recsys.metrics.calibration import calibration
from recsys.metrics.grouped_auc import auc_by_group, grouped_auc
from recsys.metrics.log_loss import log_loss, normalised_entropy


def _random_rows(seed: int, rows: int, distinct_scores: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    score = rng.integers(distinct_scores, size=rows) / 7
    label = (rng.random(rows) < 1 / (1 + np.exp(-score))).astype(np.float32)
    label[:2] = (0, 1)
    return label, score, rng.exponential(size=rows)


def test_auc_counts_the_pairs_in_the_right_order_and_half_of_the_tied_ones():
    # Pairs (positive, negative): (3, 1) won, (3, 3) tied, (2, 1) won, (2, 3) lost -> 2.5 of 4.
    assert auc(np.array([1, 1, 0, 0]), np.array([3.0, 2.0, 1.0, 3.0])) == 2.5 / 4


def test_auc_counts_a_pair_by_the_product_of_its_weights():
    # Pairs: (positive 2, weight 3) x (negative 1, weight 1) won, x (negative 3, weight 2) lost -> 3 of 9.
    assert auc(np.array([1, 0, 0]), np.array([2.0, 1.0, 3.0]), np.array([3.0, 1.0, 2.0])) == pytest.approx(1 / 3)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), rows=st.integers(2, 200), distinct=st.integers(1, 40))
def test_auc_and_log_loss_equal_those_of_scikit_learn(seed, rows, distinct):
    label, score, weight = _random_rows(seed, rows, distinct)
    probability = 1 / (1 + np.exp(-score))

    assert auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert auc(label, score, weight) == pytest.approx(roc_auc_score(label, score, sample_weight=weight), abs=1e-10)
    expected = sklearn_log_loss(label, probability, sample_weight=weight, labels=[0, 1])
    assert log_loss(label, score, weight) == pytest.approx(expected, rel=1e-9)


def test_auc_does_not_depend_on_the_order_of_the_rows():
    label, score, weight = _random_rows(seed=0, rows=500, distinct_scores=9)
    shuffled = np.random.default_rng(1).permutation(500)
    assert auc(label, score, weight) == pytest.approx(
        auc(label[shuffled], score[shuffled], weight[shuffled]), abs=1e-14
    )


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_leaves_auc_and_entropy_undefined_but_not_the_log_loss(only):
    label, logit = np.full(3, only), np.array([0.0, 0.0, 0.0])
    assert auc(label, logit) is None
    assert normalised_entropy(label, logit) is None
    assert log_loss(label, logit) == pytest.approx(np.log(2))


def test_a_class_whose_rows_all_have_weight_zero_is_an_absent_class():
    label, logit, weight = np.array([0, 1]), np.array([0.0, 1.0]), np.array([1.0, 0.0])
    assert auc(label, logit, weight) is None
    assert calibration(label, logit, weight) is None


def test_no_rows_leave_everything_undefined():
    none = np.empty(0)
    assert auc(none, none) is log_loss(none, none) is normalised_entropy(none, none) is calibration(none, none) is None
    assert grouped_auc(none, none, none) is None


def test_log_loss_stays_finite_and_exact_for_the_surest_wrong_logit():
    assert log_loss(np.array([0.0]), np.array([800.0])) == 800.0


def test_normalised_entropy_of_the_mean_label_as_prediction_is_one():
    label = np.array([1, 0, 0, 0])
    assert normalised_entropy(label, np.full(4, np.log(1 / 3))) == pytest.approx(1.0)


def test_calibration_is_predicted_over_observed():
    # Predicted: 4 x 0.5 = 2 positives; observed: 1.
    assert calibration(np.array([1, 0, 0, 0]), np.zeros(4)) == 2.0


def test_grouped_auc_weighs_groups_by_their_rows_and_counts_those_of_one_class():
    label = np.array([1, 0, 1, 0, 0, 0, 1, 1])
    score = np.array([2.0, 1.0, 1.0, 2.0, 2.0, 0.0, 5.0, 6.0])
    group = np.array([7, 7, 3, 3, 3, 3, 9, 9])
    # Group 7: AUC 1 (2 rows). Group 3: one of three pairs won (4 rows). Group 9: one class.
    assert grouped_auc(label, score, group) == pytest.approx((2 * 1 + 4 * (1 / 3)) / 6)
    assert auc_by_group(label, score, group).is_defined.tolist() == [True, True, False]


def test_every_group_gets_the_auc_that_it_has_alone():
    label, score, weight = _random_rows(seed=3, rows=400, distinct_scores=6)
    group = np.random.default_rng(4).integers(60, size=400) * 10
    by_group = auc_by_group(label, score, group, weight)
    for key, value, total in zip(group_keys := by_group.key, by_group.auc, by_group.weight, strict=True):
        rows = group == key
        alone = auc(label[rows], score[rows], weight[rows])
        assert np.isnan(value) if alone is None else value == pytest.approx(alone, abs=1e-9)
        assert total == pytest.approx(weight[rows].sum())
    assert len(group_keys) == len(np.unique(group))


def test_the_best_possible_ranker_is_one_that_knows_the_true_probability():
    probability = np.array([0.9, 0.2, 0.8, 0.1])
    label = np.array([1, 0, 0, 0])
    assert best_auc(label, probability, None) == 1.0
    assert best_log_loss(label, probability, None) == pytest.approx(-np.log([0.9, 0.8, 0.2, 0.9]).mean())


def test_certain_true_probabilities_do_not_break_the_best_log_loss():
    assert best_log_loss(np.array([1, 0]), np.array([1.0, 0.0]), None) == 0.0


@pytest.mark.parametrize(
    ("label", "score", "weight", "message"),
    [
        ([0, 2], [0, 0], None, "Labels must be 0 or 1, found 2"),
        ([0, 1], [0, np.nan], None, "Row 1 scores NaN"),
        ([0, 1], [0, 1], [1, -1], "not negative"),
        ([0, 1], [0, 1, 2], None, "one length"),
    ],
)
def test_columns_that_make_no_sense_are_refused_with_what_was_found(label, score, weight, message):
    with pytest.raises(ValueError, match=message):
        auc(np.array(label), np.array(score, float), None if weight is None else np.array(weight, float))
