"""Download a public data set from its publisher."""

import argparse
import shlex
from pathlib import Path

from recsys.config import RunConfig
from recsys.datasets.fetch import fetch

from .console import console, progress_bars

# Releases that tell who the users are; the others have segments by activity, and a schema of their own.
_WITH_USER_TABLE = ("movielens-100k", "movielens-1m")


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Download, check, and say what to type next."""
    target = Path(arguments.to or f"data/raw/{arguments.source}")
    with progress_bars() as progress:
        path = fetch(arguments.source, target, progress)
    data = ["data=online_retail"] if arguments.source == "online_retail" else ["data=movielens"]
    if arguments.source not in (*_WITH_USER_TABLE, "online_retail"):
        data.append("data.schema_path=data/schemas/movielens_csv.yaml")
    following = shlex.join(["recsys", "prepare", *data, f"data.raw={path}"])
    console.print(f"Fetched {path}\nNext: {following}", soft_wrap=True, markup=False)
