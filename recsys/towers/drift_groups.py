"""Groups of items to tell drift by: how often they are seen, and when they were seen first and last."""

from collections.abc import Sequence

import numpy as np

from recsys.towers.drift import Ints

POPULARITY_BINS, AGE_BINS = 4, 4


def popularity_bins(rows: Ints) -> tuple[tuple[str, ...], Ints]:
    """Divide items into four groups with a quarter of all rows each, those with most rows first.

    Args:
        rows: (N,) of each item.

    Returns:
        The groups' names, "rows 0-25 %" being the few most popular items, and each item's group, (N,).

    >>> popularity_bins(np.array([1, 8, 3, 4]))[1].tolist()
    [3, 1, 3, 2]
    """
    order = np.argsort(-rows, kind="stable")
    total = max(int(rows.sum()), 1)
    # By the middle of the rows that an item takes, so that one with half of all rows is in one group.
    middle = (np.cumsum(rows[order]) - rows[order] / 2) / total
    groups = np.empty(len(rows), np.int64)
    groups[order] = np.minimum((middle * POPULARITY_BINS).astype(np.int64), POPULARITY_BINS - 1)
    step = 100 // POPULARITY_BINS
    return tuple(f"rows {step * n}-{step * (n + 1)} %" for n in range(POPULARITY_BINS)), groups


def day_bins(day: Ints, days: Sequence[str]) -> tuple[tuple[str, ...], Ints]:
    """Divide items into at most four groups of about equally many by a day, the earliest first.

    Args:
        day: (N,) places in `days`.

    Returns:
        The groups' names, such as "1997-09-20 to 1997-10-03", and each item's group, (N,).
    """
    edges = np.unique(np.quantile(day, np.arange(1, AGE_BINS) / AGE_BINS, method="lower")) if len(day) else np.empty(0)
    found, groups = np.unique(np.searchsorted(edges, day, side="left"), return_inverse=True)
    spans = [(int(day[groups == n].min()), int(day[groups == n].max())) for n in range(len(found))]
    names = tuple(days[low] if low == high else f"{days[low]} to {days[high]}" for low, high in spans)
    return names, groups.astype(np.int64)
