"""Probabilities for raw rows in a Parquet file, by a finished run's served model."""

import argparse
from pathlib import Path

from pipelines.console import console, progress_bars
from pipelines.serving import MODEL
from recsys.artifacts.export import load_served
from recsys.artifacts.scoring import score_parquet
from recsys.config import RunConfig
from recsys.errors import DataError


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Score, and say where the scores are."""
    model, output = Path(arguments.run) / MODEL, Path(arguments.output)
    if not (model / "MLmodel").is_file():
        raise DataError(f"There is no served model at {model}. Expected the folder of a run that finished.")
    with progress_bars() as progress:
        rows = score_parquet(load_served(model).predict, Path(arguments.input), output, progress)
    console.print(f"Scored {rows:,} rows into {output}", soft_wrap=True)
