"""Intervals and p-values of a paired difference that is uncertain for two reasons: the seeds and the users.

With n seeds the mean difference has the variance s^2 / n + v: s is the spread of the difference over seeds, v what
another sample of users would do to the mean. The naive hierarchical bootstrap draws seeds with replacement as well.
With three seeds that understates the first part twice over: a resample of n things has (n - 1) / n of their variance,
and normal quantiles take no notice that s itself rests on n numbers (2.0 where Student's t says 4.3 at n = 3). So only
users are bootstrapped, which are many, and the two parts' half-widths, each from its own t distribution, are joined as
the root of the sum of their squares (MOVER: Zou and Donner, "Construction of confidence limits about effect measures:
a general approach", 2008). That is never narrower than Cochran's solution of the Behrens-Fisher problem, which is
known to be on the safe side; it is exact where one part dominates; and with 2 or 3 seeds it is wide, as it must be.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import t as student

_SMALLEST_P = 1e-300
# Beyond this many seeds nobody would run the study; "more than" is said instead.
MOST_SEEDS = 1000
# A resample may lack a class of a small segment. Where more than this share of them does, no interval is given.
_UNDEFINED_SHARE = 0.1


@dataclass(frozen=True)
class Spread:
    """A mean paired difference and its two sources of chance.

    Attributes:
        difference: mean over the seeds of first minus second, on the real users.
        seeds: pairs that the mean is over.
        seed_deviation: standard deviation of the difference over seeds; None with one seed.
        effective_users: see `resampling.Support`.
        user_deviation: standard deviation of the mean difference over resamples of the users; None where it cannot be
            told, for too few users or too many resamples without a class.
    """

    difference: float
    seeds: int
    seed_deviation: float | None
    effective_users: float
    user_deviation: float | None

    def half_width(self, level: float) -> float | None:
        """Half the interval that misses the true difference with probability `level` at most; None where unknown."""
        if self.seed_deviation is None or self.user_deviation is None:
            return None
        seed_part = student.isf(level / 2, self.seeds - 1) * self.seed_deviation / math.sqrt(self.seeds)
        return math.hypot(seed_part, student.isf(level / 2, self.effective_users - 1) * self.user_deviation)

    def half_width_of_users(self, level: float) -> float | None:
        """The part that other users alone make, for arms that are compared as they are and not as draws of a seed."""
        if self.user_deviation is None:
            return None
        return float(student.isf(level / 2, self.effective_users - 1) * self.user_deviation)

    def p_value(self) -> float | None:
        """The level at which the interval just touches 0; None where there is no interval."""

        def beyond_zero(log_level: float) -> float:
            half_width = self.half_width(math.exp(log_level))
            assert half_width is not None
            return half_width - abs(self.difference)

        if self.half_width(0.5) is None:
            return None
        if self.difference == 0 or beyond_zero(math.log(1 - 1e-12)) >= 0:
            return 1.0
        if beyond_zero(math.log(_SMALLEST_P)) <= 0:
            return _SMALLEST_P
        return math.exp(brentq(beyond_zero, math.log(_SMALLEST_P), math.log(1 - 1e-12)))

    def seeds_to_reach(self, half_width: float, level: float) -> int | None:
        """Seeds in all at which the interval would be narrower than that; None where users alone keep it wider.

        Supposes that the spread over seeds stays what it is and that the users' part does not shrink. At most
        `MOST_SEEDS`, which then means that many or more.
        """
        if self.seed_deviation is None or self.user_deviation is None:
            return None
        user_part = student.isf(level / 2, self.effective_users - 1) * self.user_deviation
        if user_part >= half_width:
            return None
        counts = np.arange(2, MOST_SEEDS + 1)
        seed_parts = student.isf(level / 2, counts - 1) * self.seed_deviation / np.sqrt(counts)
        is_enough = np.hypot(seed_parts, user_part) < half_width
        return int(counts[np.argmax(is_enough)]) if is_enough.any() else MOST_SEEDS


def spread_of(pairs: NDArray[np.float64], effective_users: float) -> Spread | None:
    """Measure the spread of paired differences; None where the difference itself is undefined.

    Args:
        pairs: (n, 1 + R): a row per seed; on the real users, then on R resamples, the same ones for every seed.
        effective_users: users that the metric rests on, users of many rows discounted.
    """
    on_real_users = pairs[:, 0]
    if np.isnan(on_real_users).any():
        return None
    seeds = len(pairs)
    resampled = pairs[:, 1:].mean(axis=0)
    resampled = resampled[~np.isnan(resampled)]
    is_known = effective_users > 2 and len(resampled) >= (1 - _UNDEFINED_SHARE) * (pairs.shape[1] - 1) > 1
    # U users resampled have (U - 1) / U of the variance of U new users.
    correction = math.sqrt(effective_users / (effective_users - 1)) if is_known else 1.0
    return Spread(
        difference=float(on_real_users.mean()),
        seeds=seeds,
        seed_deviation=float(on_real_users.std(ddof=1)) if seeds > 1 else None,
        effective_users=effective_users,
        user_deviation=float(resampled.std(ddof=1)) * correction if is_known else None,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for being looked at together, in the order given (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, np.float64)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in corrected]
