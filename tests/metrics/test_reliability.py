"""What the reliability bins promise: equal weights, unbroken ties, and an error that measures miscalibration."""

import numpy as np
import pytest

from recsys.metrics.calibration import NUM_BINS, expected_calibration_error, reliability_bins


def test_bins_hold_equal_shares_of_the_rows_from_low_to_high():
    rng = np.random.default_rng(0)
    logit = rng.normal(size=1500)
    bins = reliability_bins((rng.random(1500) < 0.5).astype(float), logit)
    assert [entry.weight for entry in bins] == [100.0] * NUM_BINS
    assert [entry.predicted for entry in bins] == sorted(entry.predicted for entry in bins)


def test_rows_of_one_prediction_share_a_bin_whatever_their_order():
    label, logit = np.array([1.0, 0.0, 0.0, 0.0]), np.zeros(4)
    forwards, backwards = reliability_bins(label, logit), reliability_bins(label[::-1], logit)
    assert forwards == backwards
    assert [(entry.weight, entry.predicted, entry.observed) for entry in forwards] == [(4.0, 0.5, 0.25)]


def test_the_error_is_the_mean_gap_between_predicted_and_observed():
    # Three rows at probability 0.5 of which none is positive, one row at (almost) 1 that is positive.
    bins = reliability_bins(np.array([0.0, 0.0, 0.0, 1.0]), np.array([0.0, 0.0, 0.0, 50.0]))
    assert expected_calibration_error(bins) == pytest.approx(0.75 * 0.5)


def test_weights_count_as_repeated_rows():
    label, logit = np.array([1.0, 0.0, 1.0]), np.array([-1.0, 0.0, 2.0])
    repeats = np.array([1, 2, 3])
    weighted = reliability_bins(label, logit, repeats.astype(float))
    repeated = reliability_bins(np.repeat(label, repeats), np.repeat(logit, repeats))
    assert expected_calibration_error(weighted) == pytest.approx(expected_calibration_error(repeated))


def test_a_calibrated_ranker_has_a_small_error_and_a_shifted_one_a_large_one():
    rng = np.random.default_rng(1)
    logit = rng.normal(size=20_000)
    label = (rng.random(20_000) < 1 / (1 + np.exp(-logit))).astype(float)
    assert expected_calibration_error(reliability_bins(label, logit)) < 0.02
    assert expected_calibration_error(reliability_bins(label, logit + 1)) > 0.15


def test_no_rows_have_no_bins_and_no_error():
    assert reliability_bins(np.empty(0), np.empty(0)) == ()
    assert expected_calibration_error(()) is None
