"""Make the champion before this one the champion again, and say which that is."""

import argparse

from recsys.config import RunConfig
from recsys.nightly.promote import roll_back

from .console import console


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Roll back, and name the champion."""
    champion = roll_back(config, arguments.reason)
    console.print(
        f"The champion of {config.data.name} is {champion.artifact} again: the run of {champion.date}, promoted "
        f"{champion.since}.",
        soft_wrap=True,
        markup=False,
    )
