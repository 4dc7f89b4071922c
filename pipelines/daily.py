"""Do scheduled days' work once, and print what came of it."""

import argparse
import datetime

from recsys.config import RunConfig
from recsys.config.overrides import require_unset
from recsys.errors import UsageError
from recsys.nightly import backfill
from recsys.nightly.day import DailyResult
from recsys.nightly.nightly_log import STAGES, VERDICT_CHANGED, DailyStage, DayOutcome, NightlyEvent
from recsys.progress import silent
from recsys.run.prepare import SPLIT_DATES

from .console import console, progress_bars, show_table

_STYLES = {DayOutcome.WARNING: "yellow", DayOutcome.STALE: "yellow", DayOutcome.CHANGED: "yellow"}


def main(config: RunConfig, arguments: argparse.Namespace) -> int:
    """Do the work of every date, and print what came of it."""
    dates = _dates(arguments)
    if arguments.stage not in STAGES:
        raise UsageError(f"--stage is {arguments.stage!r}; expected one of {', '.join(STAGES)}.")
    window = "--date and `daily.train_days`, `daily.validation_days` and `daily.test_days` set the window"
    require_unset(arguments.overrides, [f"data.{name}" for name in SPLIT_DATES], window)
    until = DailyStage(arguments.stage)
    has_changed = False
    if arguments.json:
        for result in backfill.run(arguments.overrides, dates, silent, until=until, tell=_print_json):
            has_changed |= bool(result.verdict_changes)
        return VERDICT_CHANGED if has_changed else 0
    with progress_bars() as progress:
        for result in backfill.run(arguments.overrides, dates, progress, until=until, tell=_print):
            _show(result)
            has_changed |= bool(result.verdict_changes)
    return VERDICT_CHANGED if has_changed else 0


def _show(result: DailyResult) -> None:
    console.print(f"{result.date}: {result.readiness}: {result.reason}", soft_wrap=True)
    if result.decision:
        rows = [(reason,) for reason in result.decision.reasons]
        show_table("promoted" if result.decision.promote else "not promoted", ("reason",), rows)
    if result.folder:
        console.print(f"Run folder: {result.folder.path}", soft_wrap=True, markup=False)


def _print(event: NightlyEvent) -> None:
    # Decisions are shown with the result.
    if event.outcome in _STYLES:
        console.print(f"{event.outcome}: {event.message}", style=_STYLES[event.outcome], markup=False, soft_wrap=True)


def _print_json(event: NightlyEvent) -> None:
    # The reader, such as a scheduler, follows the lines as they come.
    print(event.to_json(), flush=True)


def _dates(arguments: argparse.Namespace) -> list[datetime.date]:
    first, last = getattr(arguments, "from"), arguments.to
    if arguments.date and not (first or last):
        return [_date("--date", arguments.date)]
    if first and last and not arguments.date:
        return backfill.dates_between(_date("--from", first), _date("--to", last))
    raise UsageError("Expected a day, --date 2011-09-01, or several in order, --from 2011-09-01 --to 2011-09-14.")


def _date(flag: str, text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{flag} is {text!r}; expected a day as YYYY-MM-DD.") from error
