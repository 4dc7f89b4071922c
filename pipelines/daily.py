"""Do a scheduled day's work once, and print what came of it."""

import argparse
import datetime

from recsys.config import RunConfig
from recsys.config.overrides import require_unset
from recsys.errors import UsageError
from recsys.nightly import day
from recsys.run.prepare import SPLIT_DATES

from .console import console, progress_bars, show_table


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Do the day's work once, and print what came of it."""
    try:
        date = datetime.date.fromisoformat(arguments.date)
    except ValueError as error:
        raise UsageError(f"--date is {arguments.date!r}; expected a day as YYYY-MM-DD.") from error
    window = "--date and `daily.train_days`, `daily.validation_days` and `daily.test_days` set the window"
    require_unset(arguments.overrides, [f"data.{name}" for name in SPLIT_DATES], window)
    with progress_bars() as progress:
        result = day.run(config, date, progress)
    console.print(f"{result.readiness}: {result.reason}", soft_wrap=True)
    if result.decision:
        rows = [(reason,) for reason in result.decision.reasons]
        show_table("promoted" if result.decision.promote else "not promoted", ("reason",), rows)
        console.print(f"Run folder: {result.folder}", soft_wrap=True)
