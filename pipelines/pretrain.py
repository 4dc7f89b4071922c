"""Make the embedding tower, and show where it came from."""

import argparse
import shlex

from recsys.config import RunConfig
from recsys.run import prepare, pretrain

from .console import console, progress_bars


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Make the tower and show where it came from."""
    with progress_bars() as progress:
        artifact = pretrain.run(config, prepare.run(config, progress), progress)
    for key, value in artifact.provenance.items():
        console.print(f"  {key}: {value}", soft_wrap=True, markup=False)
    again = shlex.join(["recsys", "train", *arguments.overrides])
    console.print(f"Next: {again}", soft_wrap=True, markup=False)
