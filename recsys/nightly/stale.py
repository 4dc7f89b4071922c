"""Which dates' work no longer stands: rows of a day that it learnt from have changed since, or its start is stale."""

import datetime
from collections.abc import Mapping

from recsys.nightly.places import DayFolder, NightlyRoot

_SHOWN_DAYS = 3


def stale_dates(root: NightlyRoot, days: Mapping[datetime.date, str]) -> dict[datetime.date, str]:
    """Return each date whose newest work is stale, and why in one sentence.

    Args:
        days: raw UTC day -> fingerprint of its rows, as they are now.
    """
    now = {day.isoformat(): found for day, found in days.items()}
    found = dict[datetime.date, str]()
    old_models = dict[str, str]()
    for date in root.dates():
        *earlier, folder = root.works(date)
        old_models |= {each.path.name: f"the model of {date}, which was done again since" for each in earlier}
        if why := _why(folder, date, now, old_models):
            found[date] = why
            old_models[folder.path.name] = f"the model of {date}, which is stale"
    return found


def _why(folder: DayFolder, date: datetime.date, now: Mapping[str, str], old_models: Mapping[str, str]) -> str:
    inputs = folder.inputs
    before = {day: found for day, found in now.items() if day < date.isoformat()}
    changed = sorted(day for day in {*before, *inputs.days} if before.get(day) != inputs.days.get(day))
    if changed:
        shown = ", ".join(changed[:_SHOWN_DAYS])
        more = f" and {len(changed) - _SHOWN_DAYS} more days" if len(changed) > _SHOWN_DAYS else ""
        return f"rows of {shown}{more} changed after the run over them"
    old = old_models.get(inputs.start)
    return f"it started from {old}" if old else ""
