"""Scheduled runs of many dates in order: each is what the same date alone would have been."""

import datetime
from collections.abc import Iterator, Sequence

from recsys.config.compose import compose_config
from recsys.errors import RecsysError, UsageError
from recsys.nightly import day, weekly_study
from recsys.nightly.day import DailyResult
from recsys.nightly.nightly_log import DailyStage, Tell
from recsys.progress import Progress
from recsys.scheduling.window import Readiness


def dates_between(first: datetime.date, last: datetime.date) -> list[datetime.date]:
    """Every date from `first` to `last`, both included.

    Raises:
        UsageError: `last` lies before `first`.
    """
    if last < first:
        raise UsageError(f"--from is {first} and --to is {last}; expected a last date that is not before the first.")
    return [first + datetime.timedelta(days=passed) for passed in range((last - first).days + 1)]


def run(
    overrides: Sequence[str],
    dates: Sequence[datetime.date],
    progress: Progress,
    *,
    until: DailyStage = DailyStage.PROMOTE,
    tell: Tell = lambda _: None,
) -> Iterator[DailyResult]:
    """Yield each date's result as it is there; what was done before is up to date, so a second call goes on.

    It ends with the first date whose data have not arrived: those after it wait for the same rows.

    Args:
        overrides: as on the command line; a study's arms are composed of them.

    Raises:
        RecsysError: see `day.run`; the dates before are done.
    """
    config = compose_config(overrides)
    for number, date in enumerate(dates):
        try:
            result = day.run(config, date, progress, until=until, tell=tell)
            if result.decision is not None:
                result = weekly_study.after(overrides, config, result, progress, tell)
        except RecsysError as error:
            if len(dates) > 1 and not isinstance(error, UsageError):
                error.args = (
                    f"{date} ({number} of {len(dates)} dates are done): {error} The same command goes on from there.",
                )
            raise
        yield result
        if result.readiness is Readiness.NOT_THERE_YET:
            return
