"""Probabilities for raw rows in a file, by a finished run's served model."""

import argparse
from pathlib import Path

import torch

from recsys.artifacts.export import load_scorer
from recsys.artifacts.scoring import score_file
from recsys.config import RunConfig
from recsys.run.serving import MODEL

from .console import console, progress_bars


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Score, and say where the scores are."""
    output = Path(arguments.output)
    torch.set_num_threads(config.runtime.cores)
    with progress_bars() as progress:
        scorer = load_scorer(Path(arguments.run) / MODEL)
        rows = score_file(scorer, Path(arguments.input), output, progress)
    console.print(f"Scored {rows:,} rows into {output}", soft_wrap=True)
