"""The past as plain Python, row by row and event by event: what the engine must equal."""

from itertools import product
from math import sqrt
from typing import Any

import numpy as np

from recsys.datasets.past import (
    AGE,
    AGE_DAYS,
    CONTRIBUTES,
    LABEL,
    MOMENT,
    ROW,
    UNIT,
    Before,
    ListedRows,
    PastFeature,
    PastKind,
)

Row = dict[str, Any]
DAY = 86_400_000_000


def naive_value(feature: PastFeature, row: Row, events: list[Row], features: list[PastFeature]) -> Any:
    """One feature of one row. Folds are taken to be so many that every user has one alone."""
    if feature.kind is PastKind.RECENT:
        return [event[1] for event in listed(feature, row, events)]
    if feature.kind is PastKind.CO_OCCURRENCE:
        to = next(one for one in features if one.name == feature.to)
        return affinity(feature, row, events, [event[0] for event in listed(to, row, events)])
    if feature.kind is PastKind.MEAN:
        return mean(feature, row, events)
    if feature.kind is PastKind.SHARE:
        return share(feature, row, events)
    per_key = keys_of(row, feature.by)
    found = [event for key in per_key for event in past(feature, row, events, feature.by, key)]
    values = [event[feature.of] for event in found if feature.of and event[feature.of] is not None]
    moments = [event[MOMENT] // DAY * DAY if feature.before is Before.DAY else event[MOMENT] for event in found]
    match feature.kind:
        case PastKind.COUNT:
            return len(found)
        case PastKind.SUM:
            return float(sum(values))
        case PastKind.MINIMUM:
            return min(map(float, values), default=None)
        case PastKind.MAXIMUM:
            return max(map(float, values), default=None)
        case PastKind.DISTINCT:
            return sum(
                len({event[feature.of] for event in past(feature, row, events, feature.by, key)} - {None})
                for key in per_key
            )
        case PastKind.DAYS_SINCE_LAST:
            return (asking(feature, row) - max(moments)) / DAY if moments else None
        case _:
            return (asking(feature, row) - min(moments)) / DAY if moments else None


def keys_of(row: Row, by: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """The keys of a row: one, none if a part is null, several for the values of a list."""
    parts = [row[name] if isinstance(row[name], list) else [row[name]] for name in by]
    return [key for key in product(*parts) if None not in key]


def asking(feature: PastFeature, row: Row) -> Any:
    """The time that the past ends before."""
    return row[MOMENT] // DAY * DAY if feature.before is Before.DAY else row[MOMENT]


def past(feature: PastFeature, row: Row, events: list[Row], by: tuple[str, ...], key: tuple[Any, ...]) -> list[Row]:
    """The events of a key, each as often as it holds the key."""
    known = [event for event in events if event[CONTRIBUTES]]
    if feature.folds:
        seen = [event for event in known if not row[CONTRIBUTES] or event[UNIT] != row[UNIT]]
    elif feature.leave_one_out:
        seen = [event for event in known if not row[CONTRIBUTES] or event[ROW] != row[ROW]]
    elif row[MOMENT] is None:
        seen = []
    else:
        end = asking(feature, row) - feature.ago
        seen = [event for event in known if event[MOMENT] is not None and event[MOMENT] < end]
        seen = [event for event in seen if not feature.window or event[MOMENT] >= end - feature.window]
    return [event for event in seen for other in keys_of(event, by) if other == key]


def total(feature: PastFeature, row: Row, events: list[Row], by: tuple[str, ...]) -> tuple[float, int]:
    found = [event for key in keys_of(row, by) for event in past(feature, row, events, by, key)]
    values = [event[feature.of] for event in found if event[feature.of] is not None] if feature.of else [1] * len(found)
    return float(sum(values)), len(values)


def mean(feature: PastFeature, row: Row, events: list[Row]) -> float | None:
    (value, rows), (all_value, all_rows) = (total(feature, row, events, by) for by in (feature.by, ()))
    return smoothed(feature.prior_rows, value, rows, all_value, all_rows)


def share(feature: PastFeature, row: Row, events: list[Row]) -> float | None:
    others = tuple(name for name in feature.by if name not in feature.within)
    own, whole, other, everything = (
        total(feature, row, events, by)[1] for by in (feature.by, feature.within, others, ())
    )
    return smoothed(feature.prior_rows, own, whole, other, everything)


def smoothed(weight: float, value: float, rows: int, all_value: float, all_rows: int) -> float | None:
    if (weight and not all_rows) or not rows + weight:
        return None
    return (value + (weight * (all_value / all_rows) if weight else 0)) / (rows + weight)


def listed(feature: PastFeature, row: Row, events: list[Row]) -> list[tuple[Any, Any]]:
    """The listed values and what stands beside them."""
    value = feature.beside or feature.of
    found = [event for key in keys_of(row, feature.by) for event in past(feature, row, events, feature.by, key)]
    found = [event for event in found if event[value] is not None]
    if feature.rows is ListedRows.LIKED:
        found = [event for event in found if event[LABEL] == 1]
    if feature.distinct:
        last = {event[value]: event for event in sorted(found, key=lambda event: event[MOMENT])}
        found = sorted(last.values(), key=lambda event: (event[MOMENT], -event[value]))
    elif feature.leave_one_out:
        # What has no time is listed first.
        found = sorted(found, key=lambda event: (event[MOMENT] is not None, event[MOMENT], event[value], event[ROW]))
    else:
        found = sorted(found, key=lambda event: (event[MOMENT], event[value]))
    found = found[-feature.length :]
    if feature.of == AGE:
        return [(event[value], age(feature, row, event)) for event in found]
    if feature.of == AGE_DAYS:
        days = [DAY if feature.before is Before.DAY else 1] * len(found)
        return [
            (event[value], (asking(feature, row) - event[MOMENT] // day * day) // DAY)
            for event, day in zip(found, days, strict=True)
        ]
    return [(event[value], event[feature.of]) for event in found]


def age(feature: PastFeature, row: Row, event: Row) -> float | None:
    """How many days before the row an event was, below 0 if it was later."""
    if row[MOMENT] is None or event[MOMENT] is None:
        return None
    midnight_or_event = event[MOMENT] // DAY * DAY if feature.before is Before.DAY else event[MOMENT]
    return float(np.float32((asking(feature, row) - midnight_or_event) / DAY))


def affinity(feature: PastFeature, row: Row, events: list[Row], recent: list[Any]) -> float:
    (item,) = (row[name] for name in feature.by)
    if row[MOMENT] is None or item is None:
        return 0.0
    known = [event for event in events if event[CONTRIBUTES] and event[MOMENT] is not None]
    known = [event for event in known if event[MOMENT] < row[MOMENT] // DAY * DAY]
    groups: dict[Any, set[Any]] = {}
    for event in known:
        groups.setdefault(event[feature.of], set()).add(event[feature.together])
    groups = {value: {group for group in found if group is not None} for value, found in groups.items()}
    own = groups.get(item, set())
    return sum(
        len(groups[other] & own) / sqrt(len(groups[other])) / sqrt(len(own))
        for other in recent
        if other != item and groups.get(other) and own
    )
