"""Every arm's metrics on the real test users and on bootstrap samples of them, the same samples for all arms.

A sample draws as many users as there are, with replacement; a user drawn twice counts twice with all their rows. So
rows of one user, which resemble each other, come and go together (the cluster bootstrap; Davison and Hinkley,
"Bootstrap Methods and their Application", 1997, section 3.8).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.all_segments import ALL
from recsys.metrics.columns import Column, Floats
from recsys.metrics.metric import ComputedAnew, Metric, RatioOfSums, Support, UserRows, UserSums
from recsys.metrics.predictions import USER, Predictions, QueryValues
from recsys.metrics.registry import row_metrics

# Counts are bytes; this many users at a time are widened to float64, so that memory stays small.
_USERS_AT_A_TIME = 16_384


@dataclass(frozen=True)
class MeasuredArm:
    """An arm's metrics.

    Attributes:
        condition, seed: of its `Arm`.
        values: (metric, segment) -> (1 + R,) float64: the value on the real users, then on R bootstrap samples; NaN
            where undefined. The segment "all" holds every row.
        support: (metric, segment) -> what it rests on.
        fingerprints: of the columns that arms must share to be compared in pairs.
    """

    condition: str
    seed: int
    values: Mapping[tuple[str, str], Floats]
    support: Mapping[tuple[str, str], Support]
    fingerprints: Mapping[str, str]


class UserBootstrap:
    """How often each of U users is in each of R bootstrap samples; entry 0 is the real sample, every user once.

    Built once a study, from its first arm, so that all arms are measured on the same samples.

    Attributes:
        users: (U,) their numbers, rising.
        counts: (1 + R, U) bytes.
    """

    def __init__(self, predictions: Predictions, queries: Mapping[str, QueryValues], samples: int, seed: int) -> None:
        keys = [_users(predictions), *(values.user for values in queries.values())]
        self.users = np.unique(np.concatenate(keys))
        rng = np.random.default_rng(seed)
        count = len(self.users)
        # A user is drawn once on average; more than 255 times has a chance below 1e-500, so a byte holds it.
        self.counts = np.ones((samples + 1, count), np.uint8)
        for sample in range(1, samples + 1):
            self.counts[sample] = np.bincount(rng.integers(count, size=count), minlength=count)

    def index_of(self, user: Column) -> NDArray[np.int64]:
        """Each row's user as a position in `users`, (N,)."""
        return np.searchsorted(self.users, user)


class BootstrappedRatios:
    """Named ratios sum_u c_u a_u / sum_u c_u b_u, where c_u is how often user u is in a bootstrap sample.

    >>> ratios = BootstrappedRatios(num_users=2)
    >>> ratios.add(("recall", "all"), UserSums(np.array([0, 0, 1]), np.array([1.0, 2.0, 6.0]), np.ones(3)))
    >>> ratios.values(np.array([[1, 1], [0, 2]], np.uint8))["recall", "all"].tolist()
    [3.0, 6.0]
    """

    def __init__(self, num_users: int) -> None:
        self.num_users = num_users
        self._columns: dict[tuple[str, str], Floats] = {}

    def add(self, name: tuple[str, str], sums: UserSums) -> None:
        """Name a ratio (ratio, segment) by its sums."""
        of_user = [np.bincount(sums.user, weights=part, minlength=self.num_users) for part in (sums.above, sums.below)]
        self._columns[name] = np.stack(of_user, axis=1).astype(np.float64)

    def values(self, counts: NDArray[np.uint8]) -> dict[tuple[str, str], Floats]:
        """Each ratio for each sample: (R,) for counts (R, U); NaN where the denominator is 0."""
        columns = np.concatenate(list(self._columns.values()), axis=1)  # (U, 2 K)
        sums = np.zeros((len(counts), columns.shape[1]))
        for start in range(0, self.num_users, _USERS_AT_A_TIME):
            users = slice(start, start + _USERS_AT_A_TIME)
            sums += counts[:, users].astype(np.float64) @ columns[users]
        above, below = sums[:, 0::2], sums[:, 1::2]
        ratios = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
        return dict(zip(self._columns, ratios.T, strict=True))


