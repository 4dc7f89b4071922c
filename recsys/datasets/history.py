"""Features that are counted from a row's past: smoothed means, counts, and the last items that a user liked.

The past of a row is what happened at a strictly earlier time: events of the same moment, the row itself among them,
are no part of it. So the same rule serves training rows and later ones, and no label reaches its own row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import store
from recsys.progress import Progress

ROW, MOMENT, CONTRIBUTES = "history_row", "history_moment", "history_contributes"
"""Columns that `add_history` needs: a number that only this row has, the time in microseconds, and whether the row
belongs to other rows' past (in the scope `train_only` only training rows do)."""

_BEFORE = {"rows": (None, -1)}


class HistoryKind(StrEnum):
    """What is told of the past."""

    MEAN = "mean"
    COUNT = "count"
    RECENT = "recent"


class HistoryScope(StrEnum):
    """Whose labels may be known: of every earlier row (as in live serving), or of earlier training rows alone."""

    LIVE = "live"
    TRAIN_ONLY = "train_only"


@dataclass(frozen=True)
class HistoryFeature:
    """One feature of the past.

    Attributes:
        by: the columns that a past row must share with this one. At most one is a list column: then a past row that
            shares k of the list's values counts k times.
        of: `mean`: the column that is averaged; `recent`: the column that is listed; `count`: empty.
        prior_rows: `mean`: how many rows of the mean over the whole past are added to a group's own.
        length: `recent`: how many of the last rows with label 1 are listed, oldest first.
    """

    name: str
    kind: HistoryKind
    by: tuple[str, ...]
    of: str = ""
    prior_rows: float = 0.0
    length: int = 0


def add_history(
    connection: Backend, rows: ir.Table, features: Sequence[HistoryFeature], label: str, progress: Progress
) -> ir.Table:
    """Return `rows` with a column per feature.

    A mean of nothing (no past at all, or no past of the group where `prior_rows` is 0) is null; a count is then 0 and
    a list empty. A row whose key is null has no past.

    Args:
        rows: a stored table with the columns `ROW`, `MOMENT`, `CONTRIBUTES`, and all that the features name.
        label: the column of labels, 0 or 1.
    """
    sums: dict[tuple[tuple[str, ...], str], ir.Table] = {}

    def past(by: tuple[str, ...], of: str) -> ir.Table:
        if (by, of) not in sums:
            sums[by, of] = store(connection, f"{rows.get_name()}_past_{len(sums)}", _past_sums(rows, by, rows[of]))
        return sums[by, of]

    parts = []
    for number, feature in enumerate(features):
        progress("counting the past", number, len(features))
        if feature.kind is HistoryKind.RECENT:
            told = _recent(rows, feature, label)
        elif feature.kind is HistoryKind.COUNT:
            table = past(feature.by, label)
            told = table.select(ROW, **{feature.name: table["past_rows"]})
        else:
            told = _smoothed_mean(past(feature.by, feature.of), past((), feature.of), feature)
        parts.append(store(connection, f"{rows.get_name()}_history_{number}", told))
    for part in parts:
        rows = rows.left_join(part, ROW).drop(f"{ROW}_right")
    return rows


def _past_sums(rows: ir.Table, by: tuple[str, ...], of: ir.Value) -> ir.Table:
    """(ROW, past_rows, past_sum): how many earlier rows of the row's group have a value in `of`, and their sum."""
    values = of.cast("float64")
    counts = rows[CONTRIBUTES] & values.notnull()
    # Whole numbers in both cases where labels are summed, so the sum does not depend on the order of addition.
    keyed = rows.select(
        ROW,
        MOMENT,
        counted=counts.ifelse(1, 0),
        value=counts.ifelse(values, 0.0),
        **{f"key_{place}": _key(rows[name]) for place, name in enumerate(by)},
    )
    keys = [f"key_{place}" for place in range(len(by))]
    # One line per group and moment first: then "rows before this line" is exactly "strictly earlier", and the window
    # needs no frame by range, which DuckDB evaluates far more slowly.
    moments = keyed.group_by([*keys, MOMENT]).aggregate(counted=keyed["counted"].sum(), value=keyed["value"].sum())
    before = ibis.window(group_by=keys, order_by=MOMENT, **_BEFORE)
    moments = moments.mutate(
        past_rows=moments["counted"].sum().over(before), past_sum=moments["value"].sum().over(before)
    )
    joined = keyed.inner_join(moments.drop("counted", "value"), [*keys, MOMENT])
    told = joined.group_by(ROW).aggregate(past_rows=joined["past_rows"].sum(), past_sum=joined["past_sum"].sum())
    whole = rows.select(ROW).left_join(told, ROW)
    return whole.select(ROW, past_rows=whole["past_rows"].fill_null(0), past_sum=whole["past_sum"].fill_null(0.0))


def _key(column: ir.Value) -> ir.Value:
    return column.unnest() if column.type().is_array() else column


def _smoothed_mean(group: ir.Table, everything: ir.Table, feature: HistoryFeature) -> ir.Table:
    """Additive smoothing of the group's mean toward that of the whole past; Micci-Barreca (2001), equation 5."""
    joined = group.left_join(everything, ROW, rname="all_{name}")
    prior = joined["all_past_sum"] / joined["all_past_rows"].nullif(0)
    weight = feature.prior_rows
    total = joined["past_sum"] + (weight * prior if weight else 0.0)
    return joined.select(ROW, **{feature.name: total / (joined["past_rows"] + weight).nullif(0)})


def _recent(rows: ir.Table, feature: HistoryFeature, label: str) -> ir.Table:
    """The last `length` values of `of` among the group's earlier rows with label 1, oldest first."""
    keys, values = list(feature.by), rows[feature.of]
    is_liked = (rows[label] == 1) & values.notnull()
    liked = rows.filter(rows[CONTRIBUTES] & is_liked)
    # The value itself breaks ties of time, so that equal data gives equal lists.
    order = [liked[MOMENT], liked[feature.of]]
    shelves = liked.group_by(keys).aggregate(values=liked[feature.of].collect(order_by=order))
    # A shelf is in time order, so what a row may see of it is its first `past_sum` values.
    seen = _past_sums(rows, feature.by, is_liked.ifelse(1, 0))
    joined = rows.select(ROW, *keys).left_join(shelves, keys).inner_join(seen, ROW)
    end = joined["past_sum"].cast("int64")
    chosen = joined["values"][ibis.greatest(end - feature.length, 0) : end]
    empty = ibis.literal([], type=joined["values"].type())
    return joined.select(ROW, **{feature.name: ibis.coalesce(chosen, empty)})
