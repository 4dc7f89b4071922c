"""Splits by time: no training row is later than any validation row, no validation row later than any test row.

A split at random lets a model see the future of the users and items that it is tested on; what it then scores is not
what it will score tomorrow.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

import ibis
import ibis.expr.types as ir

from recsys.datasets.source import TEST, TRAIN, VALIDATION
from recsys.errors import UsageError


@dataclass(frozen=True)
class TimeSplit:
    """Four UTC days; each split runs from the midnight that begins one to the midnight that begins the next.

    >>> split = TimeSplit.from_days("2010-03-01", "2011-07-01", "2011-08-15", "2011-10-01")
    >>> split.last_day
    datetime.date(2011, 9, 30)
    """

    train_start: date
    validation_start: date
    test_start: date
    test_end: date

    def __post_init__(self) -> None:
        if not self.train_start < self.validation_start < self.test_start < self.test_end:
            raise UsageError(
                f"The splits' dates are train_start {self.train_start}, validation_start {self.validation_start}, "
                f"test_start {self.test_start}, test_end {self.test_end}; expected each to be later than the one "
                "before it."
            )

    @classmethod
    def from_days(cls, train_start: str, validation_start: str, test_start: str, test_end: str) -> "TimeSplit":
        """Read the four days, each written like "2011-06-30".

        Raises:
            UsageError: one is no day, or they are out of order.
        """
        return cls(*(_day_from(text) for text in (train_start, validation_start, test_start, test_end)))

    def name_of(self, time: ir.TimestampValue) -> ir.StringValue:
        """Name each time's split; null before `train_start` and from `test_end` on."""
        return ibis.cases(
            (time < _midnight(self.train_start), ibis.null("string")),
            (time < _midnight(self.validation_start), TRAIN),
            (time < _midnight(self.test_start), VALIDATION),
            (time < _midnight(self.test_end), TEST),
            else_=ibis.null("string"),
        )

    def contains(self, time: ir.TimestampValue) -> ir.BooleanValue:
        """Whether a time belongs to any split."""
        return (time >= _midnight(self.train_start)) & (time < _midnight(self.test_end))

    @property
    def last_day(self) -> date:
        """The last day that belongs to a split."""
        return self.test_end - timedelta(days=1)

    def to_document(self) -> dict[str, str]:
        """The four days as text, for a manifest."""
        return {name: day.isoformat() for name, day in vars(self).items()}


def _midnight(day: date) -> ir.TimestampValue:
    return ibis.timestamp(datetime(day.year, day.month, day.day))


def _day_from(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no day ({error}); expected one written like '2011-06-30'.") from error
