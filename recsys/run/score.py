"""Probabilities for raw rows in a file, by a finished run's served model."""

from pathlib import Path

import torch

from recsys.artifacts.export import load_scorer
from recsys.artifacts.scoring import score_file
from recsys.config import RunConfig
from recsys.progress import Progress
from recsys.run.serving import MODEL


def run(config: RunConfig, folder: Path, input_file: Path, output_file: Path, progress: Progress) -> int:
    """Score the rows of a Parquet file by the run in `folder`; write them with a `probability`; return how many.

    Raises:
        UsageError, DataError, CannotWriteError: there is no finished run in `folder`; and see `score_file`.
    """
    torch.set_num_threads(config.runtime.cores)
    return score_file(load_scorer(folder / MODEL), input_file, output_file, progress)
