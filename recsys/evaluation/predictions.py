"""A ranker's logits over a split beside what they are judged by, as columns; kept on disk for later comparisons."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from recsys.errors import DataError
from recsys.evaluation.metrics import Column
from recsys.files import published_directory

_FILE = "predictions.safetensors"
_EXTRA = "extra."


@dataclass(frozen=True)
class Predictions:
    """N rows in the order of their split.

    Attributes:
        logit: (N,) float32 as the ranker gave it.
        label: (N,) float32, each 0 or 1.
        segment: (N,) int64, each in [0, S).
        weight: (N,) float32.
        extra: (N,) each: what else the stream was asked for (`user_key`, `true_probability`, ...).
    """

    logit: Column
    label: Column
    segment: Column
    weight: Column
    extra: Mapping[str, Column] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns().items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"Predictions need columns of one length, found {lengths}.")

    def __len__(self) -> int:
        return len(self.logit)

    def columns(self) -> dict[str, Column]:
        """Every column under the name that it has on disk."""
        own = {"logit": self.logit, "label": self.label, "segment": self.segment, "weight": self.weight}
        return own | {_EXTRA + name: column for name, column in self.extra.items()}

    def where(self, is_kept: Column) -> "Predictions":
        """The rows where `is_kept` (N,) bool is true."""
        return predictions_of({name: column[is_kept] for name, column in self.columns().items()})


def predictions_of(columns: Mapping[str, Column]) -> Predictions:
    """The inverse of `Predictions.columns`."""
    extra = {name.removeprefix(_EXTRA): column for name, column in columns.items() if name.startswith(_EXTRA)}
    return Predictions(columns["logit"], columns["label"], columns["segment"], columns["weight"], extra)


def save_predictions(predictions: Predictions, folder: Path) -> None:
    """Write the columns to `folder`, which is published whole or not at all.

    Raises:
        CannotWriteError: the place cannot be written.
    """
    with published_directory(folder) as work:
        columns = {name: np.ascontiguousarray(column) for name, column in predictions.columns().items()}
        save_file(columns, work / _FILE)


def load_predictions(folder: Path) -> Predictions:
    """Read what `save_predictions` wrote.

    Raises:
        DataError: the file is absent, damaged or lacks a column.
    """
    path = folder / _FILE
    if not path.is_file():
        raise DataError(f"No predictions at {path}. Run the arm again, or point to the folder that it wrote.")
    try:
        return predictions_of(load_file(path))
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"Predictions in {path} cannot be read: {error}. Delete it and run the arm again.") from error
