"""Whether a ranker's probabilities are too high or too low: in the mean, and in reliability bins."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from recsys.metrics.columns import Column, checked_columns
from recsys.metrics.metric import Metric

NUM_BINS = 15  # as in Guo et al. (2017)


def calibration(label: Column, logit: Column, weight: Column | None = None) -> float | None:
    """Predicted positives over observed ones; 1 is calibrated in the mean, 1.1 predicts a tenth too many.

    None where no positive has weight.

    Source: He et al. (2014), section 2.

    Args:
        label, logit, weight: (N,), as `log_loss` takes them.
    """
    label, logit, weight = checked_columns(label, logit, weight)
    observed = weight @ label
    return float(weight @ expit(logit) / observed) if observed > 0 else None


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows of about equal predicted probability.

    Attributes:
        weight: sum of the row weights.
        predicted: mean predicted probability.
        observed: share of positives.
    """

    weight: float
    predicted: float
    observed: float


def reliability_bins(label: Column, logit: Column, weight: Column | None = None) -> tuple[ReliabilityBin, ...]:
    """At most `NUM_BINS` bins of about equal weight, from the lowest prediction to the highest.

    Equal weight instead of equal width (Nguyen and O'Connor, "Posterior calibration and exploratory analysis for
    natural language processing models", 2015): click rates crowd near 0, where equal widths would put every row into
    the first bin. Rows of one prediction are never split, so ties make fewer bins.

    >>> reliability_bins(np.array([0.0, 1.0]), np.array([0.0, 0.0]))
    (ReliabilityBin(weight=2.0, predicted=0.5, observed=0.5),)

    Args:
        label, logit, weight: (N,), as `log_loss` takes them.
    """
    label, probability = np.asarray(label, np.float64), expit(np.asarray(logit, np.float64))
    weight = np.ones_like(label) if weight is None else np.asarray(weight, np.float64)
    has_weight = weight > 0
    label, probability, weight = label[has_weight], probability[has_weight], weight[has_weight]
    if not len(label):
        return ()
    order = np.argsort(probability, kind="stable")
    # A tied row belongs to the bin of the first row of its tie, whatever the order of the rows was.
    first_of_tie = np.searchsorted(probability[order], probability[order], side="left")
    passed = np.cumsum(weight[order]) - weight[order]
    bin_of_row = (passed[first_of_tie] * NUM_BINS / weight.sum()).astype(np.int64).clip(max=NUM_BINS - 1)
    sums = [
        np.bincount(bin_of_row, weights=column, minlength=NUM_BINS)
        for column in (weight[order], (weight * probability)[order], (weight * label)[order])
    ]
    return tuple(ReliabilityBin(float(w), float(p / w), float(y / w)) for w, p, y in zip(*sums, strict=True) if w > 0)


def expected_calibration_error(bins: tuple[ReliabilityBin, ...]) -> float | None:
    """Mean gap between predicted and observed over the bins, weighted by their rows; None without rows.

    Source: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (2015), equation 3.
    """
    if not bins:
        return None
    total = sum(entry.weight for entry in bins)
    return sum(entry.weight * abs(entry.predicted - entry.observed) for entry in bins) / total


CALIBRATION = Metric(
    "calibration",
    "calibration",
    value=lambda rows: calibration(rows.label, rows.logit, rows.weight),
    is_in_study=False,
)
CALIBRATION_ERROR = Metric(
    "calibration_error",
    "calibration error",
    value=lambda rows: expected_calibration_error(reliability_bins(rows.label, rows.logit, rows.weight)),
    is_lower_better=True,
    is_recorded=False,
    is_in_study=False,
)
