"""The newest day of prepared rows beside the weeks before it: is it a day like those?

Every check measures how far the day lies off, in a figure that its limits are written in, and how far the trailing days
lie off among themselves. It speaks up where the figure is above a limit and the day also stands out from what days do
by themselves (`check_results.stands_out`), so that few rows, or days that vary much, raise no false alarm.
"""

import datetime
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from recsys.inspection.check_results import CheckResult, Figure, Limits, judged, not_judged, stands_out
from recsys.inspection.day_profiles import DayProfile, Share, pooled
from recsys.inspection.dense_drift import Values, drifts

_WEEK = 7


@dataclass(frozen=True)
class NewestDay:
    """A day, and the trailing weeks before it.

    Attributes:
        trailing: every UTC day of them in order, also those without rows; fewer where the data begin later.
        weeks: how many were asked for.
    """

    newest: DayProfile
    trailing: tuple[DayProfile, ...]
    weeks: int

    @classmethod
    def of(cls, profiles: Mapping[datetime.date, DayProfile], day: datetime.date, weeks: int) -> "NewestDay":
        """Find a day, and the weeks before it, among the days that have rows."""
        first = max(min(profiles, default=day), day - datetime.timedelta(days=_WEEK * weeks))
        days = [first + datetime.timedelta(days=passed) for passed in range((day - first).days)]
        newest, *trailing = (profiles.get(each) or DayProfile(each) for each in [day, *days])
        return cls(newest, tuple(trailing), weeks)

    @property
    def with_rows(self) -> tuple[DayProfile, ...]:
        """The trailing days that have any."""
        return tuple(each for each in self.trailing if each.rows)

    @property
    def why_not(self) -> str:
        """Why the day cannot be held against the trailing ones; empty where it can."""
        if len(self.trailing) < _WEEK * self.weeks:
            return f"{_counted(len(self.trailing), 'day')} of history, {_counted(self.weeks, 'week')} wanted"
        if not self.newest.rows:
            return f"0 rows on {self.newest.day}"
        return "" if len(self.with_rows) > 1 else "hardly any rows in the trailing weeks"

    @property
    def before(self) -> str:
        """The trailing days in words."""
        return f"the {_counted(self.weeks, 'week')} before"


def rows_check(days: NewestDay, limits: Limits) -> CheckResult:
    """How much less the smaller is than the larger of the day's rows and the median of its weekday's.

    A weekday that never has rows may have none. A day without rows is judged however short the history is.
    """
    newest = days.newest
    if newest.rows and days.why_not:
        return not_judged("rows", limits, days.why_not)
    same = [each.rows for each in days.trailing if each.day.weekday() == newest.day.weekday()]
    # A shop that opens on its day off, or that has no such day yet, is held against its other days.
    known = same if same and (any(same) or not newest.rows) else [each.rows for each in days.with_rows]
    expected = median(known) if known else 1.0
    found = f"{_counted(newest.rows, 'row')} for {newest.day}"
    found += f", {expected:g} expected by {f'{newest.day:%A}s' if known is same else 'the days'} of {days.before}"
    is_far = True
    if len(days.trailing) == _WEEK * days.weeks:
        # By the chance of a Poisson variable that has the expected mean.
        error = 1 / math.sqrt(expected + 0.5)
        is_far = stands_out(_log_ratio(newest.rows, expected), _usual_rows(days.trailing), error)
    mend = "See whether all of the day's rows have arrived, and with their own times."
    return judged("rows", limits, [Figure(_off_by(newest.rows, expected), found, stands_out=is_far)], mend)


def null_share_check(days: NewestDay, limits: Limits) -> CheckResult:
    """How many more of the rows lack a feature's value than in the trailing weeks, as a difference of shares."""

    def words(name: str, share: Share, before: Share) -> str:
        return (
            f"{name} has no value (null, NaN, infinite, no id, an empty list) in {share.value:.1%} of the "
            f"{_counted(share.of, 'row')} of {days.newest.day}, and in {before.value:.1%} of those of {days.before}"
        )

    mend = "See whether the column is still written under its name and in its type by what delivers it."
    return _shares_check("null_share", days, days.with_rows, lambda day: day.without_value, limits, words, mend)


def unseen_share_check(days: NewestDay, limits: Limits, of_the_calendar: Collection[str] = ()) -> CheckResult:
    """How many more of a feature's ids are unknown than in the trailing days after training, as a difference of shares.

    An id is unknown that has no row in its table, the vocabulary being that of the training days: of these no id is
    unknown, so that they say nothing.

    Args:
        of_the_calendar: features made of the time alone, whose new ids are no fault: a month that has just begun.
    """
    later = tuple(day for day in days.with_rows if not day.is_training)

    def words(name: str, share: Share, before: Share) -> str:
        return (
            f"{share.value:.1%} of the {share.of} ids in {name} of {days.newest.day} stand in no training row, and "
            f"{before.value:.1%} of those of the {_counted(len(later), 'day')} between"
        )

    def unknown(day: DayProfile) -> Mapping[str, Share]:
        return {name: share for name, share in day.unknown.items() if name not in of_the_calendar}

    mend = "See whether its ids were numbered anew or are written in another form."
    return _shares_check("unseen_share", days, later, unknown, limits, words, mend)


