"""What became of each scheduled day, as a table and a picture, or as JSON."""

import argparse
import json

from recsys.config import RunConfig
from recsys.errors import UsageError
from recsys.files import writing
from recsys.nightly.places import NightlyRoot
from recsys.nightly.status import DayStatus, status
from recsys.progress import silent
from recsys.tracking.nightly_figure import nights

from .console import console, show_table

_PICTURE = "status.png"


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Print the newest days, and draw them."""
    if not arguments.days.isdigit() or not int(arguments.days):
        raise UsageError(f"--days is {arguments.days!r}; expected how many days to show, 1 or more.")
    days = status(config, int(arguments.days), silent)
    if arguments.json:
        print(json.dumps([day.to_document() for day in days], indent=2))
        return
    if not days:
        console.print(f"No scheduled run of {config.data.name} was started yet. Next: recsys daily --date YYYY-MM-DD")
        return
    show_table(
        f"Scheduled runs of {config.data.name}", ("date", "state", "decision", "champion", "AUC", "why"), _rows(days)
    )
    picture = NightlyRoot.of(config).path / _PICTURE
    drawn = nights(
        [day.date for day in days],
        [day.auc for day in days],
        [str(day.state) for day in days],
        [day.decision for day in days],
        [day.verdicts for day in days],
    )
    with writing(picture):
        drawn.savefig(picture, dpi=120)
    console.print(f"Picture: {picture}", soft_wrap=True, markup=False)


def _rows(days: list[DayStatus]) -> list[tuple[str, ...]]:
    return [
        (
            day.date,
            f"{day.state} ({day.stage})" if day.state not in ("done", "stale") else str(day.state),
            day.decision or "-",
            day.champion or "-",
            "-" if day.auc is None else f"{day.auc:.4f}",
            " ".join(part for part in (day.reason, day.verdicts) if part),
        )
        for day in days
    ]
