"""Tables beside the events (items, users, prices that changed), joined to any rows that have their key."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import epoch_us, fetch, fetch_one, in_written_order, store
from recsys.datasets.declared_tables import Duplicates, SideTable
from recsys.datasets.past.opening import NOTHING_BEFORE, Opening, opening_name
from recsys.datasets.table_files import TableFile, find_files, shown_files
from recsys.datasets.table_forms import TIMESTAMP, moments_of
from recsys.datasets.table_reading import TableReader
from recsys.datasets.table_types import TextRules
from recsys.datasets.table_uses import Use
from recsys.errors import DataError
from recsys.features.column_names import OWN_PREFIX
from recsys.files import sha256_of_file
from recsys.progress import Progress

KEY, _FROM, _PLACE = (f"{OWN_PREFIX}side_{name}" for name in ("key", "from", "place"))
"""Columns of a stored side table: its key as text, since when a row holds, its place in the files."""


@dataclass(frozen=True)
class StoredSide:
    """A side table in the database.

    Attributes:
        rows: the key under `KEY`, since when a row holds under `_FROM` where the table is dated, and the columns.
    """

    name: str
    rule: SideTable
    rows: ir.Table

    @property
    def columns(self) -> list[str]:
        """The columns that it brings."""
        return [name for name in self.rows.columns if not name.startswith(OWN_PREFIX)]

    def joined(self, rows: ir.Table, moment: ir.IntegerValue | None) -> ir.Table:
        """Return `rows` with the table's columns, null where it has no row for the key.

        Args:
            moment: of each row, microseconds since 1970; needed by a dated table.
        """
        key = f"{OWN_PREFIX}join_key"
        keyed, side = rows.mutate(**{key: rows[self.rule.key].cast("string")}), self.rows
        if self.rule.time is None:
            joined = keyed.left_join(side, keyed[key] == side[KEY])
        else:
            at = f"{OWN_PREFIX}join_moment"
            keyed = keyed.mutate(**{at: moment})
            joined = keyed.asof_join(side, on=keyed[at] >= side[_FROM], predicates=keyed[key] == side[KEY])
        return joined.select(*rows.columns, *self.columns)


def read_sides(
    connection: Backend,
    raw: Path,
    rules: Mapping[str, SideTable],
    uses: Mapping[str, Use],
    progress: Progress,
    digest: Callable[[Path], str] = sha256_of_file,
) -> tuple[list[StoredSide], dict[str, str]]:
    """Read the side tables that have files; also the digest of each file.

    Args:
        uses: what the columns are used for, by the names that they have beside the events.
        digest: see `find_files`.

    Raises:
        DataError: see `find_files` and `TableReader.read`; or rows of one key are several and may not be.
    """
    found, digests = list[StoredSide](), dict[str, str]()
    for name, rule in rules.items():
        if not rule.files:
            continue
        files = find_files(raw, {"": rule.files}, progress, digest)
        digests |= {file.name: file.sha256 for file in files}
        own = {theirs: uses.get(ours, Use.ANY) for ours, theirs in rule.columns.items()}
        own = own or dict(uses)
        own[rule.own_key] = Use.ANY
        if rule.time:
            own[rule.time.column] = Use.TIME if rule.time.unit == TIMESTAMP else Use.NUMBER
        rules_of_text = TextRules(rule.csv.missing, rule.time.format if rule.time else "")
        reader = TableReader(raw, rule.csv, own, rules_of_text, name=f"side_{len(found)}")
        rows = reader.read(connection, files)
        found.append(_stored(connection, name, rule, rows, files))
    return found, digests


def side_of_events(
    connection: Backend,
    name: str,
    rule: SideTable,
    events: ir.Table,
    order: Sequence[str],
    opening: Opening = NOTHING_BEFORE,
) -> StoredSide:
    """Make a side table of the events' own first values, null left out; equal times are told apart by the value.

    Args:
        opening: the first values before these events.
    """
    _require_columns(events, [rule.key, *rule.columns.values()], name, "the events")
    grouped = events.filter(events[rule.key].notnull()).group_by(**{KEY: events[rule.key].cast("string")})
    firsts = {
        ours: events[theirs].first(order_by=[*(events[column] for column in order), events[theirs]])
        for ours, theirs in rule.columns.items()
    }
    since, kept = grouped.aggregate(**firsts), opening_name("side", name)
    if kept in opening.known:
        before = opening.known[kept].rename({f"{OWN_PREFIX}before_{column}": column for column in since.columns})
        both = since.outer_join(before, since[KEY] == before[f"{OWN_PREFIX}before_{KEY}"])
        since = both.select(**{name: both[f"{OWN_PREFIX}before_{name}"].coalesce(both[name]) for name in since.columns})
    stored = store(connection, f"{OWN_PREFIX}side_{name}", since)
    opening.keep(connection, kept, stored)
    return StoredSide(name, rule, stored)


def values_that_came_late(connection: Backend, side: StoredSide, opening: Opening) -> bool:
    """Whether a key of before the opening, which then had no value in a column, has one now."""
    before = opening.known.get(opening_name("side", side.name))
    if before is None or not side.columns:
        return False
    known = before.rename({f"{OWN_PREFIX}before_{column}": column for column in before.columns})
    both = side.rows.inner_join(known, side.rows[KEY] == known[f"{OWN_PREFIX}before_{KEY}"])
    came = [both[f"{OWN_PREFIX}before_{name}"].isnull() & both[name].notnull() for name in side.columns]
    late = both.filter(ibis.or_(*came))
    return bool(fetch_one(connection, late.aggregate(rows=late.count()))["rows"])


def _stored(connection: Backend, name: str, rule: SideTable, rows: ir.Table, files: Sequence[TableFile]) -> StoredSide:
    where = shown_files(files)
    columns = dict(rule.columns) or {
        column: column for column in rows.columns if not column.startswith(OWN_PREFIX) and column != rule.own_key
    }
    if rule.time and not rule.columns:
        columns.pop(rule.time.column, None)
    wanted = [rule.own_key, *columns.values(), *([rule.time.column] if rule.time else [])]
    _require_columns(rows, wanted, name, where)
    since = (
        {_FROM: epoch_us(moments_of(rows[rule.time.column], rule.time, where, f"table.tables.{name}.time"))}
        if rule.time
        else {}
    )
    kept = rows.filter(rows[rule.own_key].notnull()).select(
        **{KEY: rows[rule.own_key].cast("string"), _PLACE: ibis.row_number(), **since},
        **{ours: rows[theirs] for ours, theirs in columns.items()},
    )
    with in_written_order(connection):
        kept = store(connection, f"{OWN_PREFIX}read_{name}", kept)
    keys = [KEY, *since]
    _require_distinct(connection, name, rule, kept, keys, where)
    if rule.duplicates is not Duplicates.STOP:
        place = kept[_PLACE] if rule.duplicates is Duplicates.FIRST else -kept[_PLACE]
        rank = f"{OWN_PREFIX}rank"
        ranked = kept.mutate(**{rank: ibis.row_number().over(group_by=keys, order_by=place)})
        kept = ranked.filter(ranked[rank] == 0).drop(rank)
    return StoredSide(name, rule, store(connection, f"{OWN_PREFIX}side_{name}", kept.drop(_PLACE)))


def _require_distinct(
    connection: Backend, name: str, rule: SideTable, rows: ir.Table, keys: Sequence[str], where: str
) -> None:
    if rule.duplicates is not Duplicates.STOP:
        return
    counted = rows.group_by(keys).aggregate(rows=rows.count())
    several = fetch(connection, counted.filter(counted["rows"] > 1).order_by(keys).limit(1)).to_pylist()
    if several:
        raise DataError(
            f"{where}: the side table `{name}` has {several[0]['rows']} rows of {rule.own_key} {several[0][KEY]}; "
            f"expected one. Say which counts, `duplicates: first` or `last` under `table.tables.{name}`, or mend the "
            "file."
        )


def _require_columns(rows: ir.Table, wanted: Sequence[str], name: str, where: str) -> None:
    there = [column for column in rows.columns if not column.startswith(OWN_PREFIX)]
    if missing := [column for column in wanted if column not in there]:
        raise DataError(
            f"{where}: column `{missing[0]}` of the side table `{name}` is missing; found {', '.join(there)}. Rename "
            f"it in the file, or name another under `table.tables.{name}`."
        )
