"""Drift of dense features between days: the population stability index over deciles of the days before.

PSI = sum over bins of (p - q) ln(p / q), with p and q the shares of two samples in each bin: the symmetric divergence
of Jeffreys (1946), by this name in Siddiqi, "Credit Risk Scorecards" (2006), whose rule of thumb calls 0.1 to 0.25 a
small shift and more a large one. Of two samples of n and m rows of one distribution it is about
(bins - 1) (1 / n + 1 / m) (Yurdakul and Naranjo, "Statistical Properties of the Population Stability Index", 2020).
"""

import datetime
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from recsys.datasets.encoded import EncodedDataset
from recsys.datasets.manifest import part_path
from recsys.datasets.source import TEST, TRAIN, VALIDATION
from recsys.inspection.prepared_rows import evenly
from recsys.progress import Progress
from recsys.streaming.parquet import encoded_columns, read_row_group, require_columns, row_groups_of_split
from recsys.streaming.storage import open_folder

Values = npt.NDArray[np.float32]

# Of a day: whole row groups that hold about so many rows are read, and so many of those rows kept. 5,000 rows of one
# distribution differ by a PSI of 0.002.
_READ_ROWS, _KEPT_ROWS = 1_000_000, 5_000
_DECILES = np.arange(1, 10) / 10


def dense_values(
    encoded: EncodedDataset, days: Sequence[datetime.date], progress: Progress
) -> dict[datetime.date, Mapping[str, Values]]:
    """Return every dense feature of rows that lie evenly over each day, as encoded; days without rows are left out.

    Raises:
        DataError: a file is damaged; names it.
    """
    names = [feature.name for feature in encoded.contract.schema.dense]
    types = encoded_columns(encoded.contract, ())
    columns = {name: types[name] for name in names}
    wanted = {day.isoformat() for day in days}
    places = [
        (split, day)
        for split in (TRAIN, VALIDATION, TEST)
        for day in encoded.manifest.splits.get(split, {})
        if day in wanted
    ]
    found: dict[datetime.date, Mapping[str, Values]] = {}
    for done, (split, day) in enumerate(places if names else []):
        progress("look at dense features", done, len(places))
        groups = row_groups_of_split(
            open_folder(encoded.root),
            split,
            [str(encoded.root / part_path(split, day))],
            (),
            lambda path, schema: require_columns(path, schema, columns),
        )
        read = [groups[place] for place in sorted(evenly([group.rows for group in groups], _READ_ROWS))]
        step = -(-sum(group.rows for group in read) // _KEPT_ROWS)
        parts = [
            {name: values.to_numpy()[::step] for name, values in read_row_group(group, names).items()} for group in read
        ]
        found[datetime.date.fromisoformat(day)] = {
            name: np.concatenate([part[name] for part in parts]) for name in names
        }
    return found


def drifts(newest: Values, trailing: Sequence[Values]) -> tuple[float, list[float]]:
    """Return the newest day's PSI beside the trailing days together, and each trailing day's beside the others.

    >>> calm = [np.arange(100, dtype=np.float32)] * 8
    >>> moved, usual = drifts(calm[0] * 10, calm)
    >>> round(moved, 2), usual[0] < 0.01
    (2.82, True)

    Args:
        newest: (rows,) at least one row.
        trailing: (rows,) of each day; at least two.
    """
    edges = _edges(np.concatenate(trailing))
    counted = [_histogram(values, edges) for values in trailing]
    whole = np.sum(counted, axis=0)
    usual = [stability_index(of_day, whole - of_day) for of_day in counted]
    return stability_index(_histogram(newest, edges), whole), usual


def stability_index(found: npt.NDArray[np.int64], expected: npt.NDArray[np.int64]) -> float:
    """Return the PSI of two histograms over the same bins, each bin's count one more than it is (Laplace's rule).

    A bin that one of the two leaves empty would make it infinite.

    Args:
        found, expected: (bins,).
    """
    p, q = ((counts + 1) / (counts.sum() + len(counts)) for counts in (found, expected))
    return float(np.sum((p - q) * np.log(p / q)))


def _edges(values: Values) -> Values:
    """The upper ends of all bins but the last: the deciles, and one below each value that two deciles share.

    Such a value, which is that of every row of a constant feature, has a bin of its own.
    """
    deciles = np.quantile(values, _DECILES, method="inverted_cdf")
    ends, number = np.unique(deciles, return_counts=True)
    below = np.nextafter(ends[number > 1], np.float32(-np.inf))
    return np.unique(np.concatenate([ends, below]))


def _histogram(values: Values, edges: Values) -> npt.NDArray[np.int64]:
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
