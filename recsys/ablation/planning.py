"""How many seeds would settle an open verdict: predicted from the mean and spread of the seeds that there are.

The plain answer, the number at which the interval would just exclude what it holds now, supposes that the difference
and its spread are what they happened to be. With two or three seeds they are not; and at that number half of all
studies would still be open. Here the further seeds are drawn instead: their mean and spread from what the present seeds
say of both (the predictive distribution of a normal sample under a flat prior; Gelman et al., "Bayesian Data Analysis",
section 3.2), the present test users staying what they are. The verdict is taken on all seeds together, and the answer
is the least number at which four studies in five would have one.
"""

import math

import numpy as np
from numpy.typing import NDArray

from recsys.ablation.intervals import Spread, joined_half_width, quantile

MOST_SEEDS = 1000
"""Beyond this many seeds nobody would run the study; "this many or more" is said instead."""

CHANCE = 0.8
"""How often the number that is given should be enough: the power that studies are commonly planned for."""

_DRAWS = 2000


def seeds_to_settle(spread: Spread, margin: float, level: float, tests: int) -> int | None:
    """Seeds in all with which a verdict is to be expected; None where seeds alone would not bring one.

    At most `MOST_SEEDS`, which then means that many or more. None also where nothing is known of one of the two
    sources of chance.

    Args:
        margin: differences below it are of no account; 0 for none.
        level: at which the interval is taken.
        tests: differences that are judged together, of which the strictest correction is supposed.
    """
    if spread.seed_deviation is None or spread.shared_user_deviation is None:
        return None
    future = _Future(spread, margin, level, tests)
    if future.share_settled(math.inf) < CHANCE:
        return None
    if future.share_settled(MOST_SEEDS) < CHANCE:
        return MOST_SEEDS
    # The share rises with the seeds, but for the noise of the draws.
    too_few, enough = spread.seeds, MOST_SEEDS
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if future.share_settled(middle) >= CHANCE else (middle, enough)
    return enough


class _Future:
    """Simulated continuations of the study, `_DRAWS` of them."""

    def __init__(self, spread: Spread, margin: float, level: float, tests: int) -> None:
        assert spread.seed_deviation is not None
        assert spread.shared_user_deviation is not None
        self._spread, self._margin, self._level, self._tests = spread, margin, level, tests
        self._of_users = spread.shared_user_deviation
        self._random = np.random.default_rng(0)
        known = spread.seeds - 1
        # The true spread over seeds and, given it, the true difference on these users.
        self._deviation = spread.seed_deviation * np.sqrt(known / self._random.chisquare(known, _DRAWS))
        chance = self._random.standard_normal(_DRAWS)
        self._difference = spread.difference + self._deviation / math.sqrt(spread.seeds) * chance

    def share_settled(self, seeds: float) -> float:
        """Share of the continuations in which so many seeds in all, more than there are, bring a verdict."""
        users = self._spread.effective_users
        if math.isinf(seeds):
            mean = self._difference
            half_widths = [float(quantile(level, users) * self._of_users) for level in self._levels]
        else:
            mean, deviation = self._drawn(int(seeds))
            half_widths = [joined_half_width(deviation, seeds, self._of_users, users, level) for level in self._levels]
        is_equivalent = np.abs(mean) + half_widths[0] < self._margin
        return float((is_equivalent | (np.abs(mean) > half_widths[1])).mean())

    @property
    def _levels(self) -> tuple[float, float]:
        """Those of equivalence and of a difference."""
        return self._level, self._level / self._tests

    def _drawn(self, seeds: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation over all seeds, the present and the further ones."""
        spread, now, more = self._spread, self._spread.seeds, seeds - self._spread.seeds
        assert spread.seed_deviation is not None
        further = self._difference + self._deviation / math.sqrt(more) * self._random.standard_normal(_DRAWS)
        # Sums of squares: within the present seeds, within the further ones, and between the two.
        squares = (now - 1) * spread.seed_deviation**2 + now * more / seeds * (further - spread.difference) ** 2
        if more > 1:
            squares = squares + self._deviation**2 * self._random.chisquare(more - 1, _DRAWS)
        return (now * spread.difference + more * further) / seeds, np.sqrt(squares / (seeds - 1))
