"""Every arm's metrics on the real test users and on resamples of them, the same resamples for all arms.

A resample draws as many users as there are, with replacement; a user drawn twice counts twice with all their rows. So
rows of one user, which resemble each other, come and go together (the cluster bootstrap; Davison and Hinkley,
"Bootstrap Methods and their Application", 1997, section 3.8). Scores are sorted once an arm: a resample only changes
the weights of the rows.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from recsys.ablation.user_sums import UserSums, row_loss, user_auc

ALL = "all"
POINTWISE = ("auc", "log_loss", "normalised_entropy", "grouped_auc")
Column = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class QueryValues:
    """One figure per query, such as its recall: (Q,) user, segment in [0, S), value."""

    user: Column
    segment: Column
    value: Column


@dataclass(frozen=True)
class ArmPredictions:
    """What one arm said about the N test rows.

    Attributes:
        condition, seed: of its `Arm`.
        logit, label, segment, weight: (N,) each, in the same order of rows for all arms.
        user: (N,) one number per user, or None where users are unknown: then every row counts as a user of its own,
            and intervals are too narrow where users have many rows.
        queries: ranking metric -> its value for each query; may be empty.
    """

    condition: str
    seed: int
    logit: Column
    label: Column
    segment: Column
    weight: Column
    user: Column | None
    queries: Mapping[str, QueryValues] = field(default_factory=dict)


@dataclass(frozen=True)
class Support:
    """What a metric of a segment rests on.

    Attributes:
        rows, users: that take part; users of one class have no part in the grouped AUC.
        effective_users: as many of equal weight would be as good (Kish 1965, section 11.7), for an AUC those of the
            scarcer class: ten users of whom two have all the positives tell no more of it than two.
    """

    rows: int
    users: int
    effective_users: float


@dataclass(frozen=True)
class MeasuredArm:
    """An arm's metrics.

    Attributes:
        values: (metric, segment) -> (1 + R,) float64: the value on the real users, then on R resamples; NaN where
            undefined. The segment "all" holds every row.
        support: (metric, segment) -> what it rests on.
        fingerprints: of the columns that arms must share to be compared in pairs.
    """

    condition: str
    seed: int
    values: Mapping[tuple[str, str], Floats]
    support: Mapping[tuple[str, str], Support]
    fingerprints: Mapping[str, str]


class UserResamples:
    """How often each user is drawn in each of R resamples; entry 0 is the real sample, every user once.

    Built once a study, from its first arm, so that all arms are measured on the same draws.
    """

    def __init__(self, arm: ArmPredictions, resamples: int, seed: int) -> None:
        keys = [_users(arm), *(values.user for values in arm.queries.values())]
        self.users = np.unique(np.concatenate(keys))
        rng = np.random.default_rng(seed)
        count = len(self.users)
        # A user is drawn once on average; more than 255 times has a chance below 1e-500, so a byte holds it.
        self.draws = np.ones((resamples + 1, count), np.uint8)
        for resample in range(1, resamples + 1):
            self.draws[resample] = np.bincount(rng.integers(count, size=count), minlength=count)

    def index_of(self, user: Column) -> NDArray[np.int64]:
        """Each row's user as a position in `draws`."""
        return np.searchsorted(self.users, user)


def measure_arm(arm: ArmPredictions, segments: Sequence[str], resamples: UserResamples) -> MeasuredArm:
    """AUC, log loss, normalised entropy, grouped AUC and the ranking metrics, overall and per segment, resampled.

    One arm's predictions are needed at a time, so a study of many arms never holds all of them.
    """
    sums = UserSums(len(resamples.users))
    user = resamples.index_of(_users(arm))
    values: dict[tuple[str, str], Floats] = {}
    support: dict[tuple[str, str], Support] = {}
    for index, name in enumerate((ALL, *segments), start=-1):
        rows = slice(None) if name == ALL else np.flatnonzero(arm.segment == index)
        label, logit, weight = arm.label[rows], arm.logit[rows], arm.weight[rows].astype(np.float64)
        values["auc", name] = resampled_auc(label, logit, weight, user[rows], resamples.draws)
        grouped = _add_pointwise(sums, name, label, logit, weight, user[rows])
        support |= {(metric, name): _support(user[rows], weight) for metric in POINTWISE}
        support["auc", name] = _support_of_classes(user[rows], weight, label)
        support["grouped_auc", name] = grouped
        for metric, queries in arm.queries.items():
            wanted = slice(None) if name == ALL else np.flatnonzero(queries.segment == index)
            query_user = resamples.index_of(queries.user[wanted])
            sums.add((metric, name), query_user, queries.value[wanted], np.ones(len(query_user)))
            support[metric, name] = _support(query_user, np.ones(len(query_user)))
    ratios = sums.resampled(resamples.draws)
    for name in (ALL, *segments):
        values |= _pointwise(ratios, name) | {(metric, name): ratios[metric, name] for metric in arm.queries}
    if arm.user is None:  # grouping by row would leave every group with one class
        values = {key: value for key, value in values.items() if key[0] != "grouped_auc"}
    return MeasuredArm(arm.condition, arm.seed, values, {key: support[key] for key in values}, _fingerprints(arm))


