"""Predictions on disk, kept for later comparisons."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from recsys.errors import DataError
from recsys.files import published_directory
from recsys.metrics.predictions import Predictions, predictions_of

_FILE = "predictions.safetensors"


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
