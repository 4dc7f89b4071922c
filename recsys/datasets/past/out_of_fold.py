"""Numbers for rows without a usable time: of all events but those of the row's own fold.

Where labels end with the training rows, the past of an early training row is short and that of every later row is the
whole training part: the same feature then says little in training and much in use, and a model learns to trust it too
little. Counted out of fold (as in Micci-Barreca (2001) and every target encoding since), a row that contributes sees
the events of all users but its own fold's, and any other row sees all: training rows are shown like those of new users.
"""

from collections.abc import Collection, Sequence

import ibis.expr.types as ir

from recsys.datasets.past.keys import key_names, keyed
from recsys.datasets.past.past_feature import CONTRIBUTES
from recsys.datasets.past.points import AT, Group
from recsys.datasets.past.quantities import Measure, Quantity, exact_of


def of_other_folds(points: ir.Table, events: ir.Table, group: Group, quantities: Collection[Quantity]) -> ir.Table:
    """Return the columns of `points` and a column `Quantity.column` each, a line per line of `points`.

    Sums are as `exact` has them.

    Args:
        points: AT (the fold), the keys and perhaps more.
    """
    keys = key_names(group.by)
    rows = events.filter(events[CONTRIBUTES])
    values = {
        one.column: exact_of(rows, one.of) if one.measure is Measure.SUM else rows[one.of]
        for one in quantities
        if one.of
    }
    single = keyed(rows, group.by, **{AT: group.fold_of(rows)}, **values)
    joined = points
    for one in quantities:
        own, everyone = _distinct(single, keys, one) if one.measure is Measure.DISTINCT else _added(single, keys, one)
        joined = _beside(joined, everyone, keys, f"all_{one.column}")
        joined = _beside(joined, own, [*keys, AT], f"own_{one.column}")
    everyone_but_own = {
        one.column: joined[f"all_{one.column}"].fill_null(0) - joined[f"own_{one.column}"].fill_null(0)
        for one in quantities
    }
    return joined.select(*points.columns, **everyone_but_own)


def _added(single: ir.Table, keys: Sequence[str], one: Quantity) -> tuple[ir.Table, ir.Table]:
    """What each fold of a key adds, and all of them together."""
    if one.measure is Measure.ROWS:
        value = single.count()
    else:
        values = single[one.column]
        value = values.count() if one.measure is Measure.COUNTED else values.sum()
    own = single.group_by([*keys, AT]).aggregate(value=value)
    return own, own.aggregate(value=own["value"].sum(), by=keys)


def _distinct(single: ir.Table, keys: Sequence[str], one: Quantity) -> tuple[ir.Table, ir.Table]:
    """How many values each fold of a key has alone, and how many the key has."""
    known = single.filter(single[one.column].notnull())
    found = known.group_by([*keys, one.column]).aggregate(last=known[AT].max(), **{AT: known[AT].min()})
    alone = found.filter(found["last"] == found[AT])
    own = alone.group_by([*keys, AT]).aggregate(value=alone.count())
    return own, found.aggregate(value=found.count(), by=keys)


def _beside(table: ir.Table, values: ir.Table, same: Sequence[str], name: str) -> ir.Table:
    values = values.rename({f"{name}_{key}": key for key in same}, **{name: "value"})
    predicates = [table[key] == values[f"{name}_{key}"] for key in same]
    joined = table.left_join(values, predicates) if predicates else table.cross_join(values)
    return joined.select(*table.columns, name)
