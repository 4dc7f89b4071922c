"""Raw rows by UTC day: of files that come, grow and are replaced, only what changed is read again.

Every day has a fingerprint of its rows, whatever files they stand in and in whatever order: the number of rows and the
sum of their hashes. A file that did not change is not opened; one that did is read once for the fingerprints of its
days, and the days that changed are written anew, as Parquet with the types that the columns have over all files.
"""

import datetime
import json
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import parquet_rows, quoted, quoted_name, temporary_database, view
from recsys.datasets.event_tables import reader_of
from recsys.datasets.table_files import ROW_HASH, TableFile, find_files, require_different_files, shown_files
from recsys.datasets.table_layout import TableLayout
from recsys.datasets.table_reading import FILE, TableReader
from recsys.datasets.table_shape import TableShape
from recsys.errors import DataError
from recsys.features.column_names import OWN_PREFIX
from recsys.features.schema import FeatureSchema
from recsys.files import fingerprint_of, published_directory, sha256_of_file, write_text_atomically
from recsys.locks import held_lock
from recsys.progress import Progress

_INDEX = "index.json"
_DAY = f"{OWN_PREFIX}day"
_NOTHING = '"NULL"'
"""DuckDB's type of a column that has no value in any row."""


class KnownDigests:
    """Digests of files, read once until the file changes, as its size, its times and its place on the disk tell."""

    def __init__(self, known: Mapping[str, Sequence[Any]]) -> None:
        self._known, self.met = known, dict[str, list[Any]]()

    def __call__(self, path: Path) -> str:
        """Return the file's digest, "sha256:..."."""
        found = path.stat()
        state = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
        *before, digest = self._known.get(str(path), [""])
        self.met[str(path)] = [*state, digest if before == state else sha256_of_file(path)]
        return str(self.met[str(path)][-1])


