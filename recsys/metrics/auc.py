"""AUC: how often a random positive row scores above a random negative one."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recsys.metrics.columns import Column, Floats, losing_weight, run_starts, weights_by_class
from recsys.metrics.metric import ComputedAnew, Metric, Support, UserRows, effective_users, weight_support


def auc(label: Column, score: Column, weight: Column | None = None) -> float | None:
    """Probability that a random positive row scores above a random negative one; a tie counts half.

    O(N log N). None where a class has no weight.

    Source: the Mann-Whitney form of the area under the ROC curve (Hanley and McNeil 1982), with row weights.

    >>> auc(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.8]))
    0.875

    Args:
        label: (N,), each 0 or 1.
        score: (N,), of which only the order counts.
        weight: (N,) not negative; None for ones. Rows of weight 0 count for nothing.

    Raises:
        ValueError: see `checked_columns`.
    """
    positive, negative, score = weights_by_class(label, score, weight)
    pairs = positive.sum() * negative.sum()
    if pairs == 0:
        return None
    order = np.argsort(score, kind="stable")
    losing = losing_weight(negative[order], run_starts(score[order]))
    return float(positive[order] @ losing / pairs)


def auc_error(value: float, positives: float, negatives: float) -> float:
    """Standard error of an AUC over so many rows of each class, which count as independent of one another.

    Source: equation 1 of Hanley and McNeil, "The Meaning and Use of the Area under a ROC Curve" (1982), with the
    exponential approximation of its two probabilities.

    >>> round(auc_error(0.5, 100, 100), 4)
    0.0409
    """
    two_positives, two_negatives = value / (2 - value), 2 * value**2 / (1 + value)
    of_one_pair = value * (1 - value)
    shared = (positives - 1) * (two_positives - value**2) + (negatives - 1) * (two_negatives - value**2)
    return math.sqrt((of_one_pair + shared) / (positives * negatives))


def bootstrapped_auc(rows: UserRows, counts: NDArray[np.uint8]) -> Floats:
    """AUC of each bootstrap sample (R,) with ties counted half; NaN where a class has no weight.

    Scores are sorted once: a sample only changes the weights of the rows.

    Args:
        rows: N of them.
        counts: (R, U), how often each user is in each sample.
    """
    logit, weight, user = rows.logit, rows.weight, rows.user
    is_positive = rows.label == 1
    order = np.argsort(logit, kind="stable")
    positive, negative = order[is_positive[order]], order[~is_positive[order]]
    # Negatives below each positive and negatives not above it; between the two lie its ties.
    below = np.searchsorted(logit[negative], logit[positive], side="left")
    not_above = np.searchsorted(logit[negative], logit[positive], side="right")
    has_ties = bool((below != not_above).any())
    is_weighted = bool((weight != 1).any())
    user_of_positive, user_of_negative = user[positive], user[negative]
    weight_of_positive, weight_of_negative = weight[positive], weight[negative]
    result = np.full(len(counts), np.nan)
    passed = np.zeros(len(negative) + 1)
    for sample, of_user in enumerate(counts):
        times = of_user.astype(np.float64)
        winning, losing = times.take(user_of_positive), times.take(user_of_negative)
        if is_weighted:
            winning, losing = winning * weight_of_positive, losing * weight_of_negative
        np.cumsum(losing, out=passed[1:])
        pairs = winning.sum() * passed[-1]
        if pairs > 0:
            # Not `winning @ ...`: BLAS wakes its threads for every product, which cost eight times the product itself.
            won = np.einsum("i,i->", winning, passed.take(below))
            if has_ties:
                won = (won + np.einsum("i,i->", winning, passed.take(not_above))) / 2
            result[sample] = won / pairs
    return result


def _support(rows: UserRows) -> Support:
    classes = (rows.label == 1, rows.label != 1)
    scarcer = min(effective_users(rows.user, rows.weight * is_class) for is_class in classes)
    return replace(weight_support(rows, rows.weight), effective_users=scarcer)


AUC = Metric(
    "auc",
    "AUC",
    value=lambda rows: auc(rows.label, rows.logit, rows.weight),
    bootstrap=ComputedAnew(bootstrapped_auc, _support),
)
