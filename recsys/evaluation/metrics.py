"""Pointwise metrics of binary labels, in float64 on numpy columns; a metric that is undefined is None, never 0 or 0.5.

Every function takes columns of one length N: `label` holds 0 and 1, `logit` any real score (AUC reads only its order),
`weight` a non-negative weight a row, None for ones. Rows of weight 0 count for nothing.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, xlogy

Column = NDArray[Any]
Floats = NDArray[np.float64]


def auc(label: Column, score: Column, weight: Column | None = None) -> float | None:
    """Probability that a random positive row scores above a random negative one; a tie counts half.

    O(N log N). None where a class has no weight.

    Source: the Mann-Whitney form of the area under the ROC curve (Hanley and McNeil 1982), with row weights.

    >>> auc(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.8]))
    0.875
    """
    positive, negative, score = _by_class(label, score, weight)
    pairs = positive.sum() * negative.sum()
    if pairs == 0:
        return None
    order = np.argsort(score, kind="stable")
    beaten = _beaten(negative[order], _run_starts(score[order]))
    return float(positive[order] @ beaten / pairs)


def log_loss(label: Column, logit: Column, weight: Column | None = None) -> float | None:
    """Mean binary cross-entropy in nats; None where no row has weight."""
    label, logit, weight = _columns(label, logit, weight)
    total = weight.sum()
    if total == 0:
        return None
    return float(weight @ row_losses(label, logit) / total)


def row_losses(label: Column, logit: Column) -> Floats:
    """Binary cross-entropy of every row in nats, (N,)."""
    # log(1 + exp(-margin)) needs no clipping, however sure and however wrong a logit is.
    return np.logaddexp(0.0, np.where(label == 1, -logit, logit).astype(np.float64))


def normalised_entropy(label: Column, logit: Column, weight: Column | None = None) -> float | None:
    """Log loss over the log loss of the mean label as constant prediction; below 1 is better than knowing nothing.

    None where only one class has weight: its entropy is 0.

    Source: He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook" (2014), equation 1.
    """
    loss = log_loss(label, logit, weight)
    entropy = label_entropy(label, weight)
    return None if loss is None or entropy is None else loss / entropy


def label_entropy(label: Column, weight: Column | None = None) -> float | None:
    """Entropy of the mean label in nats, the best log loss a constant can reach; None where it is 0."""
    label, _, weight = _columns(label, label, weight)
    total = weight.sum()
    rate = weight @ label / total if total > 0 else 0.0
    entropy = float(-xlogy(rate, rate) - xlogy(1 - rate, 1 - rate))
    return entropy if entropy > 0 else None


def calibration(label: Column, logit: Column, weight: Column | None = None) -> float | None:
    """Predicted positives over observed ones; 1 is calibrated in the mean, 1.1 predicts a tenth too many.

    None where no positive has weight.

    Source: He et al. (2014), section 2.
    """
    label, logit, weight = _columns(label, logit, weight)
    observed = weight @ label
    return float(weight @ expit(logit) / observed) if observed > 0 else None


@dataclass(frozen=True)
class GroupedAuc:
    """AUC within groups.

    Attributes:
        value: mean of the groups' AUCs weighted by their rows; None where every group has one class.
        groups: groups with both classes, which alone count.
        one_class_groups: groups left out because their AUC is undefined.
    """

    value: float | None
    groups: int
    one_class_groups: int


def grouped_auc(label: Column, score: Column, group: Column, weight: Column | None = None) -> GroupedAuc:
    """AUC among the rows of one group (user), averaged over groups in proportion to their weight of rows.

    Source: Zhu et al., "Optimized Cost per Click in Taobao Display Advertising" (2017), section 4; there the
    weights are impressions, as here.
    """
    by_group = auc_by_group(label, score, group, weight)
    is_defined = ~np.isnan(by_group.auc)
    rows = by_group.weight[is_defined]
    value = float(rows @ by_group.auc[is_defined] / rows.sum()) if len(rows) else None
    return GroupedAuc(value, groups=len(rows), one_class_groups=int((~is_defined).sum()))


@dataclass(frozen=True)
class AucByGroup:
    """One entry per group with weight, in rising order of key; `auc` is NaN where a class is missing."""

    key: Column
    auc: Floats
    weight: Floats


def auc_by_group(label: Column, score: Column, group: Column, weight: Column | None = None) -> AucByGroup:
    """Every group's own AUC, all in one sort."""
    positive, negative, score = _by_class(label, score, weight)
    has_weight = positive + negative > 0
    positive, negative, score, group = (c[has_weight] for c in (positive, negative, score, np.asarray(group)))
    order = np.lexsort((score, group))
    positive, negative, score, group = positive[order], negative[order], score[order], group[order]
    starts = _run_starts(group)
    if not len(starts):
        return AucByGroup(group, np.empty(0), np.empty(0))
    # One cumulative sum runs over all groups, so what earlier groups put into it is taken off again.
    before_group = np.repeat((np.cumsum(negative) - negative)[starts], np.diff(np.append(starts, len(group))))
    wins = positive * (_beaten(negative, _run_starts(group, score)) - before_group)
    pairs = np.add.reduceat(positive, starts) * np.add.reduceat(negative, starts)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.where(pairs > 0, np.add.reduceat(wins, starts) / pairs, np.nan)
    return AucByGroup(group[starts], values, np.add.reduceat(positive + negative, starts))


