"""What the intervals promise: Student's width for few seeds, both sources of chance, an honest call for more seeds."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from recsys.ablation.intervals import Spread, holm, spread_of


def _spread(difference=0.01, seeds=3, seed_deviation=0.002, users=1e9, user_deviation=0.0) -> Spread:
    return Spread(difference, seeds, seed_deviation, users, user_deviation, user_deviation)


def test_where_users_play_no_part_the_interval_and_p_value_are_those_of_the_paired_t_test():
    pairs = np.array([0.004, 0.001, 0.006])
    spread = spread_of(np.repeat(pairs[:, None], 50, axis=1), effective_users=1e9)
    expected = ttest_1samp(pairs, 0.0)
    low, high = expected.confidence_interval(0.95)
    assert spread.half_width(0.05) == pytest.approx((high - low) / 2)
    assert spread.p_value() == pytest.approx(expected.pvalue, rel=1e-6)


def test_where_seeds_play_no_part_the_interval_is_the_normal_one_of_the_users():
    assert _spread(seed_deviation=0.0, user_deviation=0.005).half_width(0.05) == pytest.approx(1.96 * 0.005, rel=1e-4)


def test_three_seeds_make_an_interval_more_than_twice_as_wide_as_a_normal_quantile_would():
    naive = 1.96 * 0.002 / math.sqrt(3)
    assert _spread().half_width(0.05) / naive == pytest.approx(4.303 / 1.96, rel=1e-3)


def test_the_two_half_widths_join_as_the_root_of_the_sum_of_squares():
    seeds_alone, users_alone = _spread(), _spread(seed_deviation=0.0, user_deviation=0.004)
    both = _spread(user_deviation=0.004)
    assert both.half_width(0.05) == pytest.approx(
        math.hypot(seeds_alone.half_width(0.05), users_alone.half_width(0.05))
    )


def test_the_p_value_is_the_level_whose_interval_just_touches_zero():
    spread = _spread(user_deviation=0.003)
    assert spread.half_width(spread.p_value()) == pytest.approx(abs(spread.difference))


@pytest.mark.parametrize(("difference", "expected"), [(0.0, 1.0), (1e-9, 1.0)])
def test_no_difference_has_p_value_1(difference, expected):
    assert _spread(difference=difference).p_value() == pytest.approx(expected, abs=1e-5)


def test_a_p_value_is_a_number_however_far_the_difference_lies_from_zero():
    # At 2.434 effective users the quantile of level 1e-300 is computed as not a number.
    assert 0 < _spread(users=2.43417984, user_deviation=1e-12, seed_deviation=0.0).p_value() < 1e-9


def test_one_seed_has_no_interval_since_it_tells_nothing_about_seeds():
    spread = spread_of(np.array([[0.3, 0.31, 0.29]]), effective_users=50)
    assert spread.seed_deviation is None
    assert spread.half_width(0.05) is None
    assert spread.p_value() is None


def test_users_of_whom_samples_often_lack_a_class_have_no_interval():
    pairs = np.tile([0.1, np.nan, 0.2, 0.1, 0.3], (3, 1))
    assert spread_of(pairs, effective_users=50).half_width(0.05) is None


def test_two_users_are_too_few_for_an_interval():
    assert spread_of(np.random.default_rng(0).normal(size=(3, 100)), effective_users=2.0).half_width(0.05) is None


def test_a_metric_that_is_undefined_on_the_real_users_has_no_spread():
    assert spread_of(np.array([[np.nan, 0.1], [0.2, 0.1]]), effective_users=50) is None


def test_few_users_widen_the_interval_for_the_variance_that_resampling_loses():
    pairs = np.tile(np.concatenate([[0.0], np.random.default_rng(1).normal(size=4000)]), (2, 1))
    assert spread_of(pairs, effective_users=5.0).user_deviation == pytest.approx(math.sqrt(5 / 4), rel=0.05)


def test_what_users_do_is_told_apart_into_what_seeds_share_and_what_they_do_not():
    # Users move every seed's difference by the same 0.003, and each seed's own by 0.004 more.
    rng = np.random.default_rng(0)
    pairs = 0.003 * rng.normal(size=20_000) + 0.004 * rng.normal(size=(4, 20_000))
    spread = spread_of(np.concatenate([np.zeros((4, 1)), pairs], axis=1), effective_users=1e9)
    assert spread.user_deviation == pytest.approx(math.hypot(0.003, 0.004 / 2), rel=0.02)
    assert spread.shared_user_deviation == pytest.approx(0.003, rel=0.02)


def test_chance_that_each_seed_has_for_itself_is_counted_once_as_the_seeds_part():
    # Seeds share no user's error: what users do is in the spread over seeds, and the interval is Student's alone.
    rng = np.random.default_rng(0)
    pairs = 0.004 * rng.normal(size=(5, 20_001))
    spread = spread_of(pairs, effective_users=1e9)
    students = 2.776 * spread.seed_deviation / math.sqrt(5)
    assert spread.half_width(0.05) == pytest.approx(students, rel=0.01)
    # What is estimated from bootstrap samples may overshoot; a variance below zero is none.
    assert 0 <= spread.shared_user_deviation < 0.0004


def test_holm_multiplies_the_smallest_by_all_the_next_by_one_less_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
