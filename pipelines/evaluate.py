"""Measure a finished run on a split, and print a table with a column per segment."""

import argparse
from pathlib import Path

from recsys.config import RunConfig
from recsys.run import evaluate
from recsys.run.serving import MODEL

from .console import console, progress_bars, show_table
from .result_tables import show_with_baselines


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Measure, and print a table with a column per segment.

    Args:
        config: the run's own, with what may differ on top.
        arguments: the run's folder and the split.
    """
    folder = Path(arguments.run)
    with progress_bars() as progress:
        found = evaluate.run(config, folder, arguments.split, progress)
    scores = found.ranker
    metrics = list(dict.fromkeys(name.partition("/")[0] for name in scores))
    segments = list(dict.fromkeys(name.partition("/")[2] for name in scores))
    rows = [(m, *(f"{scores[f'{m}/{s}']:.4f}" if f"{m}/{s}" in scores else "-" for s in segments)) for m in metrics]
    show_table(f"{folder.name} on {arguments.split}", ("metric", *segments), rows)
    show_with_baselines(folder.name, scores, found.baselines)
    console.print(f"Measured {folder / MODEL} on rows of {config.data.raw}", soft_wrap=True, markup=False)
