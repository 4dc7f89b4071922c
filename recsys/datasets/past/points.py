"""The rows asked about, each distinct key and time once: ten million rows have few of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import store
from recsys.datasets.past.keys import key_names, keyed, moment_before
from recsys.datasets.past.past_feature import CONTRIBUTES, FOLD_HASH, MOMENT, ROW, UNIT, Before
from recsys.datasets.past.standard_sql import unique_number
from recsys.features.column_names import OWN_PREFIX

AT = "at"
"""A point's column of its place: the time before which its past lies, or its fold."""

POINT = "point"
"""A point's number."""

NO_FOLD = -1


@dataclass(frozen=True)
class Group:
    """Features whose values are the same for rows of equal keys and place.

    Attributes:
        by: the columns of the keys, sorted.
        folds: 0 where the place is a time.
        leave_one_out: whether every row that contributes is a fold of its own.
    """

    by: tuple[str, ...]
    before: Before = Before.EVENT
    folds: int = 0
    leave_one_out: bool = False

    @property
    def is_out_of_fold(self) -> bool:
        """Whether rows see events whatever their time, but those of their own fold."""
        return self.leave_one_out or self.folds > 0

    def fold_of(self, rows: ir.Table) -> ir.IntegerValue:
        """The fold of each row: its user's, or its own."""
        if self.leave_one_out:
            return rows[ROW].cast("int64")
        return (rows[FOLD_HASH] if FOLD_HASH in rows.columns else fold_hash(rows)) % self.folds

    def place(self, asked: ir.Table) -> ir.IntegerValue:
        """Each row's place: null where it has no time."""
        if self.is_out_of_fold:
            return asked[CONTRIBUTES].ifelse(self.fold_of(asked), NO_FOLD)
        return moment_before(asked[MOMENT], self.before)


def fold_hash(rows: ir.Table) -> ir.IntegerValue:
    """A number per user, at least 0, that DuckDB makes of `UNIT`."""
    # By hash, so that a user's fold depends on no other user, and users who arrived together lie apart.
    return rows[UNIT].cast("int64").hash() & ibis.literal(2**62 - 1)


def unique_name() -> str:
    """The name of a table that no other has."""
    return str(ibis.util.gen_name("past"))


def store_points(connection: Backend, asked: ir.Table, group: Group, known: ir.Table) -> ir.Table:
    """Store (POINT, AT, the keys as the rows have them) of the rows that `known`, the events' keys, says have a past.

    Args:
        known: a column per key; a key that is a list is not looked up.
    """
    raw = dict(zip(key_names(group.by), group.by, strict=True))
    rows = asked.select(**{key: asked[name] for key, name in raw.items()}, **{AT: group.place(asked)})
    rows = rows.filter(*(rows[name].notnull() for name in rows.columns))
    # Before all else, as most pairs of ten million, such as a user and an item, never met.
    if plain := [key for key in raw if not rows[key].type().is_array()]:
        rows = rows.semi_join(known.select(*plain).distinct(), plain)
    distinct = rows.distinct()
    return store(connection, unique_name(), distinct.mutate(**{POINT: unique_number(distinct)}))


def keys_of_points(points: ir.Table, group: Group) -> ir.Table:
    """(POINT, AT, keys), a list key unnested."""
    names = key_names(group.by)
    return keyed(points, names, **{POINT: points[POINT], AT: points[AT]})


def has_list(points: ir.Table, group: Group) -> bool:
    """Whether one of the keys is a list."""
    return any(points[key].type().is_array() for key in key_names(group.by))


def join_points(rows: ir.Table, group: Group, values: ir.Table, columns: Mapping[str, str]) -> ir.Table:
    """Join columns of the points to the rows, null where a row is none of them.

    Args:
        rows: those asked about, and what was joined to them.
        values: the keys as the rows have them, AT and more.
        columns: those of `values` to be joined, and the names that they get.
    """
    keys = {key: f"{OWN_PREFIX}past_{key}" for key in (*key_names(group.by), AT)}
    right = values.select(**{name: values[column] for column, name in (keys | dict(columns)).items()})
    same = [rows[name] == right[keys[key]] for key, name in zip(key_names(group.by), group.by, strict=True)]
    joined = rows.left_join(right, [*same, group.place(rows) == right[keys[AT]]])
    return joined.drop(*keys.values())
