"""Features that are counted from other rows: smoothed means, counts, and the last items that a user liked.

The past of a row is what happened at a strictly earlier time: events of the same moment, the row itself among them,
are no part of it. So the same rule serves training rows and later ones, and no label reaches its own row.

Where labels end with the training rows, the past of an early training row is short and that of every later row is the
whole training part: the same feature then says little in training and much in use, and a model learns to trust it too
little. A feature with `folds` is therefore counted out of fold (as in Micci-Barreca (2001) and every target encoding
since): a training row sees the training rows of all users but its own fold's, a later row sees all training rows.
Training rows are thereby shown like those of users who are new.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import store
from recsys.features.column_names import OWN_PREFIX
from recsys.progress import Progress

ROW, MOMENT, CONTRIBUTES = (f"{OWN_PREFIX}{name}" for name in ("history_row", "history_moment", "history_contributes"))
"""Columns that `add_history` needs: a number that only this row has, the time in microseconds, and whether the row
belongs to other rows' past (in the scope `train_only` only training rows do)."""

UNIT = f"{OWN_PREFIX}history_unit"
"""Column that a feature with `folds` needs: a number per user, never null. Rows of one user share a fold."""

_BEFORE = {"rows": (None, -1)}
_FOLD = f"{OWN_PREFIX}history_fold"


class HistoryKind(StrEnum):
    """What is computed from the past."""

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
        folds: `mean` and `count`: 0 counts the past; otherwise into how many folds the users are split, and a row that
            contributes sees those of the other folds whatever their time, any other row all that contribute.
    """

    name: str
    kind: HistoryKind
    by: tuple[str, ...]
    of: str = ""
    prior_rows: float = 0.0
    length: int = 0
    folds: int = 0


def add_history(
    connection: Backend, rows: ir.Table, features: Sequence[HistoryFeature], label: str, progress: Progress
) -> ir.Table:
    """Return `rows` with a column per feature.

    A mean of nothing (no past at all, or no past of the group where `prior_rows` is 0) is null; a count is then 0 and
    a list empty. A row whose key is null has no past.

    Args:
        rows: a stored table with the columns `ROW`, `MOMENT`, `CONTRIBUTES`, all that the features name, and `UNIT`
            where one has folds.
        label: the column of labels, 0 or 1.
    """
    sums: dict[tuple[tuple[str, ...], str, int], ir.Table] = {}

    def past(by: tuple[str, ...], of: str, folds: int) -> ir.Table:
        if (by, of, folds) not in sums:
            counted = _other_folds_sums(rows, by, rows[of], folds) if folds else _past_sums(rows, by, rows[of])
            sums[by, of, folds] = store(connection, f"{rows.get_name()}_past_{len(sums)}", counted)
        return sums[by, of, folds]

    parts = []
    for number, feature in enumerate(features):
        progress("counting the past", number, len(features))
        if feature.kind is HistoryKind.RECENT:
            column = _recent(rows, feature, label)
        elif feature.kind is HistoryKind.COUNT:
            table = past(feature.by, label, feature.folds)
            column = table.select(ROW, **{feature.name: table["past_rows"]})
        else:
            group, everything = (past(by, feature.of, feature.folds) for by in (feature.by, ()))
            column = _smoothed_mean(group, everything, feature)
        parts.append(store(connection, f"{rows.get_name()}_history_{number}", column))
    for part in parts:
        rows = rows.left_join(part, ROW).drop(f"{ROW}_right")
    return rows


def _past_sums(rows: ir.Table, by: tuple[str, ...], of: ir.Value) -> ir.Table:
    """(ROW, past_rows, past_sum): how many earlier rows of the row's group have a value in `of`, and their sum."""
    keyed, keys = _keyed(rows, by, of, MOMENT)
    # One line per group and moment first: then "rows before this line" is exactly "strictly earlier", and the window
    # needs no frame by range, which DuckDB evaluates far more slowly.
    moments = keyed.group_by([*keys, MOMENT]).aggregate(counted=keyed["counted"].sum(), value=keyed["value"].sum())
    before = ibis.window(group_by=keys, order_by=MOMENT, **_BEFORE)
    moments = moments.mutate(
        past_rows=moments["counted"].sum().over(before), past_sum=moments["value"].sum().over(before)
    )
    joined = keyed.inner_join(moments.drop("counted", "value"), [*keys, MOMENT])
    return _per_row(rows, joined, joined["past_rows"], joined["past_sum"])


