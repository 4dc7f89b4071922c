"""Download a public data set from its publisher."""

import argparse
from pathlib import Path

from recsys.datasets.fetch import fetch

from pipelines.console import console, progress_bars
from recsys.config import RunConfig


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Download, check, and say what to type next."""
    target = Path(arguments.to or f"data/raw/{arguments.source}")
    with progress_bars() as progress:
        path = fetch(arguments.source, target, progress)
    console.print(f"Fetched {path}\nNext: recsys prepare data=... data.raw={path}")
