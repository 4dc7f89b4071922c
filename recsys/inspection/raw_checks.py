"""The newest day's raw events by themselves: delivered once, and at times that have come."""

import datetime

from recsys.inspection.check_results import CheckResult, Figure, Limits, judged, not_judged


def duplicate_share_check(day: datetime.date, events: int, duplicates: int, where: str, limits: Limits) -> CheckResult:
    """The share of the day's events that repeat another one in every column that the schema file names."""
    if not events:
        return not_judged("duplicate_share", limits, f"0 events on {day}")
    found = f"{duplicates} of the {events} events of {day} in {where} stand there before, equal in every used column"
    mend = "See whether a file was delivered twice."
    return judged("duplicate_share", limits, [Figure(duplicates / events, found)], mend)


def future_share_check(
    day: datetime.date,
    events: int,
    future: int,
    newest: datetime.datetime | None,
    now: datetime.datetime,
    where: str,
    limits: Limits,
) -> CheckResult:
    """How many events lie in the future for each of the newest day, or for each of all where that day has none."""
    found = f"{future} events in {where} are later than now"
    # The same words on every run of a day in which there is nothing to say of the clock.
    found += f" ({now:%Y-%m-%d %H:%M} UTC), up to {newest:%Y-%m-%d %H:%M}" if newest else ""
    found += f"; {events} are of {day}"
    mend = "See that their times have the declared unit and zone, and that the clock that wrote them is right."
    return judged("future_share", limits, [Figure(future / max(events, 1), found)], mend)