@dataclass
class _Index:
    """What stands in the folder.

    Attributes:
        digests: of every file, as `KnownDigests` has them.
        files: name -> its digest, and its days with the number of their rows and the sum of their hashes.
        types: column -> DuckDB's type.
        days: day -> its fingerprint and its folder.
    """

    digests: dict[str, list[Any]] = field(default_factory=dict)
    files: dict[str, tuple[str, dict[str, tuple[int, int]]]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    days: dict[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "_Index":
        """Read the index of a folder; an empty one where there is none."""
        try:
            return cls(**json.loads((folder / _INDEX).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            # None yet, or a torn one: all is read again.
            return cls()

    def save(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        write_text_atomically(folder / _INDEX, json.dumps(asdict(self)) + "\n")


@dataclass(frozen=True)
class DayFiles:
    """The rows of all days.

    Attributes:
        fingerprints: of each day's rows, in the order of the days.
        digest: of a file that lies below the raw folder too, such as a side table.
        where: the raw files, for messages.
    """

    folder: Path
    types: Mapping[str, str]
    fingerprints: Mapping[datetime.date, str]
    digest: KnownDigests
    where: str
    _places: Mapping[datetime.date, str]

    def rows(self, connection: Backend, since: datetime.date | None, before: datetime.date) -> ir.Table:
        """Return the rows as a `TableReader` does, of the days from `since` (None: the first) to before `before`."""
        days = [day for day in self.fingerprints if day < before and (since is None or day >= since)]
        files = [file for day in days for file in sorted((self.folder / self._places[day]).glob("*.parquet"))]
        columns = [
            f"NULL AS {quoted_name(name)}" if form == _NOTHING or not files else quoted_name(name)
            for name, form in self.types.items()
        ]
        if files:
            return view(connection, "day_files", f"SELECT {', '.join(columns)} FROM {parquet_rows(files)}")
        typed = [f"CAST(NULL AS {form}) AS {quoted_name(name)}" for name, form in self.types.items()]
        return view(connection, "day_files", f"SELECT {', '.join(typed)} WHERE false")


def gathered(
    folder: Path,
    raw: Path,
    layout: TableLayout,
    schema: FeatureSchema,
    *,
    memory_limit: str,
    threads: int,
    progress: Progress,
) -> DayFiles:
    """Bring `folder` up to what the events' files below `raw` hold now.

    Raises:
        DataError: see `find_files` and `TableReader.read`; or labelled rows have no time.
        CannotWriteError: `folder` cannot be written.
    """
    with held_lock(folder / ".lock", f"The raw rows by day in {folder}", wait_seconds=-1):
        index = _Index.load(folder)
        digests = KnownDigests(index.digests)
        files = find_files(raw, layout.files, progress, digests)
        current = {file.name: file.sha256 for file in files}
        index.days = {day: found for day, found in index.days.items() if (folder / found[1]).is_dir()}
        is_whole = index.days.keys() == {day for _, days in index.files.values() for day in days}
        if not is_whole or current != {name: digest for name, (digest, _) in index.files.items()}:
            with temporary_database(folder, memory_limit, threads) as connection:
                _Gathering(connection, folder, raw, layout, schema, index, files).bring_up_to_date()
        index.digests = digests.met
        index.save(folder)
        _remove_old(folder, {place for _, place in index.days.values()})
    days = {datetime.date.fromisoformat(day): found for day, found in sorted(index.days.items())}
    return DayFiles(
        folder,
        index.types,
        {day: fingerprint for day, (fingerprint, _) in days.items()},
        digests,
        shown_files(files),
        {day: place for day, (_, place) in days.items()},
    )


class _OtherTypesError(Exception):
    """Some files have columns or types that all files together would not have."""


@dataclass
class _Gathering:
    """One bringing up to date of an index and its folder."""

    connection: Backend
    folder: Path
    raw: Path
    layout: TableLayout
    schema: FeatureSchema
    index: _Index
    files: Sequence[TableFile]
    _readings: int = 0

    def bring_up_to_date(self) -> None:
        """Write the days that changed anew; all of them where a column has another type now."""
        try:
            self._read_what_changed()
        except _OtherTypesError:
            # What was an id of digits may be a text now, and then it is one in the files of before too.
            self.index.types, self.index.files = {}, {}
            self._read_what_changed()

    def _read_what_changed(self) -> None:
        index, rows = self.index, None
        known = {file.name for file in self.files if index.files.get(file.name, ("",))[0] == file.sha256}
        changed = [file for file in self.files if file.name not in known]
        index.files = {name: entry for name, entry in index.files.items() if name in known}
        if changed:
            rows, names = self._read(changed)
            index.files |= self._counted(rows, names, changed)
        # A copy may have come on another day than the file itself.
        rows_of = {file.path: sum(rows for rows, _ in index.files[file.name][1].values()) for file in self.files}
        require_different_files(self.files, rows_of)
        totals = self._totals()
        stale = [day for day, found in totals.items() if index.days.get(day, ("",))[0] != found]
        if stale:
            needed = [file for file in self.files if not index.files[file.name][1].keys().isdisjoint(stale)]
            if rows is None or not {file.name for file in needed} <= {file.name for file in changed}:
                rows, _ = self._read(needed)
            place = self._write(rows, {day: totals[day] for day in stale})
            index.days |= {day: (totals[day], f"{place}/{_DAY}={day}") for day in stale}
        index.days = {day: found for day, found in index.days.items() if day in totals}

    def _read(self, files: Sequence[TableFile]) -> tuple[ir.Table, dict[str, str]]:
        """Read files with the types of the index; also the files' names by their paths."""
        reader = self._reader()
        rows = reader.read(self.connection, files)
        types = self._types(rows)
        expected = self.index.types
        is_like = types.keys() == expected.keys() and all(types[n] in (expected[n], _NOTHING) for n in types)
        if expected and not is_like:
            raise _OtherTypesError
        self.index.types = expected or types
        return rows, {str(reader.path_of(self.connection, file)): file.name for file in files}

    def _reader(self) -> TableReader:
        self._readings += 1
        reader = reader_of(self.raw, self.layout, self.schema)
        return replace(reader, name=f"reading_{self._readings}", names_files=True)

    def _types(self, rows: ir.Table) -> dict[str, str]:
        described = self.connection.raw_sql(f"DESCRIBE {quoted_name(rows.get_name())}").fetchall()
        return {name: form for name, form, *_ in described if name != FILE}

    def _dated(self, rows: ir.Table) -> ir.Table:
        time = TableShape(rows, self.layout, self.schema, shown_files(self.files)).time()
        return rows.mutate(**{_DAY: time.date().cast("string")})

    def _counted(
        self, rows: ir.Table, names: Mapping[str, str], files: Sequence[TableFile]
    ) -> dict[str, tuple[str, dict[str, tuple[int, int]]]]:
        dated = self._dated(rows)
        counted = dated.group_by([FILE, _DAY]).aggregate(
            rows=dated.count(), hashes=dated[ROW_HASH].cast("decimal(38, 0)").sum()
        )
        found = {file.name: (file.sha256, dict[str, tuple[int, int]]()) for file in files}
        for path, day, number, hashes in self.connection.raw_sql(self.connection.compile(counted)).fetchall():
            if day is not None:
                found[names[path]][1][day] = (int(number), int(hashes))
            elif self.layout.label:
                raise DataError(
                    f"{path}: {number} rows have no time; expected one in every row, as rows are kept by their days. "
                    f"Mend column `{self.layout.time.column if self.layout.time else ''}`, or take the rows out."
                )
        return found

    def _totals(self) -> dict[str, str]:
        """The fingerprint of each day, over all files."""
        rows, hashes = Counter[str](), Counter[str]()
        for _, days in self.index.files.values():
            rows.update({day: number for day, (number, _) in days.items()})
            hashes.update({day: total for day, (_, total) in days.items()})
        return {day: fingerprint_of([self.index.types, rows[day], str(hashes[day])]) for day in sorted(rows)}

    def _write(self, rows: ir.Table, days: Mapping[str, str]) -> str:
        found, expected = self._types(rows), self.index.types
        columns = {
            name: f"CAST(NULL AS {form})" if found[name] == _NOTHING else quoted_name(name)
            for name, form in expected.items()
            if form != _NOTHING
        }
        kept = view(self.connection, f"dated_{self._readings}", self.connection.compile(self._dated(rows)))
        selected = ", ".join(f"{value} AS {quoted_name(name)}" for name, value in columns.items())
        wanted = ", ".join(map(quoted, days))
        place = fingerprint_of(days)
        with published_directory(self.folder / place) as work:
            self.connection.raw_sql(
                f"COPY (SELECT {selected}, {quoted_name(_DAY)} FROM {quoted_name(kept.get_name())} "
                f"WHERE {quoted_name(_DAY)} IN ({wanted})) TO {quoted(str(work.absolute()))} "
                f"(FORMAT parquet, PARTITION_BY ({quoted_name(_DAY)}), OVERWRITE_OR_IGNORE)"
            )
        return place


def _remove_old(folder: Path, places: Collection[str]) -> None:
    """Remove the days that no index names any more."""
    for leftover in folder.glob(".*.partial"):
        # Of a process that was killed: whoever holds the lock is the only one to write here.
        shutil.rmtree(leftover, ignore_errors=True)
    for batch in (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for day in batch.iterdir():
            if f"{batch.name}/{day.name}" not in places:
                shutil.rmtree(day, ignore_errors=True)
        if not any(batch.iterdir()):
            batch.rmdir()
