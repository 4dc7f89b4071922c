"""What an event and a row must share, as columns `key_0`, `key_1`, ... that any two columns of theirs can be."""

from collections.abc import Sequence

import ibis.expr.types as ir

from recsys.datasets.past.past_feature import CONTRIBUTES, DAY_MICROSECONDS, MOMENT, Before


def key_names(by: Sequence[str]) -> list[str]:
    """The names of the keys."""
    return [f"key_{number}" for number in range(len(by))]


def keyed(rows: ir.Table, by: Sequence[str], **columns: ir.Value) -> ir.Table:
    """A column per key, a list unnested, and `columns` beside them; without the rows that have no key."""
    keys = {
        key: rows[name].unnest() if rows[name].type().is_array() else rows[name]
        for key, name in zip(key_names(by), by, strict=True)
    }
    found = rows.select(**keys, **columns)
    return found.filter(*(found[key].notnull() for key in keys)) if keys else found


def past_events(events: ir.Table) -> ir.Table:
    """The events that a row can have in its past."""
    return events.filter(events[CONTRIBUTES], events[MOMENT].notnull())


def midnight(moment: ir.Value) -> ir.IntegerValue:
    """The midnight (UTC) that begins the day of a time in microseconds."""
    # Not by division, which is of floating point: far from 1970 it would round a day's last microsecond up.
    return moment - (moment % DAY_MICROSECONDS + DAY_MICROSECONDS) % DAY_MICROSECONDS


def moment_before(moment: ir.Value, before: Before) -> ir.IntegerValue:
    """The time that all the past is strictly before."""
    return midnight(moment) if before is Before.DAY else moment


def days_between(earlier: ir.Value, later: ir.Value, before: Before) -> ir.FloatingValue:
    """Days from a time of the past to a row's, float64; whole ones, by the calendar, where the past ends with a day."""
    return (later - moment_before(earlier, before)) / DAY_MICROSECONDS


def whole_days(earlier: ir.Value, later: ir.Value, before: Before) -> ir.IntegerValue:
    """The days that have passed, int64."""
    passed = later - moment_before(earlier, before)
    return ((passed - passed % DAY_MICROSECONDS) / DAY_MICROSECONDS).cast("int64")
