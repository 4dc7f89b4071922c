"""What LightGBM learns from: the encoded rows that a ranker reads, as one matrix of numbers.

- A dense feature is a column as it is encoded.
- An id of a table of up to 255 rows, and the user segment, is a category.
- Any other id is the mean label of the training rows that have it, drawn toward the overall mean as by ten more rows:
  a training row's is counted over the other four of five random folds, a later row's over all training rows.
- A list of ids is its length and the mean over its ids of that same mean label; a list of numbers is their mean.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract
from recsys.features.schema import FeatureKind

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_MOST_CATEGORIES = 255
_PRIOR_ROWS, _FOLDS = 10.0, 5


@dataclass(frozen=True)
class Rows:
    """Encoded rows in memory.

    Attributes:
        dense: (N, F_dense).
        ids, lengths: feature -> ids of all rows, one after another; how many each row has, (N,).
        numbers: list of numbers -> the mean of each row's, 0 for none, (N,).
        extra: column -> (N,).
    """

    dense: Floats
    ids: Mapping[str, Ints]
    lengths: Mapping[str, Ints]
    numbers: Mapping[str, Floats]
    segment: Ints
    label: Floats
    weight: Floats
    extra: Mapping[str, NDArray]

    def __len__(self) -> int:
        return len(self.label)


def rows_of(batches: Iterable[Batch]) -> Rows:
    """Read batches into memory, copied, as a stream lends its memory until the next one."""
    parts = [_columns_of(batch) for batch in batches]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def group(prefix: str) -> dict[str, NDArray]:
        return {name.removeprefix(prefix): each for name, each in joined.items() if name.startswith(prefix)}

    own = {name: joined[name] for name in ("dense", "segment", "label", "weight")}
    return Rows(ids=group("ids "), lengths=group("lengths "), numbers=group("numbers "), extra=group("extra "), **own)


class TreeFeatures:
    """Fitted on training rows: `matrix` gives any others, `known` the training rows themselves, (N, columns) each.

    Attributes:
        names: of the columns.
        categories: places of those that are categories.
    """

    def __init__(self, contract: FeatureContract, train: Rows) -> None:
        schema = contract.schema
        single = [feature.name for feature in schema.sparse if feature.kind is FeatureKind.SPARSE]
        sizes = {feature.name: contract.table_rows[feature.table] for feature in schema.sparse}
        self._categories = [name for name in single if sizes[name] <= _MOST_CATEGORIES]
        self._coded = {name: size for name, size in sizes.items() if name not in self._categories}
        self._lists = [name for name in sizes if name not in single]
        self._rate = float(train.weight @ train.label / train.weight.sum())
        self._means = {name: self._means_of(train, name, np.ones(len(train), dtype=bool)) for name in self._coded}
        self.names = [
            *(feature.name for feature in schema.dense),
            *(f"length of {name}" for name in self._lists),
            *(f"mean of {name}" for name in train.numbers),
            *(f"label given {name}" for name in self._coded),
            *self._categories,
            "user segment",
        ]
        self.categories = list(range(len(self.names) - len(self._categories) - 1, len(self.names)))
        self.known = self._joined(train, self._out_of_fold(train))

    def matrix(self, rows: Rows) -> Floats:
        """Rows that are no training rows, (N, columns)."""
        return self._joined(rows, {name: self._means_over(rows, name, self._means[name]) for name in self._coded})

    def _joined(self, rows: Rows, coded: Mapping[str, Floats]) -> Floats:
        columns = [rows.lengths[name] for name in self._lists] + [*rows.numbers.values(), *coded.values()]
        columns += [rows.ids[name] for name in self._categories] + [rows.segment]
        return np.column_stack([rows.dense, *columns]).astype(np.float64)

    def _out_of_fold(self, train: Rows) -> dict[str, Floats]:
        fold = np.random.default_rng(0).integers(_FOLDS, size=len(train))
        coded = {}
        for name in self._coded:
            by_fold = [self._means_over(train, name, self._means_of(train, name, fold != k)) for k in range(_FOLDS)]
            coded[name] = np.choose(fold, by_fold)
        return coded

    def _means_of(self, train: Rows, name: str, is_counted: NDArray[np.bool_]) -> Floats:
        """The mean label given each id of a table, (rows of the table,)."""
        weight = np.where(is_counted, train.weight, 0.0)
        count, positive = (
            np.bincount(train.ids[name], np.repeat(each, train.lengths[name]), self._coded[name])
            for each in (weight, weight * train.label)
        )
        return (positive + _PRIOR_ROWS * self._rate) / (count + _PRIOR_ROWS)

    def _means_over(self, rows: Rows, name: str, means: Floats) -> Floats:
        """The mean over each row's ids, (N,); NaN, LightGBM's word for a missing value, for none."""
        lengths = rows.lengths[name]
        sums = np.bincount(np.repeat(np.arange(len(rows)), lengths), means[rows.ids[name]], len(rows))
        return np.divide(sums, lengths, out=np.full(len(rows), np.nan), where=lengths > 0)


def _columns_of(batch: Batch) -> dict[str, NDArray]:
    columns = {
        "dense": _host(batch.dense, torch.float64),
        "segment": _host(batch.segment, torch.int64),
        "label": _host(batch.label, torch.float64),
        "weight": _host(batch.weight, torch.float64),
    }
    for name in batch.sparse.keys():  # noqa: SIM118 - no mapping
        columns[f"ids {name}"] = _host(batch.sparse[name].values(), torch.int64)
        columns[f"lengths {name}"] = _host(batch.sparse[name].lengths(), torch.int64)
    # Batches of versions without lists of numbers have no such attributes.
    for name, values in getattr(batch, "lists", {}).items():
        columns[f"numbers {name}"] = _means(values, columns[f"lengths {batch.leaders[name]}"])
    return columns | {f"extra {name}": _host(each, each.dtype) for name, each in batch.extra.items()}


def _means(values: Tensor, lengths: Ints) -> Floats:
    of_row = np.repeat(np.arange(len(lengths)), lengths)
    return np.bincount(of_row, _host(values, torch.float64), len(lengths)) / np.maximum(lengths, 1)


def _host(tensor: Tensor, dtype: torch.dtype) -> NDArray:
    return tensor.detach().to("cpu", dtype, copy=True).numpy()