def _other_folds_sums(rows: ir.Table, by: tuple[str, ...], of: ir.Value, folds: int) -> ir.Table:
    """As `_past_sums`, but of the rows of other folds; a row that does not contribute is in no fold and sees all."""
    # By hash, so that a user's fold depends on no other user, and users who arrived together lie in different folds.
    fold = ((rows[UNIT].hash() & ibis.literal(2**62 - 1)) % folds).name(_FOLD)
    keyed, keys = _keyed(rows.mutate(fold), by, of, _FOLD)
    lines = keyed.group_by([*keys, _FOLD]).aggregate(own_rows=keyed["counted"].sum(), own_sum=keyed["value"].sum())
    everyone = ibis.window(group_by=keys)
    lines = lines.mutate(all_rows=lines["own_rows"].sum().over(everyone), all_sum=lines["own_sum"].sum().over(everyone))
    joined = keyed.inner_join(lines, [*keys, _FOLD])
    hidden_rows, hidden_sum = (joined[CONTRIBUTES].ifelse(joined[own], 0) for own in ("own_rows", "own_sum"))
    return _per_row(rows, joined, joined["all_rows"] - hidden_rows, joined["all_sum"] - hidden_sum)


def _keyed(rows: ir.Table, by: tuple[str, ...], of: ir.Value, place: str) -> tuple[ir.Table, list[str]]:
    """Rows with a column per key, a list key unnested, and what each adds to its group; the names of those columns.

    Args:
        place: a column that goes along.
    """
    values = of.cast("float64")
    counts = rows[CONTRIBUTES] & values.notnull()
    keys = {f"key_{number}": _key(rows[name]) for number, name in enumerate(by)}
    # Whole numbers in both cases where labels are summed, so the sum does not depend on the order of addition.
    added = {"counted": counts.ifelse(1, 0), "value": counts.ifelse(values, 0.0)}
    return rows.select(ROW, CONTRIBUTES, place, **added, **keys), list(keys)


def _per_row(rows: ir.Table, joined: ir.Table, past_rows: ir.Value, past_sum: ir.Value) -> ir.Table:
    """Add up what the values of a list key brought; a row that has no key at all has 0."""
    sums = joined.group_by(ROW).aggregate(past_rows=past_rows.sum(), past_sum=past_sum.sum())
    whole = rows.select(ROW).left_join(sums, ROW)
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
    values = rows[feature.of]
    is_liked = (rows[label] == 1) & values.notnull()
    # Keys and values under names of our own: a user's column may be called anything.
    keys = {f"key_{number}": rows[name] for number, name in enumerate(feature.by)}
    keyed = rows.select(ROW, MOMENT, CONTRIBUTES, **keys, value=values, is_liked=is_liked)
    liked = keyed.filter(keyed[CONTRIBUTES] & keyed["is_liked"])
    # The value itself breaks ties of time, so that equal data gives equal lists.
    order = [liked[MOMENT], liked["value"]]
    listed = liked.group_by([*keys]).aggregate(values=liked["value"].collect(order_by=order))
    # A group's list is in time order, so what a row may see of it is its first `past_sum` values.
    seen = _past_sums(rows, feature.by, is_liked.ifelse(1, 0))
    joined = keyed.select(ROW, *keys).left_join(listed, [*keys]).inner_join(seen, ROW)
    end = joined["past_sum"].cast("int64")
    chosen = joined["values"][ibis.greatest(end - feature.length, 0) : end]
    empty = ibis.literal([], type=joined["values"].type())
    return joined.select(ROW, **{feature.name: ibis.coalesce(chosen, empty)})
