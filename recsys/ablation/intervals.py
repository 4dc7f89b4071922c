"""Intervals and p-values of a paired difference that is uncertain for two reasons: the seeds and the users.

With n seeds the mean difference has the variance s^2 / n + v: s is the spread of the difference over seeds, v what
another sample of users would do to the mean. The naive hierarchical bootstrap draws seeds with replacement as well.
With three seeds that understates the first part twice over: a bootstrap sample of n has (n - 1) / n of their variance,
and normal quantiles take no notice that s itself rests on n numbers (2.0 where Student's t says 4.3 at n = 3). So only
users are bootstrapped, which are many, and the two parts' half-widths, each from its own t distribution, are joined as
the root of the sum of their squares (MOVER: Zou and Donner, "Construction of confidence limits about effect measures:
a general approach", 2008). That is never narrower than Cochran's solution of the Behrens-Fisher problem, which is
known to be on the safe side; it is exact where one part dominates; and with 2 or 3 seeds it is wide, as it must be.

Users err in two ways: some are better served by one condition whatever the seed, and some by one seed's luck. The
latter part is in s already, since seeds are compared on the same users, and n seeds leave an n-th of it in their mean's
spread over bootstrap samples. It is counted once: v is the part that all seeds share, from which the estimate of the
latter is taken off (the interaction of two crossed factors; Owen, "The pigeonhole bootstrap", 2007, section 4).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import stdtrit

# Nobody tells smaller ones apart, and further out the quantiles are not computed for every number of users.
_SMALLEST_P = 1e-100
# A bootstrap sample may lack a class of a small segment. Where more than this share of them does, no interval is given.
_UNDEFINED_SHARE = 0.1


@dataclass(frozen=True)
class Spread:
    """A mean paired difference and its two sources of chance.

    Attributes:
        difference: mean over the seeds of first minus second, on the real users.
        seeds: pairs that the mean is over.
        seed_deviation: standard deviation of the difference over seeds; None with one seed.
        effective_users: see `metrics.metric.Support`.
        user_deviation: standard deviation of the mean difference over bootstrap samples of the users; None where it is
            unknown, for too few users or too many samples without a class.
        shared_user_deviation: the part of that which all seeds share, and no further seed averages away. None with one
            seed or where `user_deviation` is.
    """

    difference: float
    seeds: int
    seed_deviation: float | None
    effective_users: float
    user_deviation: float | None
    shared_user_deviation: float | None

    def half_width(self, level: float) -> float | None:
        """Half the interval that misses the true difference with probability `level` at most; None where unknown."""
        if self.seed_deviation is None or self.shared_user_deviation is None:
            return None
        return float(
            joined_half_width(self.seed_deviation, self.seeds, self.shared_user_deviation, self.effective_users, level)
        )

    def half_width_of_users(self, level: float) -> float | None:
        """The part that other users alone make, for arms that are compared as they are and not with other seeds."""
        if self.user_deviation is None:
            return None
        return float(quantile(level, self.effective_users) * self.user_deviation)

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


def joined_half_width(
    seed_deviation: Any, seeds: Any, user_deviation: float, effective_users: float, level: float
) -> Any:
    """Half the interval that both sources of chance make together.

    Args:
        seed_deviation, seeds: numbers, or arrays of one shape.
        user_deviation: the part that all seeds share.
    """
    seed_part = quantile(level, seeds) * seed_deviation / np.sqrt(seeds)
    return np.hypot(seed_part, quantile(level, effective_users) * user_deviation)


def quantile(level: float, number: Any) -> Any:
    """What Student's t of a mean over so many exceeds, either way, with probability `level`."""
    # Not `scipy.stats.t`, whose checks take 500 times as long as the value, and a p-value needs dozens.
    return -stdtrit(np.asarray(number) - 1, level / 2)


def spread_of(pairs: NDArray[np.float64], effective_users: float) -> Spread | None:
    """Measure the spread of paired differences; None where the difference itself is undefined.

    Args:
        pairs: (n, 1 + R), a row per seed; on the real users, then on R bootstrap samples, the same for every seed.
        effective_users: users that the metric rests on, users of many rows discounted.
    """
    on_real_users = pairs[:, 0]
    if np.isnan(on_real_users).any():
        return None
    seeds = len(pairs)
    by_seed = pairs[:, 1:][:, ~np.isnan(pairs[:, 1:]).any(axis=0)]
    bootstrapped = by_seed.mean(axis=0)
    is_known = effective_users > 2 and len(bootstrapped) >= (1 - _UNDEFINED_SHARE) * (pairs.shape[1] - 1) > 1
    # A bootstrap sample of U users has (U - 1) / U of the variance of U new users.
    correction = effective_users / (effective_users - 1) if is_known else 1.0
    variance = float(bootstrapped.var(ddof=1)) * correction if is_known else None
    shared = None
    if variance is not None and seeds > 1:
        # How far each sample moves a seed's difference, beyond how far it moves the mean over the seeds.
        own = by_seed - on_real_users[:, None] - (bootstrapped - on_real_users.mean())
        # Both are estimates, so that what is left may come out below 0.
        shared = math.sqrt(max(0.0, variance - float((own**2).mean()) / (seeds - 1) * correction))
    return Spread(
        difference=float(on_real_users.mean()),
        seeds=seeds,
        seed_deviation=float(on_real_users.std(ddof=1)) if seeds > 1 else None,
        effective_users=effective_users,
        user_deviation=None if variance is None else math.sqrt(variance),
        shared_user_deviation=shared,
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
