"""Grouped AUC: the AUC among each user's own rows, averaged over the users."""

from dataclasses import dataclass

import numpy as np

from recsys.metrics.columns import Column, Floats, losing_weight, run_starts, weights_by_class
from recsys.metrics.metric import Metric, RatioOfSums, UserRows, UserSums
from recsys.metrics.predictions import USER


@dataclass(frozen=True)
class AucByGroup:
    """G groups of rows that have weight, in rising order of key.

    Attributes:
        key: (G,), the groups' names.
        auc: (G,); NaN where a class is missing.
        weight: (G,), of the group's rows together.
    """

    key: Column
    auc: Floats
    weight: Floats

    @property
    def is_defined(self) -> Column:
        """(G,) bool: the groups that have both classes, which alone count."""
        return ~np.isnan(self.auc)


def grouped_auc(label: Column, score: Column, group: Column, weight: Column | None = None) -> float | None:
    """AUC among the rows of one group, averaged over groups in proportion to their weight; None where none is defined.

    Source: Zhu et al., "Optimized Cost per Click in Taobao Display Advertising" (2017), section 4; there the
    weights are impressions, as here.

    Args:
        label, score, weight: (N,), as `auc` takes them.
        group: (N,), such as the user of each row.
    """
    by_group = auc_by_group(label, score, group, weight)
    rows = by_group.weight[by_group.is_defined]
    return float(rows @ by_group.auc[by_group.is_defined] / rows.sum()) if len(rows) else None


def auc_by_group(label: Column, score: Column, group: Column, weight: Column | None = None) -> AucByGroup:
    """Every group's own AUC, all in one sort; arguments as those of `grouped_auc`."""
    positive, negative, score = weights_by_class(label, score, weight)
    has_weight = positive + negative > 0
    positive, negative, score, group = (c[has_weight] for c in (positive, negative, score, np.asarray(group)))
    order = np.lexsort((score, group))
    positive, negative, score, group = positive[order], negative[order], score[order], group[order]
    starts = run_starts(group)
    if not len(starts):
        return AucByGroup(group, np.empty(0), np.empty(0))
    # One cumulative sum runs over all groups, so what earlier groups put into it is taken off again.
    before_group = np.repeat((np.cumsum(negative) - negative)[starts], np.diff(np.append(starts, len(group))))
    wins = positive * (losing_weight(negative, run_starts(group, score)) - before_group)
    pairs = np.add.reduceat(positive, starts) * np.add.reduceat(negative, starts)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.where(pairs > 0, np.add.reduceat(wins, starts) / pairs, np.nan)
    return AucByGroup(group[starts], values, np.add.reduceat(positive + negative, starts))


def user_sums(rows: UserRows) -> UserSums:
    """Of each user with both classes: their AUC times the weight of their rows, and that weight."""
    by_user = auc_by_group(rows.label, rows.logit, rows.user, rows.weight)
    weight = by_user.weight[by_user.is_defined]
    return UserSums(by_user.key[by_user.is_defined], weight * by_user.auc[by_user.is_defined], weight)


GROUPED_AUC = Metric(
    "grouped_auc",
    "grouped AUC",
    value=lambda rows: grouped_auc(rows.label, rows.logit, rows.extra[USER], rows.weight),
    bootstrap=RatioOfSums({"grouped_auc": user_sums}, lambda mean: mean),
    needs=USER,
)