def resampled_auc(label: Column, logit: Column, weight: Floats, user: Column, draws: NDArray[np.uint8]) -> Floats:
    """AUC of each resample (R,) with ties counted half; NaN where a class has no weight.

    Args:
        label, logit, weight, user: (N,) each; `user` is a column of `draws`.
        draws: (R, U), how often each user counts.
    """
    is_positive = label == 1
    order = np.argsort(logit, kind="stable")
    positive, negative = order[is_positive[order]], order[~is_positive[order]]
    # Negatives below each positive and negatives not above it; between the two lie its ties.
    below = np.searchsorted(logit[negative], logit[positive], side="left")
    not_above = np.searchsorted(logit[negative], logit[positive], side="right")
    has_ties = bool((below != not_above).any())
    is_weighted = bool((weight != 1).any())
    user_of_positive, user_of_negative = user[positive], user[negative]
    weight_of_positive, weight_of_negative = weight[positive], weight[negative]
    result = np.full(len(draws), np.nan)
    passed = np.zeros(len(negative) + 1)
    for resample, drawn in enumerate(draws):
        counts = drawn.astype(np.float64)
        winning, losing = counts.take(user_of_positive), counts.take(user_of_negative)
        if is_weighted:
            winning, losing = winning * weight_of_positive, losing * weight_of_negative
        np.cumsum(losing, out=passed[1:])
        pairs = winning.sum() * passed[-1]
        if pairs > 0:
            # Not `winning @ ...`: BLAS wakes its threads for every product, which cost eight times the product itself.
            won = np.einsum("i,i->", winning, passed.take(below))
            if has_ties:
                won = (won + np.einsum("i,i->", winning, passed.take(not_above))) / 2
            result[resample] = won / pairs
    return result


def _add_pointwise(sums: UserSums, name: str, label: Column, logit: Column, weight: Floats, user: Column) -> Support:
    """Add a segment's sums; return what its grouped AUC rests on."""
    sums.add(("log_loss", name), user, weight * row_loss(label, logit), weight)
    sums.add(("rate", name), user, weight * label, weight)
    key, value, rows = user_auc(label, logit, weight, user)
    sums.add(("grouped_auc", name), key, rows * value, rows)
    return replace(_support(key, rows), rows=int(np.isin(user, key).sum()))


def _pointwise(ratios: Mapping[tuple[str, str], Floats], name: str) -> dict[tuple[str, str], Floats]:
    loss, rate = ratios["log_loss", name], ratios["rate", name]
    entropy = -xlogy(rate, rate) - xlogy(1 - rate, 1 - rate)
    normalised = np.divide(loss, entropy, out=np.full_like(loss, np.nan), where=entropy > 0)
    return {
        ("log_loss", name): loss,
        ("normalised_entropy", name): normalised,
        ("grouped_auc", name): ratios["grouped_auc", name],
    }


def _users(arm: ArmPredictions) -> Column:
    return np.arange(len(arm.label)) if arm.user is None else arm.user


def _support(user: Column, weight: Floats) -> Support:
    return Support(len(user), len(np.unique(user)), _effective(_of_user(user, weight)))


def _support_of_classes(user: Column, weight: Floats, label: Column) -> Support:
    of_class = [_of_user(user, weight * is_class) for is_class in (label == 1, label != 1)]
    return replace(_support(user, weight), effective_users=min(map(_effective, of_class)))


def _of_user(user: Column, weight: Floats) -> Floats:
    return np.bincount(user, weights=weight).astype(np.float64)


def _effective(weight_of_user: Floats) -> float:
    squares = float(weight_of_user @ weight_of_user)
    return float(weight_of_user.sum()) ** 2 / squares if squares else 0.0


def _fingerprints(arm: ArmPredictions) -> dict[str, str]:
    shared = {"label": arm.label, "segment": arm.segment, "weight": arm.weight, "user": _users(arm)}
    for metric, values in arm.queries.items():
        shared |= {f"{metric} user": values.user, f"{metric} segment": values.segment}
    return {name: hashlib.sha256(column.tobytes()).hexdigest()[:16] for name, column in shared.items()}
