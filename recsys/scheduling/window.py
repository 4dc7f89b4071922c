"""Which days a scheduled run trains on, and whether it can start.

Days are UTC days and ranges are half-open: a range ends before its `end`, and an event at midnight belongs to the day
that begins. A run for a date uses nothing from that date on.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from recsys.errors import DataError, UsageError


@dataclass(frozen=True)
class DayRange:
    """The UTC days from `first` up to, and without, `end`.

    >>> week = DayRange(date(2011, 8, 25), date(2011, 9, 1))
    >>> week.num_days, date(2011, 9, 1) in week
    (7, False)
    """

    first: date
    end: date

    def __post_init__(self) -> None:
        if self.end <= self.first:
            raise UsageError(f"The days from {self.first} up to {self.end} are none; the end must be a later day.")

    @property
    def num_days(self) -> int:
        """How many days the range holds."""
        return (self.end - self.first).days

    @property
    def days(self) -> tuple[date, ...]:
        """Every day of the range in order."""
        return tuple(self.first + timedelta(days=passed) for passed in range(self.num_days))

    def __contains__(self, day: object) -> bool:
        return isinstance(day, date) and not isinstance(day, datetime) and self.first <= day < self.end

    def __str__(self) -> str:
        return f"{self.first} up to {self.end}"


@dataclass(frozen=True)
class Window:
    """Three ranges that follow one another without a gap, so no training row is later than a validation row."""

    train: DayRange
    validation: DayRange
    test: DayRange

    @property
    def whole(self) -> DayRange:
        """All three as one range."""
        return DayRange(self.train.first, self.test.end)


class Readiness(StrEnum):
    """What a scheduler does with a run."""

    NOT_THERE_YET = "not there yet"
    ALREADY_DONE = "already done"
    GO = "go"


def window_before(run_date: date, *, train_days: int, validation_days: int, test_days: int) -> Window:
    """Return the last days before `run_date`: test nearest to it, validation before that, training before both.

    Raises:
        UsageError: a number of days is not positive; names it.
    """
    for name, days in (("train_days", train_days), ("validation_days", validation_days), ("test_days", test_days)):
        if days < 1:
            raise UsageError(f"`{name}` is {days}; a run needs at least one day for each of its three windows.")
    if (run_date - date.min).days < train_days + validation_days + test_days:
        raise UsageError(f"The window before {run_date} would begin before the year 1; expected a later date.")
    test_first = run_date - timedelta(days=test_days)
    validation_first = test_first - timedelta(days=validation_days)
    return Window(
        train=DayRange(validation_first - timedelta(days=train_days), validation_first),
        validation=DayRange(validation_first, test_first),
        test=DayRange(test_first, run_date),
    )


def readiness(window: Window, complete: DayRange, is_done: bool) -> tuple[Readiness, str]:
    """Say whether a run over `window` can start, and why, in one sentence.

    Args:
        complete: the days of which all data has arrived. A day without a sale is complete too, so this is no list of
            days that have rows; `complete_days` derives it from the first and the newest event.
        is_done: whether this window's run has ended with its result in place.

    Raises:
        DataError: the data begin after the window does, which no waiting mends.
    """
    if is_done:
        return Readiness.ALREADY_DONE, f"The run over {window.whole} is done; nothing to do."
    if complete.first > window.train.first:
        raise DataError(
            f"The data begin on {complete.first}, but the training window is {window.train}. Choose a date at least "
            f"{(complete.first - window.train.first).days} days later, or fewer training days."
        )
    if complete.end < window.test.end:
        return (
            Readiness.NOT_THERE_YET,
            f"The data are complete before {complete.end}, and the run needs every day before {window.test.end}.",
        )
    return Readiness.GO, f"Training on {window.train}, validating on {window.validation}, testing on {window.test}."


def complete_days(days: Collection[date], today: date) -> DayRange:
    """Return the days that are certainly complete: from the first that has events up to the newest one.

    The newest day itself may still be growing: only an event of a later day shows that a day is over. Events of days
    after `today` are mistaken, and show nothing.

    Args:
        days: the UTC days that have events.

    Raises:
        DataError: at most one of them has, so no day is known to be complete.
    """
    known = sorted(day for day in days if day <= today)
    if len(known) < 2:
        found = f"All events are of {known[0]}" if known else f"No event is of {today} or earlier"
        raise DataError(f"{found}; at least one later day is needed to know that a day is complete.")
    return DayRange(known[0], known[-1])
