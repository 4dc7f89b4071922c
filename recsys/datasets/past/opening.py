"""What the past had come to at a midnight: with it, no event before then is read again.

Whatever counts a past stores what it needs of the events so far under a name that says what it is, such as the last
line of each key's sums, and takes it up before it counts the events since. Both ways give the same bits: sums are
exact, and lists have one order.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import quoted, quoted_name, store
from recsys.features.column_names import OWN_PREFIX
from recsys.files import fingerprint_of


class OpeningOutgrownError(Exception):
    """What came since an opening changes what had come before it, so that all events have to be read."""


class Opening:
    """Tables by name, as they were at the opening, and, where the next one is wanted, as they are at the end.

    Args:
        known: stored tables; empty where nothing came before.
        is_continued: whether the next opening is made of this one and the events since.
    """

    def __init__(self, known: Mapping[str, ir.Table], *, is_continued: bool) -> None:
        self.known, self.is_continued = dict(known), is_continued
        self._kept = dict[str, ir.Table]()

    def taken_up(self, connection: Backend, name: str, rows: ir.Table) -> ir.Table:
        """Return `rows` and those of the opening that have this name; of equal columns and types."""
        if name not in self.known:
            return rows
        # Only the database knows how wide its sums and hashes are.
        rows = store(connection, str(ibis.util.gen_name("since")), rows)
        return ibis.union(rows, self.known[name].select(*rows.columns), distinct=False)

    def keep(self, connection: Backend, name: str, rows: ir.Table) -> None:
        """Store rows for the next opening, if there is to be one."""
        if self.is_continued and name not in self._kept:
            self._kept[name] = store(connection, str(ibis.util.gen_name("kept")), rows)

    def save(self, connection: Backend, path: Path) -> None:
        """Write what was kept as the database file `path`."""
        with _attached(connection, path, "READ_WRITE") as database:
            for name, rows in self._kept.items():
                # In ENUMs of its own no other database would know the values of.
                columns = ", ".join(_plain(column, rows) for column in rows.columns)
                kept = quoted_name(rows.get_name())
                connection.raw_sql(f"CREATE TABLE {database}.{quoted_name(name)} AS SELECT {columns} FROM {kept}")

    @classmethod
    def load(cls, connection: Backend, path: Path, *, is_continued: bool) -> "Opening":
        """Copy what `save` wrote into the connection's own database."""
        known = {}
        with _attached(connection, path, "READ_ONLY") as database:
            query = f"SELECT table_name FROM duckdb_tables() WHERE database_name = {quoted(database)}"
            for (name,) in connection.raw_sql(query).fetchall():
                own = str(ibis.util.gen_name("opening"))
                connection.raw_sql(f"CREATE TABLE {quoted_name(own)} AS FROM {database}.{quoted_name(name)}")
                known[name] = connection.table(own)
        return cls(known, is_continued=is_continued)


@contextmanager
def _attached(connection: Backend, path: Path, mode: str) -> Iterator[str]:
    name = "opening_file"
    connection.raw_sql(f"ATTACH {quoted(str(path.absolute()))} AS {name} ({mode})")
    try:
        yield name
    finally:
        connection.raw_sql(f"DETACH {name}")


NOTHING_BEFORE = Opening({}, is_continued=False)
"""For events that are all there were."""


def opening_name(kind: str, *what: Any) -> str:
    """The name of a table that is told from others of its kind by plain values."""
    return f"{kind}_{fingerprint_of([str(each) for each in what])}"


def mark_of(values: ir.Value) -> ir.IntegerValue:
    """64 bits that tell values apart, kept where the values themselves would be too wide."""
    # As text, since an ENUM's hash is another one.
    return (ibis.literal("") + values.cast("string")).hash()


def last_of(rows: ir.Table, keys: list[str], order: str, number: int) -> ir.Table:
    """The last so many rows of each key."""
    place = f"{OWN_PREFIX}place"
    latest = ibis.window(group_by=keys, order_by=rows[order].desc())
    ranked = rows.mutate(**{place: ibis.row_number().over(latest)})
    return ranked.filter(ranked[place] < number).drop(place)


def _plain(column: str, rows: ir.Table) -> str:
    form, own = rows[column].type(), quoted_name(column)
    if form.is_string():
        return f"CAST({own} AS VARCHAR) AS {own}"
    return f"CAST({own} AS VARCHAR[]) AS {own}" if form.is_array() and form.value_type.is_string() else own
