"""How other tables are joined to the events: by a key that names one row there and stands in the events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ibis.backends.duckdb import Backend

from recsys.datasets.database import quoted_name
from recsys.datasets.schema_inference.column_profiles import ColumnKind, ColumnProfile, rows_of
from recsys.datasets.schema_inference.event_roles import EventRoles, Notes, Profiles
from recsys.datasets.schema_inference.raw_tables import RawTable
from recsys.datasets.schema_inference.role_words import Role, is_called, words_of

_LEAST_UNIQUE = 0.5
_LEAST_COVERED = 0.3


@dataclass(frozen=True)
class SideKey:
    """A table to join.

    Attributes:
        key: the events' column; column: the table's.
        time: the column from which on a row holds, of dated tables.
        repeated: keys that have several rows.
        covered: the share of the events' keys that the table has.
    """

    table: RawTable
    columns: Profiles
    key: str
    column: str
    time: ColumnProfile | None
    repeated: int
    covered: float


def find_sides(
    events: EventRoles, tables: Sequence[RawTable], profiles: Mapping[str, Profiles], connection: Backend, notes: Notes
) -> list[SideKey]:
    """The other tables that can be joined; of those that cannot, the notes say why."""
    found: list[SideKey] = []
    for table in tables:
        if table is events.table:
            continue
        if set(table.columns) == set(events.table.columns):
            notes.aside[table.name] = f"{_shown(table)}: other files with the columns of the events (`--events`)."
            continue
        side = _best_key(events, table, profiles[table.name], connection)
        if side is None:
            notes.aside[table.name] = (
                f"{_shown(table)}: no column of it names one row and stands in the events; it has "
                f"{', '.join(table.columns)}.{_hint(events, table, profiles[table.name], connection)}"
            )
            continue
        found.append(side)
    return _of_one_subject(events, found, notes)


def _of_one_subject(events: EventRoles, found: list[SideKey], notes: Notes) -> list[SideKey]:
    """Of tables with equal columns those whose files are called as the events' are."""
    kept = []
    for side in found:
        equals = [other for other in found if set(other.table.columns) == set(side.table.columns)]
        best = max(equals, key=lambda each: (len(each.table.subject & events.table.subject), each.covered))
        if side is best:
            kept.append(side)
        else:
            notes.aside[side.table.name] = f"{_shown(side.table)}: {_shown(best.table)} has the same columns."
    return kept


def _best_key(events: EventRoles, table: RawTable, columns: Profiles, connection: Backend) -> SideKey | None:
    found = []
    for key in _keys(events):
        for name, column in columns.items():
            if not column.is_id or not column.distinct or not _are_alike(key, name, events):
                continue
            unique = column.distinct / max(1, column.rows - column.missing)
            dated = _dated_by(table, columns, column, unique, connection)
            if unique < _LEAST_UNIQUE and dated is None:
                continue
            covered = _covered(events, key, table, name, connection)
            if covered >= _LEAST_COVERED:
                repeated = 0 if dated else _repeated(table, name, connection)
                found.append(SideKey(table, columns, key, name, dated, repeated, covered))
    return max(found, key=lambda side: (side.covered, words_of(side.key) == words_of(side.column)), default=None)


def _keys(events: EventRoles) -> list[str]:
    """Columns of the events by which a table may be joined: item and user before all others."""
    others = [
        name
        for name, column in events.columns.items()
        if name not in (events.user, events.item, events.time, events.position, *events.judged)
        and column.is_id
        and 1 < column.distinct < column.rows / 2
    ]
    return [events.item, events.user, *others]


def _are_alike(key: str, name: str, events: EventRoles) -> bool:
    """Whether two names may mean one thing: a column called `id` fits every key, others share a word or role."""
    mine, its = set(words_of(key)), set(words_of(name))
    if mine & its - {"id"} or its <= {"id", "key", "code"}:
        return True
    return key in (events.user, events.item)


def _dated_by(
    table: RawTable, columns: Profiles, key: ColumnProfile, unique: float, connection: Backend
) -> ColumnProfile | None:
    """The column from which on rows hold, where a key has several rows of different times.

    A few keys that stand twice are a mistake, unless the column is called after a beginning.
    """
    for time in columns.values():
        is_beginning = unique < _LEAST_UNIQUE or is_called(time.name, Role.BEGINNING)
        is_candidate = time.kind is ColumnKind.TIME and unique < 1 and is_beginning
        if is_candidate and _is_unique_with(table, key.name, time.name, connection):
            return time
    return None


def _is_unique_with(table: RawTable, name: str, time: str, connection: Backend) -> bool:
    both = f"{quoted_name(name)}, {quoted_name(time)}"
    ((pairs,),) = rows_of(connection, f"SELECT count(*) FROM (SELECT DISTINCT {both} FROM {quoted_name(table.view)})")
    return bool(pairs >= 0.99 * table.rows)


def _repeated(table: RawTable, name: str, connection: Backend) -> int:
    own, view = quoted_name(name), quoted_name(table.view)
    query = f"SELECT count(*) FROM (SELECT {own} FROM {view} WHERE {own} IS NOT NULL GROUP BY 1 HAVING count(*) > 1)"
    return int(rows_of(connection, query)[0][0])


def _covered(events: EventRoles, key: str, table: RawTable, name: str, connection: Backend, form: str = "{}") -> float:
    """The share of the events' keys that a table has, both brought to a form."""
    mine, its = (form.format(f"CAST({quoted_name(one)} AS VARCHAR)") for one in (key, name))
    ((share,),) = rows_of(
        connection,
        f"SELECT avg((k IN (SELECT {its} FROM {quoted_name(table.view)} WHERE {quoted_name(name)} IS NOT NULL))::INT) "
        f"FROM (SELECT DISTINCT {mine} AS k FROM {quoted_name(events.view)} WHERE {quoted_name(key)} IS NOT NULL)",
    )
    return float(share or 0)


def _hint(events: EventRoles, table: RawTable, columns: Profiles, connection: Backend) -> str:
    """What to mend where a key was written as a number and lost the zeros in front."""
    for key in (events.item, events.user):
        for name, column in columns.items():
            if column.is_id and events.columns[key].is_padded and not column.is_padded:
                covered = _covered(events, key, table, name, connection, "ltrim({}, '0')")
                if covered >= _LEAST_COVERED:
                    return (
                        f" `{name}` would fit `{key}` but for the zeros in front, which this file has lost: write it "
                        "again with ids as text."
                    )
    return ""


def _shown(table: RawTable) -> str:
    return table.files[0] if len(table.files) == 1 else f"{table.files[0]} and {len(table.files) - 1} more"
