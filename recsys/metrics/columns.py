"""Columns of one length as metrics take them, and the checks that all of them share."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]
Floats = NDArray[np.float64]


def checked_columns(label: Column, score: Column, weight: Column | None) -> tuple[Floats, Floats, Floats]:
    """The three columns (N,) in float64; a `weight` of None is ones.

    Raises:
        ValueError: lengths differ, a label is neither 0 nor 1, a score is NaN, or a weight is negative or not finite.
    """
    label, score = np.asarray(label, np.float64), np.asarray(score, np.float64)
    weight = np.ones_like(label) if weight is None else np.asarray(weight, np.float64)
    if not label.shape == score.shape == weight.shape or label.ndim != 1:
        raise ValueError(
            "Metrics need columns of one length, "
            f"found label {label.shape}, score {score.shape}, weight {weight.shape}."
        )
    if not (is_binary := (label == 0) | (label == 1)).all():
        raise ValueError(f"Labels must be 0 or 1, found {label[~is_binary][0]}.")
    if np.isnan(score).any():
        raise ValueError(f"Row {int(np.flatnonzero(np.isnan(score))[0])} scores NaN, which has no rank.")
    if (weight < 0).any() or not np.isfinite(weight).all():
        raise ValueError("Row weights must be finite and not negative.")
    return label, score, weight


def weights_by_class(label: Column, score: Column, weight: Column | None) -> tuple[Floats, Floats, Floats]:
    """Each row's weight as a positive, its weight as a negative, and its score, (N,) each."""
    label, score, weight = checked_columns(label, score, weight)
    return weight * label, weight * (1 - label), score


def run_starts(*columns: Column) -> NDArray[np.int64]:
    """Positions where a run of rows that are equal in all of these sorted columns (N,) begins."""
    if not len(columns[0]):
        return np.empty(0, np.int64)
    is_start = np.ones(len(columns[0]), bool)
    is_start[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return np.flatnonzero(is_start)


def losing_weight(negative: Floats, block: NDArray[np.int64]) -> Floats:
    """Weight of the negatives below each row's block of ties, plus half of those inside it, (N,).

    Args:
        negative: (N,) weights in rising order of score.
        block: where the blocks of equal scores begin.
    """
    sizes = np.diff(np.append(block, len(negative)))
    in_block = np.repeat(np.add.reduceat(negative, block), sizes)
    before_block = np.repeat((np.cumsum(negative) - negative)[block], sizes)
    losing: Floats = before_block + 0.5 * in_block
    return losing