def label_rate_check(days: NewestDay, limits: Limits, are_labels_sampled: bool) -> CheckResult:
    """How much less the smaller is than the larger of the share of positive rows and that of the trailing weeks.

    Args:
        are_labels_sampled: negatives are drawn, so that their number says nothing.
    """
    reason = "negatives are drawn, so many for each positive" if are_labels_sampled else days.why_not
    if reason:
        return not_judged("label_rate", limits, reason)
    found, whole = days.newest.positives, pooled(day.positives for day in days.with_rows)
    usual = [_log_odds_apart(day.positives, whole - day.positives) for day in days.with_rows]
    rate = (whole.number + 0.5) / (whole.of + 1)
    error = math.sqrt(1 / (found.of * rate * (1 - rate)))
    text = (
        f"{found.value:.2%} of the {_counted(found.of, 'row')} of {days.newest.day} are positive, and "
        f"{whole.value:.2%} of those of {days.before}"
    )
    is_far = stands_out(_log_odds_apart(found, whole), usual, error)
    mend = "See whether labels arrived whole, and mean what they did."
    return judged("label_rate", limits, [Figure(_off_by(found.value, whole.value), text, stands_out=is_far)], mend)


def segment_mix_check(days: NewestDay, limits: Limits) -> CheckResult:
    """The total variation distance of the segments' shares from the trailing weeks': the share that changed segment."""
    if days.why_not:
        return not_judged("segment_mix", limits, days.why_not)
    segments = list(days.newest.segments)
    whole = {name: pooled(Share(day.segments[name], day.rows) for day in days.with_rows) for name in segments}
    found = {name: Share(days.newest.segments[name], days.newest.rows) for name in segments}

    def apart(mix: Mapping[str, Share], other: Mapping[str, Share]) -> float:
        return sum(abs(mix[name].value - other[name].value) for name in segments) / 2

    own = [{name: Share(day.segments[name], day.rows) for name in segments} for day in days.with_rows]
    usual = [apart(mix, {name: whole[name] - mix[name] for name in segments}) for mix in own]
    most = max(segments, key=lambda name: abs(found[name].value - whole[name].value))
    text = (
        f"segment {most} has {found[most].value:.1%} of the {_counted(days.newest.rows, 'row')} of {days.newest.day}, "
        f"and {whole[most].value:.1%} of those of {days.before}"
    )
    value = apart(found, whole)
    mend = "See whether the users of every segment are delivered, and what says the segment."
    return judged("segment_mix", limits, [Figure(value, text, most, stands_out(value, usual))], mend)


def drift_check(days: NewestDay, values: Mapping[datetime.date, Mapping[str, Values]], limits: Limits) -> CheckResult:
    """The population stability index of each dense feature between the day and the trailing weeks; see `dense_drift`.

    Args:
        values: of the newest day and the trailing ones, those with rows, from `dense_values`.
    """
    names = list(values.get(days.newest.day, {}))
    if reason := days.why_not or ("" if names else "no dense feature"):
        return not_judged("drift", limits, reason)
    figures = []
    for name in names:
        newest, trailing = values[days.newest.day][name], [values[day.day][name] for day in days.with_rows]
        value, usual = drifts(newest, trailing)
        middles = float(np.median(newest)), float(np.median(np.concatenate(trailing)))
        text = (
            f"{name} has a population stability index of {value:.3f} between {days.newest.day} and {days.before}; its "
            f"median as encoded is {middles[0]:.3g}, and was {middles[1]:.3g}"
        )
        figures.append(Figure(value, text, name, stands_out(value, usual)))
    return judged("drift", limits, figures, "See whether it still has its unit, and comes from the same source.")


def _shares_check(
    name: str,
    days: NewestDay,
    trailing: Sequence[DayProfile],
    shares_of: Callable[[DayProfile], Mapping[str, Share]],
    limits: Limits,
    words: Callable[[str, Share, Share], str],
    mend: str,
) -> CheckResult:
    """Of the share of each feature, by how much it rose."""
    reason = days.why_not or ("" if trailing else "no day with rows between training and the newest day")
    if reason:
        return not_judged(name, limits, reason)
    figures = []
    for feature, share in shares_of(days.newest).items():
        own = [shares_of(day)[feature] for day in trailing]
        whole = pooled(own)
        usual = [abs(each.value - (whole - each).value) for each in own] if len(own) > 1 else []
        rise = max(share.value - whole.value, 0.0)
        text = words(feature, share, whole)
        figures.append(Figure(rise, text, feature, stands_out(rise, usual, _error(share, whole))))
    return judged(name, limits, figures, mend)


def _usual_rows(trailing: Sequence[DayProfile]) -> list[float]:
    """How far each trailing day's rows lie from the median of the other days of its weekday."""
    found = []
    for day in trailing:
        others = [each.rows for each in trailing if each is not day and each.day.weekday() == day.day.weekday()]
        if others:
            found.append(_log_ratio(day.rows, median(others)))
    return found


def _off_by(one: float, other: float) -> float:
    """How much less the smaller is than the larger, from 0 to 1: 0.5 of half as well as of double."""
    return 1 - min(one, other) / max(one, other) if max(one, other) else 0.0


def _log_ratio(one: float, other: float) -> float:
    return abs(math.log((one + 0.5) / (other + 0.5)))


def _log_odds_apart(one: Share, other: Share) -> float:
    odds = [math.log((each.number + 0.5) / (each.of - each.number + 0.5)) for each in (one, other)]
    return abs(odds[0] - odds[1])


def _error(share: Share, other: Share) -> float:
    """The standard error of the difference of two shares that are one in truth."""
    both = share + other
    return math.sqrt(both.value * (1 - both.value) * (1 / max(share.of, 1) + 1 / max(other.of, 1)))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
