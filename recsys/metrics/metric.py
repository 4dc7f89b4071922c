"""What a metric is: its names, its direction, its value on some rows, and its values on bootstrap samples of the users.

A bootstrap sample draws as many users as there are, with replacement, and each user comes with all of their rows. Most
metrics are a ratio of sums over users (`RatioOfSums`): all of their samples come out of one matrix product. One that is
not, such as AUC, is computed anew for each sample (`ComputedAnew`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.metrics.columns import Column, Floats
from recsys.metrics.predictions import Predictions


@dataclass(frozen=True)
class UserRows:
    """N rows of U users: (N,) label, logit, float64 weight, and user in [0, U)."""

    label: Column
    logit: Column
    weight: Floats
    user: Column


@dataclass(frozen=True)
class Support:
    """What a metric of a segment rests on.

    Attributes:
        rows, users: that take part; users of one class have no part in the grouped AUC.
        effective_users: as many of equal weight would be as good (Kish 1965, section 11.7), for an AUC those of the
            scarcer class: ten users of whom two have all the positives are no more evidence than two.
    """

    rows: int
    users: int
    effective_users: float


@dataclass(frozen=True)
class UserSums:
    """The parts of sum_u c_u a_u / sum_u c_u b_u, where c_u is how often user u is in a bootstrap sample.

    Attributes:
        user: (M,) in [0, U), of each entry; a user may have several or none.
        above, below: (M,) float64, what each entry adds to a_u and to b_u.
    """

    user: Column
    above: Floats
    below: Floats

    def support(self, user: Column) -> Support:
        """The rows, of all rows' users (N,), whose user takes part, and as how many users they count."""
        rows = len(user) if self.user is user else int(np.isin(user, self.user).sum())
        return Support(rows, len(np.unique(self.user)), effective_users(self.user, self.below))


@dataclass(frozen=True)
class RatioOfSums:
    """A metric made of ratios of sums over users.

    Attributes:
        parts: name of a ratio -> its sums for some rows; ratios of one name are the same and computed once. The metric
            rests on the rows of the first one.
        combine: each ratio's values (R,) over the samples, in the order of `parts` -> the metric's, (R,).
    """

    parts: Mapping[str, Callable[[UserRows], UserSums]]
    combine: Callable[..., Floats]


@dataclass(frozen=True)
class ComputedAnew:
    """A metric that is computed from the rows for every bootstrap sample.

    Attributes:
        values: rows and how often each user is in each sample, (R, U) -> (R,), NaN where undefined.
        support: of the rows.
    """

    values: Callable[[UserRows, NDArray[np.uint8]], Floats]
    support: Callable[[UserRows], Support]


@dataclass(frozen=True)
class RankedCandidates:
    """The relevant candidates among the best k of Q queries.

    Attributes:
        cutoff: k.
        relevant: (Q,) relevant candidates in all, at least 1.
        hit_query: (H,) in [0, Q), the query of each relevant candidate among the best k.
        hit_place: (H,) in [0, k), its place, 0 for the best.
    """

    cutoff: int
    relevant: Column
    hit_query: Column
    hit_place: Column


@dataclass(frozen=True)
class Metric:
    """One metric of a ranker, of rows (`value`) or of ranked candidate lists (`of_queries`).

    Attributes:
        name: in results, files and metric names, such as "log_loss".
        label: in tables and sentences, such as "log loss".
        value: of some rows; None where it is undefined, never 0 or 0.5.
        bootstrap: how it is taken on bootstrap samples; without it, it has no interval and is not compared.
        of_queries: each query's value, (Q,) float64; the metric is their mean, and its samples follow from them.
        is_lower_better: whether the smaller of two values is the better one.
        needs: the extra column of the predictions without which it is left out; empty for none.
        is_recorded: whether runs record it among their test scores.
        is_in_study: whether a study's tables show it.
    """

    name: str
    label: str
    value: Callable[[Predictions], float | None] | None = None
    bootstrap: RatioOfSums | ComputedAnew | None = None
    of_queries: Callable[[RankedCandidates], Floats] | None = None
    is_lower_better: bool = False
    needs: str = ""
    is_recorded: bool = True
    is_in_study: bool = True


def weight_support(rows: UserRows, weight: Floats) -> Support:
    """All rows and their users, who count by these weights (N,)."""
    return Support(len(rows.user), len(np.unique(rows.user)), effective_users(rows.user, weight))


def effective_users(user: Column, weight: Floats) -> float:
    """The number of users of equal weight that are as much evidence as these: (sum w)^2 / sum w^2 over the users.

    Args:
        user: (M,) whose entry it is.
        weight: (M,) of each entry.
    """
    of_user = np.bincount(user, weights=weight).astype(np.float64)
    squares = float(of_user @ of_user)
    return float(of_user.sum()) ** 2 / squares if squares else 0.0
