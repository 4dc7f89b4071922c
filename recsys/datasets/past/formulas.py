"""Features as formulas over the quantities that were counted."""

from collections.abc import Callable
from dataclasses import dataclass

import ibis.expr.types as ir

from recsys.datasets.past.keys import days_between, moment_before
from recsys.datasets.past.past_feature import MOMENT, PastFeature, PastKind
from recsys.datasets.past.points import Group
from recsys.datasets.past.quantities import Measure, Quantity

_PLAIN = {
    PastKind.COUNT: Measure.ROWS,
    PastKind.SUM: Measure.SUM,
    PastKind.DISTINCT: Measure.DISTINCT,
    PastKind.MINIMUM: Measure.MINIMUM,
    PastKind.MAXIMUM: Measure.MAXIMUM,
    PastKind.DAYS_SINCE_FIRST: Measure.FIRST,
    PastKind.DAYS_SINCE_LAST: Measure.LAST,
}


@dataclass(frozen=True)
class Part:
    """One number that a feature is made of: a quantity of the events with a row's keys."""

    group: Group
    quantity: Quantity


def parts_of(feature: PastFeature) -> list[Part]:
    """The parts in the order in which `value_of` takes them."""
    own, of = feature.by, feature.of
    if feature.kind is PastKind.MEAN:
        keys = [own, ()] if feature.prior_rows else [own]
        return [_part(feature, by, measure, of) for by in keys for measure in (Measure.SUM, Measure.COUNTED)]
    if feature.kind is PastKind.SHARE:
        others = tuple(name for name in own if name not in feature.within)
        keys = [own, feature.within, others, ()] if feature.prior_rows else [own, feature.within]
        return [_part(feature, by, Measure.ROWS) for by in keys]
    return [_part(feature, own, _PLAIN[feature.kind], of)]


def value_of(feature: PastFeature, rows: ir.Table, number: Callable[[Part], ir.Value]) -> ir.Value:
    """The feature of each row.

    Args:
        rows: has the time.
        number: the rows' column of a part.
    """
    values = [number(part) for part in parts_of(feature)]
    if feature.kind in (PastKind.MEAN, PastKind.SHARE):
        return _smoothed(feature.prior_rows, *values)
    if feature.kind in (PastKind.DAYS_SINCE_FIRST, PastKind.DAYS_SINCE_LAST):
        return days_between(values[0], moment_before(rows[MOMENT], feature.before), feature.before)
    return values[0]


def _part(feature: PastFeature, by: tuple[str, ...], measure: Measure, of: str = "") -> Part:
    keys = tuple(sorted(by))
    if feature.folds or feature.leave_one_out:
        return Part(Group(keys, folds=feature.folds, leave_one_out=feature.leave_one_out), Quantity(measure, of))
    return Part(Group(keys, feature.before), Quantity(measure, of, feature.window, feature.ago))


def _smoothed(
    weight: float,
    total: ir.Value,
    rows: ir.Value,
    all_total: ir.Value | None = None,
    all_rows: ir.Value | None = None,
) -> ir.FloatingValue:
    """Additive smoothing of a group's mean toward that of the whole past; Micci-Barreca (2001), equation 5."""
    total = total.cast("float64")
    if all_total is not None and all_rows is not None:
        total = total + weight * (all_total / all_rows.nullif(0))
    return total / (rows + weight).nullif(0)