def measure_arm(
    condition: str,
    seed: int,
    predictions: Predictions,
    queries: Mapping[str, QueryValues],
    segments: Sequence[str],
    bootstrap: UserBootstrap,
) -> MeasuredArm:
    """Every metric that can be bootstrapped, overall and per segment, on the real users and on every sample.

    One arm's predictions are needed at a time, so a study of many arms never holds all of them.

    Args:
        condition, seed: of the arm.
        predictions: what it said about the N test rows, in the same order for all arms. Without the extra column
            `user_key` every row counts as a user of its own, and intervals are too narrow where users have many rows.
        queries: ranking metric -> its value for each query; may be empty.
    """
    metrics = [m for m in row_metrics() if m.bootstrap and (not m.needs or m.needs in predictions.extra)]
    user = bootstrap.index_of(_users(predictions))
    ratios = BootstrappedRatios(len(bootstrap.users))
    anew: dict[tuple[str, str], Floats] = {}
    support: dict[tuple[str, str], Support] = {}
    for index, segment in enumerate((ALL, *segments), start=-1):
        part = slice(None) if segment == ALL else np.flatnonzero(predictions.segment == index)
        weight = predictions.weight[part].astype(np.float64)
        rows = UserRows(predictions.label[part], predictions.logit[part], weight, user[part])
        added: dict[str, UserSums] = {}
        for metric in metrics:
            if isinstance(metric.bootstrap, ComputedAnew):
                anew[metric.name, segment] = metric.bootstrap.values(rows, bootstrap.counts)
                support[metric.name, segment] = metric.bootstrap.support(rows)
            elif metric.bootstrap:
                support[metric.name, segment] = _add_ratios(ratios, added, metric.bootstrap, rows, segment)
        for name, values in queries.items():
            wanted = slice(None) if segment == ALL else np.flatnonzero(values.segment == index)
            of_query = bootstrap.index_of(values.user[wanted])
            sums = UserSums(of_query, values.value[wanted], np.ones(len(of_query)))
            ratios.add((name, segment), sums)
            support[name, segment] = sums.support(of_query)
    known = ratios.values(bootstrap.counts)
    found = {
        (metric.name, segment): _combined(metric, segment, known, anew)
        for metric in metrics
        for segment in (ALL, *segments)
    }
    found |= {(name, segment): known[name, segment] for name in queries for segment in (ALL, *segments)}
    return MeasuredArm(condition, seed, found, support, _fingerprints(predictions, queries))


def _add_ratios(
    ratios: BootstrappedRatios, added: dict[str, UserSums], how: RatioOfSums, rows: UserRows, segment: str
) -> Support:
    """Add the ratios of a metric that no other metric of the segment has added; return what the metric rests on."""
    for name, sums_of in how.parts.items():
        if name not in added:
            added[name] = sums_of(rows)
            ratios.add((name, segment), added[name])
    return added[next(iter(how.parts))].support(rows.user)


def _combined(
    metric: Metric, segment: str, ratios: Mapping[tuple[str, str], Floats], anew: Mapping[tuple[str, str], Floats]
) -> Floats:
    if isinstance(metric.bootstrap, RatioOfSums):
        return metric.bootstrap.combine(*(ratios[part, segment] for part in metric.bootstrap.parts))
    return anew[metric.name, segment]


def _users(predictions: Predictions) -> Column:
    return predictions.extra.get(USER, np.arange(len(predictions)))


def _fingerprints(predictions: Predictions, queries: Mapping[str, QueryValues]) -> dict[str, str]:
    shared = {
        "label": predictions.label,
        "segment": predictions.segment,
        "weight": predictions.weight,
        "user": _users(predictions),
    }
    for metric, values in queries.items():
        shared |= {f"{metric} user": values.user, f"{metric} segment": values.segment}
    return {name: hashlib.sha256(column.tobytes()).hexdigest()[:16] for name, column in shared.items()}
