"""Prepare the rows, and show how many each split has."""

import argparse
import shlex

from recsys.config import RunConfig
from recsys.run import prepare

from .console import console, progress_bars, show_table


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Prepare, and show how many rows each split has."""
    with progress_bars() as progress:
        encoded = prepare.run(config, progress)
    days = {split: list(encoded.days(split)) for split in encoded.splits}
    rows = [(split, f"{encoded.rows(split):,}", days[split][0], days[split][-1]) for split in encoded.splits]
    show_table(f"{config.data.name}: contract {encoded.contract.fingerprint}", ("split", "rows", "first", "last"), rows)
    if counts := {what: number for what, number in encoded.manifest.counts.items() if number}:
        show_table(
            "Left out, filled, mended or repeated", ("what", "number"), [(w, f"{n:,}") for w, n in counts.items()]
        )
    again = shlex.join(["recsys", "train", *arguments.overrides])
    console.print(f"Prepared in {encoded.root}\nNext: {again}", soft_wrap=True, markup=False)
