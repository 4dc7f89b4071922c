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

from recsys.inspection.summaries import MeasuredAuc
from recsys.metrics.auc import auc, auc_error
from recsys.metrics.columns import Column, Floats, run_starts
from recsys.metrics.grouped_auc import grouped_auc

_FOLDS = 5
# One that nobody takes: rows that were made with the same seed would have folds that follow from their columns.
_SEED = int.from_bytes(b"folds of single features")
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
        is_known: (N,), rows whose user and item training knows.
    """

    label: Floats
    weight: Floats
    fold: NDArray[np.int64]
    is_known: NDArray[np.bool_]

    @classmethod
    def of(cls, label: Column, weight: Column | None, query: tuple[Column, ...], is_known: Column) -> "LabelledRows":
        """Take rows by labels and weights, (N,) each; without weights every row counts once.

        Args:
            query: columns, (N,) each, that are equal in the rows of one query, which share a fold.
            is_known: (N,) bool.
        """
        weights = np.ones(len(label)) if weight is None else np.asarray(weight, dtype=np.float64)
        order = np.lexsort(query)
        starts = run_starts(*(column[order] for column in query))
        fold = np.empty(len(label), dtype=np.int64)
        of_query = np.random.default_rng(_SEED).integers(0, _FOLDS, len(starts))
        fold[order] = np.repeat(of_query, np.diff(np.append(starts, len(label))))
        return cls(np.asarray(label, dtype=np.float64), weights / (weights.mean() or 1.0), fold, is_known)

    def measured(self, value: float | None, rows: NDArray[np.bool_] | None = None) -> MeasuredAuc | None:
        """Return an AUC over these rows, or the (N,) bool ones among them, with what it rests on."""
        if value is None:
            return None
        counts = self.weight > 0 if rows is None else rows & (self.weight > 0)
        positives = int(np.count_nonzero(self.label[counts]))
        negatives = int(np.count_nonzero(counts)) - positives
        return MeasuredAuc(value, auc_error(value, positives, negatives), min(positives, negatives))

    def auc(self, score: Column) -> MeasuredAuc | None:
        """AUC of scores, (N,)."""
        return self.measured(auc(self.label, score, self.weight))

    def known_auc(self, score: Column) -> MeasuredAuc | None:
        """AUC of scores, (N,), among the known rows."""
        known = self.is_known
        return self.measured(auc(self.label[known], score[known], self.weight[known]), known)


@dataclass(frozen=True)
class FeatureAuc:
    """AUC of one feature in training, in later rows, and in those of them that are known; None where undefined."""

    training: MeasuredAuc | None
    later: MeasuredAuc | None = None
    known_later: MeasuredAuc | None = None


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


def id_auc(train: Ids, train_rows: LabelledRows, later: Ids | None, later_rows: LabelledRows | None) -> FeatureAuc:
    """Measure the smoothed label mean of each row's ids, in training out of fold."""
    of_ids, of_rows = _by_fold(train, train_rows)
    outside = _label_means(of_ids.sum(axis=-1, keepdims=True) - of_ids, of_rows.sum(axis=-1, keepdims=True) - of_rows)
    score = train.means(outside[train.values, train.of_rows(train_rows.fold)])
    in_training = grouped_auc(train_rows.label, score, train_rows.fold, train_rows.weight)
    if later is None or later_rows is None:
        return FeatureAuc(train_rows.measured(in_training))
    whole = _label_means(of_ids.sum(axis=-1), of_rows.sum(axis=-1))
    scores = later.means(whole[later.values])
    return FeatureAuc(train_rows.measured(in_training), later_rows.auc(scores), later_rows.known_auc(scores))


def value_auc(
    train: Column, train_rows: LabelledRows, later: Column | None, later_rows: LabelledRows | None
) -> FeatureAuc:
    """Measure a number.

    Taken by the order of the values, rising or falling as training says; or, if that separates the training rows
    better, by the label means of 32 ranges of them: a missing value's fill may lie in the middle and tell the label.

    Args:
        train, later: (N,) each.
    """
    edges = np.unique(np.quantile(train, np.linspace(0, 1, _RANGES + 1)[1:-1]))

    def ranges(values: Column) -> Ids:
        return Ids.single(np.searchsorted(edges, values, side="right"), len(edges) + 1)

    rising = auc(train_rows.label, train, train_rows.weight)
    if rising is None:
        return FeatureAuc(None)
    by_order = max(rising, 1 - rising)
    by_range = id_auc(ranges(train), train_rows, None if later is None else ranges(later), later_rows)
    if by_range.training and by_range.training.value > by_order:
        return by_range
    measured = train_rows.measured(by_order)
    if later is None or later_rows is None:
        return FeatureAuc(measured)
    scores = later if rising >= 0.5 else -later
    return FeatureAuc(measured, later_rows.auc(scores), later_rows.known_auc(scores))


def _by_fold(ids: Ids, rows: LabelledRows) -> tuple[Floats, Floats]:
    """Weight and positive weight of every id in every fold, (2, size, folds), and of all rows, (2, 1, folds)."""
    place = ids.values * _FOLDS + ids.of_rows(rows.fold)
    columns = (rows.weight, rows.weight * rows.label)
    of_ids = np.stack([np.bincount(place, ids.of_rows(column), ids.size * _FOLDS) for column in columns])
    of_rows = np.stack([np.bincount(rows.fold, column, _FOLDS) for column in columns])
    return of_ids.reshape(2, ids.size, _FOLDS).astype(np.float64), of_rows[:, None].astype(np.float64)


def _label_means(of_ids: Floats, of_rows: Floats) -> Floats:
    """The label means of ids, `_PRIOR_ROWS` rows of the overall rate added.

    Args:
        of_ids, of_rows: weight and positive weight, (2, ...) each.
    """
    (weight, positive), (all_weight, all_positive) = of_ids, of_rows
    rate = np.divide(all_positive, all_weight, out=np.zeros_like(all_weight), where=all_weight > 0)
    return np.asarray((positive + _PRIOR_ROWS * rate) / (weight + _PRIOR_ROWS))
