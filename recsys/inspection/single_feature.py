"""How well one feature alone separates the labels, in training and in later rows: the leak detector's measure.

An id is scored by the label mean of its training rows. In training that mean leaves out the row's own fold, and rows
are compared within their fold alone: neither does an id of one row score its own label, nor does a fold with more
positives, whose other folds have fewer, look like the opposite of a signal. For the same reason the rows of one query
share a fold: where each has four negatives to a positive, more of one kind outside would mean fewer inside. A feature
that says nothing has an AUC of 0.5 in both.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.metrics.auc import auc
from recsys.metrics.columns import Column, Floats
from recsys.metrics.grouped_auc import grouped_auc

_FOLDS = 5
# The mean of an id begins as that of so many rows at the overall label rate.
_PRIOR_ROWS = 10
# Enough to find a value that stands for the label anywhere in a column, and rows enough in each to tell.
_RANGES = 32


@dataclass(frozen=True)
class LabelledRows:
    """N rows of one split.

    Attributes:
        label: (N,), each 0 or 1.
        weight: (N,), of mean 1.
        fold: (N,), each in [0, 5).
    """

    label: Floats
    weight: Floats
    fold: NDArray[np.int64]

    @classmethod
    def of(cls, label: Column, weight: Column | None, query: Column) -> "LabelledRows":
        """Take rows by labels and weights, (N,) each; without weights every row counts once.

        Args:
            query: (N,) unsigned, a hash: rows of equal value share a fold.
        """
        weights = np.ones(len(label)) if weight is None else np.asarray(weight, dtype=np.float64)
        fold = (query % _FOLDS).astype(np.int64)
        return cls(np.asarray(label, dtype=np.float64), weights / (weights.mean() or 1.0), fold)

    @property
    def classes(self) -> tuple[int, int]:
        """The number of positive and of negative rows that have weight."""
        has_weight = self.weight > 0
        positives = int(np.count_nonzero(self.label[has_weight]))
        return positives, int(np.count_nonzero(has_weight)) - positives


@dataclass(frozen=True)
class Ids:
    """The ids of N rows, each of which has at least one.

    Attributes:
        values: (M,), each in [0, size).
        row: (M,), the row that each belongs to, in [0, N); None where every row has one, in their order.
    """

    values: NDArray[np.int64]
    row: NDArray[np.int64] | None
    size: int

    @classmethod
    def single(cls, values: Column, size: int) -> "Ids":
        """Of rows with one id each, (N,)."""
        return cls(np.asarray(values, dtype=np.int64), None, size)

    @classmethod
    def lists(cls, values: Column, lengths: Column, size: int) -> "Ids":
        """Of rows with lists, end to end; an empty list has one id of its own, as to be empty may tell a label too.

        Args:
            values: of all lists.
            lengths: (N,).
        """
        empty = np.flatnonzero(lengths == 0)
        row = np.concatenate([np.repeat(np.arange(len(lengths)), lengths), empty])
        return cls(np.concatenate([values, np.full(len(empty), size)]).astype(np.int64), row, size + 1)

    def of_rows(self, column: Column) -> Column:
        """A column of the rows, (N,), at every id, (M,)."""
        return column if self.row is None else column[self.row]

    def means(self, column: Floats) -> Floats:
        """The mean over each row's ids, (N,), of a column of the ids, (M,)."""
        if self.row is None:
            return column
        return np.asarray(np.bincount(self.row, column) / np.bincount(self.row))


def id_auc(
    train: Ids, train_rows: LabelledRows, later: Ids | None, later_rows: LabelledRows | None
) -> tuple[float | None, float | None]:
    """AUC of the smoothed label mean of each row's ids, in training out of fold and in later rows; None: undefined."""
    counts, rates = _by_fold(train, train_rows)
    outside = _smoothed(*(each.sum(axis=1, keepdims=True) - each for each in (*counts, *rates)))
    score = train.means(outside[train.values, train.of_rows(train_rows.fold)])
    in_training = grouped_auc(train_rows.label, score, train_rows.fold, train_rows.weight)
    if later is None or later_rows is None:
        return in_training, None
    whole = _smoothed(*(each.sum(axis=1) for each in (*counts, *rates)))
    return in_training, auc(later_rows.label, later.means(whole[later.values]), later_rows.weight)


def value_auc(
    train: Column, train_rows: LabelledRows, later: Column | None, later_rows: LabelledRows | None
) -> tuple[float | None, float | None]:
    """AUC of a number in training and in later rows, as `id_auc`.

    Taken by the order of the values, rising or falling as training says; or, if that separates the training rows
    better, by the label means of 32 ranges of them: a missing value's fill may lie in the middle and tell the label.

    Args:
        train, later: (N,) each.
    """
    edges = np.unique(np.quantile(train, np.linspace(0, 1, _RANGES + 1)[1:-1]))

    def ranges(values: Column) -> Ids:
        return Ids.single(np.searchsorted(edges, values, side="right"), len(edges) + 1)

    by_range = id_auc(ranges(train), train_rows, None if later is None else ranges(later), later_rows)
    rising = auc(train_rows.label, train, train_rows.weight)
    if rising is None:
        return None, None
    by_order = max(rising, 1 - rising)
    if by_range[0] is not None and by_range[0] > by_order:
        return by_range
    if later is None or later_rows is None:
        return by_order, None
    return by_order, auc(later_rows.label, later if rising >= 0.5 else -later, later_rows.weight)


def _by_fold(ids: Ids, rows: LabelledRows) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Weight and positive weight of every id in every fold, (size, folds) each; then of all rows, (1, folds) each."""
    place = ids.values * _FOLDS + ids.of_rows(rows.fold)
    columns = (rows.weight, rows.weight * rows.label)
    of_ids = [
        np.bincount(place, ids.of_rows(column), ids.size * _FOLDS).reshape(ids.size, _FOLDS) for column in columns
    ]
    of_rows = [np.bincount(rows.fold, column, _FOLDS)[None] for column in columns]
    return (of_ids[0], of_ids[1]), (of_rows[0], of_rows[1])


def _smoothed(weight: Floats, positive: Floats, all_weight: Floats, all_positive: Floats) -> Floats:
    """The label means of ids, `_PRIOR_ROWS` rows of the overall rate added; of any shape."""
    rate = np.divide(all_positive, all_weight, out=np.zeros_like(all_weight), where=all_weight > 0)
    return np.asarray((positive + _PRIOR_ROWS * rate) / (weight + _PRIOR_ROWS))