def best_possible(label: Column, probability: Column, weight: Column | None) -> tuple[float | None, float | None]:
    """AUC and log loss, on these very labels, of the ranker that knows each row's true probability."""
    probability = np.asarray(probability, np.float64)
    with np.errstate(divide="ignore"):
        logit = np.log(probability) - np.log1p(-probability)
    return auc(label, probability, weight), log_loss(label, logit, weight)


def _beaten(negative: Floats, block: NDArray[np.int64]) -> Floats:
    """Weight of the negatives before each row's block of ties, plus half of those inside it; rows in rising order."""
    sizes = np.diff(np.append(block, len(negative)))
    in_block = np.repeat(np.add.reduceat(negative, block), sizes)
    before_block = np.repeat((np.cumsum(negative) - negative)[block], sizes)
    beaten: Floats = before_block + 0.5 * in_block
    return beaten


def _run_starts(*columns: Column) -> NDArray[np.int64]:
    """Positions where a run of rows that are equal in all sorted columns begins."""
    if not len(columns[0]):
        return np.empty(0, np.int64)
    is_start = np.ones(len(columns[0]), bool)
    is_start[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return np.flatnonzero(is_start)


def _by_class(label: Column, score: Column, weight: Column | None) -> tuple[Floats, Floats, Floats]:
    label, score, weight = _columns(label, score, weight)
    return weight * label, weight * (1 - label), score


def _columns(label: Column, score: Column, weight: Column | None) -> tuple[Floats, Floats, Floats]:
    label, score = np.asarray(label, np.float64), np.asarray(score, np.float64)
    weight = np.ones_like(label) if weight is None else np.asarray(weight, np.float64)
    if not label.shape == score.shape == weight.shape or label.ndim != 1:
        raise ValueError(
            "Metrics need columns of one length, "
            f"found label {label.shape}, score {score.shape}, weight {weight.shape}."
        )
    if not (is_binary := (label == 0) | (label == 1)).all():
        raise ValueError(f"Labels must be 0 or 1, found {label[~is_binary][0]}.")
    if np.isnan(score).any():
        raise ValueError(f"Row {int(np.flatnonzero(np.isnan(score))[0])} scores NaN, which has no rank.")
    if (weight < 0).any() or not np.isfinite(weight).all():
        raise ValueError("Row weights must be finite and not negative.")
    return label, score, weight
