"""The items that a query chooses from, as they were on its day, with the counts by which negatives are drawn."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.datasets.declared_durations import DAY_US
from recsys.datasets.declared_examples import CandidateRule

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ItemDays:
    """How often each item occurs on each day: (N,) each, in the order of the days.

    `training` is the number of events of each item in training, (I,).
    """

    day: Ints
    item: Ints
    events: Ints
    training: Ints


class CandidateLists:
    """The candidates of one day after the other; days are asked for in rising order.

    >>> days = ItemDays(np.array([1, 1, 2]), np.array([0, 1, 0]), np.array([5, 1, 2]), np.array([7, 1]))
    >>> lists = CandidateLists(CandidateRule(within=DAY_US), days)
    >>> [array.tolist() for array in lists.of_day(2)]
    [[0, 1], [5, 1]]
    """

    def __init__(self, rule: CandidateRule, days: ItemDays) -> None:
        self._rule, self._days = rule, days
        self._window = rule.within // DAY_US
        self._counts = np.zeros(len(days.training), dtype=np.int64)
        self._added = self._removed = 0

    def counts(self, day: int) -> Ints:
        """The number of events of every item that counts on a day, (I,)."""
        if not self._window:
            return self._days.training
        # The window's two edges move on with the days, so that each event is added and taken off once.
        for end, sign in ((day, 1), (day - self._window, -1)):
            start = self._added if sign > 0 else self._removed
            stop = int(np.searchsorted(self._days.day, end, side="left"))
            if stop > start:
                np.add.at(self._counts, self._days.item[start:stop], sign * self._days.events[start:stop])
                if sign > 0:
                    self._added = stop
                else:
                    self._removed = stop
        return self._counts

    def of_day(self, day: int) -> tuple[Ints, Ints]:
        """The candidates in rising order of their numbers, and their counts: (C,) each."""
        counts = self.counts(day)
        items = np.flatnonzero(counts > 0)
        if self._rule.top and len(items) > self._rule.top:
            # The most frequent; of equal ones those with the smaller numbers.
            best = np.lexsort((items, -counts[items]))[: self._rule.top]
            items = np.sort(items[best])
        return items, counts[items]


class GroupedValues:
    """Values grouped by an integer key: `groups[key]` is an array, empty for keys without values."""

    def __init__(self, keys: Ints, values: Ints) -> None:
        order = np.argsort(keys, kind="stable")
        self._keys, self._values = keys[order], values[order]

    def __getitem__(self, key: int) -> Ints:
        low, high = np.searchsorted(self._keys, [key, key + 1])
        return self._values[low:high]
