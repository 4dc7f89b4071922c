"""Score raw rows in a file by a finished run, and say where the scores are."""

import argparse
from pathlib import Path

from recsys.config import RunConfig
from recsys.run import score

from .console import console, progress_bars


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Score, and say how many rows there are and where."""
    output, events = Path(arguments.output), Path(arguments.events) if arguments.events else None
    with progress_bars() as progress:
        rows = score.run(config, Path(arguments.run), Path(arguments.input), output, events, progress)
    console.print(f"Scored {rows:,} rows into {output}", soft_wrap=True)
