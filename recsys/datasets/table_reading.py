"""Files of a table, Parquet and CSV, read as one, with one type for each column.

Files of equal form make a part: a view of the database, whose columns are as the files have them. The whole is the
union of the parts, cast to the types that `table_types` finds over all of them. Nothing is read before that is settled
but footers, headers and the columns that are text.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from recsys.datasets.database import folder_of, load, parquet_rows, quoted, quoted_name, view
from recsys.datasets.table_csv import (
    csv_columns,
    csv_rows,
    explain,
    header_of,
    line_of,
    readable,
    require_every_record,
    require_one_header,
)
from recsys.datasets.table_files import FILE_SPLIT, ROW_HASH, TableFile, require_different_files, shown_files
from recsys.datasets.table_forms import CsvForm
from recsys.datasets.table_types import (
    MOMENT,
    TIMESTAMP,
    VARCHAR,
    TextRules,
    Texts,
    UnfitTextError,
    Written,
    is_moment,
    parquet_type,
    plain_type,
    type_of_text,
)
from recsys.datasets.table_uses import Use
from recsys.errors import DataError, UsageError
from recsys.features.column_names import OWN_PREFIX

FILE = f"{OWN_PREFIX}file"
"""The column of a table's rows with the path of their file, where a reader names it."""
_TEXT = "text"
"""In place of a plain type: columns of CSV files and of folders, which have none."""


@dataclass(frozen=True)
class _Part:
    """Files of one split and one form, as the view `name`.

    Attributes:
        columns: name -> plain type, or `_TEXT`.
    """

    name: str
    files: list[TableFile]
    columns: Mapping[str, str]

    @property
    def is_csv(self) -> bool:
        return self.files[0].is_csv

    @property
    def own(self) -> list[str]:
        """The columns that stand in the files, and not in the names of their folders."""
        return [name for name in self.columns if name not in self.files[0].folders]


@dataclass(frozen=True)
class TableReader:
    """Reads files by what is declared of them.

    Attributes:
        raw: the folder in which they lie.
        uses: the columns that are used, and what for; all others are passed on as they are found.
        apart: a column in which rows of two splits differ whatever else they hold; no part of their hash.
        name: of the views that are made in the database.
        names_files: whether rows tell under `FILE` from which file they are, as `path_of` has it.
    """

    raw: Path
    csv: CsvForm
    uses: Mapping[str, Use]
    rules: TextRules
    apart: str = ""
    name: str = "table"
    names_files: bool = False
    _opened: dict[Path, Path] = field(default_factory=dict)

    def read(self, connection: Backend, files: Sequence[TableFile]) -> ir.Table:
        """Return the rows of the files, with `FILE_SPLIT` and `ROW_HASH`.

        Raises:
            DataError: files cannot be read, differ in their columns or types, or hold values that fit no reading.
        """
        self._require_format(connection)
        parts = self._parts(connection, files)
        names = _common_names(parts, self.uses)
        types = self._types(connection, parts, names)
        hashed = ", ".join(quoted_name(name) for name in names if name != self.apart) or "0"
        selects = [self._select(part, names, types) for part in parts]
        query = f"SELECT *, hash({hashed}) AS {quoted_name(ROW_HASH)} FROM ({' UNION ALL '.join(selects)})"
        return view(connection, f"{self.name}_files", query)

    def _parts(self, connection: Backend, files: Sequence[TableFile]) -> list[_Part]:
        columns, rows = {}, {}
        for file in files:
            own, rows[file.path] = self._own_columns(file)
            columns[file] = _with_folders(file, own)
        require_different_files(files, rows)
        grouped: dict[tuple[object, ...], list[TableFile]] = {}
        for file in files:
            delimiter = self.csv.delimiter_of(file.path) if file.is_csv else None
            key = (file.split, delimiter, tuple(file.folders), *columns[file].items())
            grouped.setdefault(key, []).append(file)
        if any(file.folders for file in files):
            self._load_folders(connection, files)
        parts = []
        for number, same in enumerate(grouped.values()):
            part = _Part(f"{self.name}_part_{number}", same, columns[same[0]])
            view(connection, part.name, self._rows(connection, part))
            parts.append(part)
        return parts

    def _own_columns(self, file: TableFile) -> tuple[dict[str, str], int]:
        """The columns inside of a file with their plain types, and how many rows it has (of CSV: whether any)."""
        if file.is_csv:
            names = header_of(file, self.csv)
            if len(names) == 1 and (other := re.search(r"[;\t|,]", names[0])):
                raise DataError(
                    f"{file.path} has one column, {names[0]!r}; expected several, between "
                    f"{self.csv.delimiter_of(file.path)!r}. If they stand between {other[0]!r}, say so in the schema: "
                    f"`table.csv.delimiter: {other[0]!r}`."
                )
            return dict.fromkeys(names, _TEXT), file.path.stat().st_size
        try:
            footer = pq.read_metadata(file.path)
            schema = footer.schema.to_arrow_schema()
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file.path} cannot be read as Parquet ({error}). Write it or copy it again.") from error
        return {column.name: plain_type(column.type) for column in schema}, footer.num_rows

    def _load_folders(self, connection: Backend, files: Sequence[TableFile]) -> None:
        names = dict.fromkeys(name for file in files for name in file.folders)
        columns: dict[str, list[str | None]] = {FILE: [str(self.path_of(connection, file)) for file in files]}
        columns |= {name: [file.folders.get(name) for file in files] for name in names}
        load(
            connection,
            f"{self.name}_folders",
            pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()}),
        )

    def path_of(self, connection: Backend, file: TableFile) -> Path:
        """Where the database finds a file: without links and `..` above, so that it names it as we do."""
        if file.path not in self._opened:
            path = self.raw.resolve() / file.name
            self._opened[file.path] = readable(path, self.csv, folder_of(connection)) if file.is_csv else path
        return self._opened[file.path]

    def _rows(self, connection: Backend, part: _Part) -> str:
        folders = part.files[0].folders
        paths = [self.path_of(connection, file) for file in part.files]
        more = f", filename={quoted(FILE)}" if folders or self.names_files else ""
        if part.is_csv:
            rows = csv_rows(paths, part.own, self.csv.delimiter_of(part.files[0].path), more)
            columns = csv_columns(part.own)
        else:
            # NaN is declared, as DuckDB otherwise skips row groups whose statistics rule out a match.
            rows = parquet_rows(paths, f", can_have_nan=true{more}")
            columns = [quoted_name(name) for name in part.own]
        columns += [quoted_name(FILE)] if self.names_files else []
        if not folders:
            return f"SELECT {', '.join(columns)} FROM {rows}"
        table = f"{self.name}_folders"
        columns += [f"{table}.{quoted_name(name)}" for name in folders]
        return f"SELECT {', '.join(columns)} FROM {rows} files JOIN {table} USING ({quoted_name(FILE)})"

    def _types(self, connection: Backend, parts: Sequence[_Part], names: Sequence[str]) -> dict[str, str]:
        """Name -> the DuckDB type that text takes, `MOMENT`, or nothing for a column that stays as it is."""
        texts = self._texts(connection, parts, names)
        types = {}
        for name in names:
            typed = [(str(file.path), part.columns[name]) for part in parts for file in part.files[:1]]
            found = parquet_type(name, [pair for pair in typed if pair[1] != _TEXT])
            if name not in texts:
                types[name] = MOMENT if found == MOMENT else VARCHAR if any(form == _TEXT for _, form in typed) else ""
                continue
            beside = "" if found == "string" and self.uses[name] is Use.TIME else found
            try:
                types[name] = type_of_text(name, self.uses[name], texts[name], self.rules, beside)
            except UnfitTextError:
                raise self._unfit(connection, parts, name, beside) from None
        return types

    def _unfit(self, connection: Backend, parts: Sequence[_Part], name: str, beside: str) -> DataError:
        """What is to be said of a column without a type, for which its values are looked at once more."""
        whole = self._texts(connection, parts, [name], with_examples=True)[name]
        try:
            type_of_text(name, self.uses[name], whole, self.rules, beside)
        except UnfitTextError as error:
            every = [file for part in parts for file in part.files]
            files = [file for part in parts if part.columns[name] == _TEXT for file in part.files]
            where = line_of(files, self.csv, name, error.value) if files else shown_files(every)
            return DataError(f"{where}: {error.message}")
        raise AssertionError(f"the values of column {name} fit no type, and then one")

    def _texts(
        self, connection: Backend, parts: Sequence[_Part], wanted: Sequence[str], with_examples: bool = False
    ) -> dict[str, Texts]:
        """How the values of each used column that is text somewhere are written, over all files."""
        found: dict[str, Texts] = {}
        for part in parts:
            names = [name for name in wanted if name in self.uses and self._is_text(name, part)]
            for name, texts in self._texts_of(connection, part, names, with_examples).items():
                found[name] = found.get(name, Texts()) + texts
        return found

    def _is_text(self, name: str, part: _Part) -> bool:
        return part.columns[name] == _TEXT or (part.columns[name] == "string" and self.uses[name] is Use.TIME)

    def _texts_of(
        self, connection: Backend, part: _Part, names: Sequence[str], with_examples: bool
    ) -> dict[str, Texts]:
        """Those of one part; CSV files, which are read from end to end here, are refused where a row would be lost."""
        if not names and not part.is_csv:
            return {}
        try:
            ((rows, headers, *found),) = connection.raw_sql(self._counting(part, names, with_examples)).fetchall()
        except duckdb.InvalidInputException as error:
            if not part.is_csv:
                raise DataError(f"{shown_files(part.files)} cannot be read ({error}). Write them again.") from error
            paths = [self.path_of(connection, file) for file in part.files]
            raise explain(error, connection, part.files, paths, self.csv) from error
        if part.is_csv:
            require_every_record(part.files, self.csv, rows)
        if headers:
            require_one_header(part.files, part.own, self.csv)
        if not with_examples:
            return {name: Texts.of_ways(ways or 0) for name, ways in zip(names, found, strict=True)}
        ways = len(Written)
        counts, examples = found[::2], found[1::2]
        cuts = [slice(place * ways, (place + 1) * ways) for place in range(len(names))]
        return {name: Texts(tuple(counts[cut]), tuple(examples[cut])) for name, cut in zip(names, cuts, strict=True)}

    def _counting(self, part: _Part, names: Sequence[str], with_examples: bool) -> str:
        """SQL: rows, those that look like a header, and of each column a bit for each way in which a value is written.

        With examples: in place of the bits, of each column and way the count and an example, which takes far longer.
        """
        first = part.own[0] if part.is_csv and part.own else ""
        is_header = f"{quoted_name(first)} = {quoted(first)}" if first else "false"
        texts = [f"{self.rules.filled(quoted_name(name))} AS v{place}" for place, name in enumerate(names)]
        ways = [
            f"v{place}, {self.rules.way(f'v{place}', self.uses[name])} AS w{place}" for place, name in enumerate(names)
        ]
        wanted = ["count(*)", "count_if(is_header)"]
        for place, name in enumerate(names):
            if not with_examples:
                wanted.append(f"bit_or(1 << w{place})")
                continue
            for way in Written:
                condition = f"w{place} = {way}"
                wanted += [
                    f"count(*) FILTER ({condition})",
                    self.rules.example(f"v{place}", self.uses[name], condition),
                ]
        filled = f"SELECT {', '.join([f'{is_header} AS is_header', *texts])} FROM {part.name}"
        return f"SELECT {', '.join(wanted)} FROM (SELECT {', '.join(['is_header', *ways])} FROM ({filled}))"

    def _select(self, part: _Part, names: Sequence[str], types: Mapping[str, str]) -> str:
        columns = [f"{self._value(name, part, types[name])} AS {quoted_name(name)}" for name in names]
        columns += [quoted_name(FILE)] if self.names_files else []
        split = quoted(part.files[0].split) if part.files[0].split else "NULL"
        return f"SELECT {', '.join(columns)}, CAST({split} AS VARCHAR) AS {quoted_name(FILE_SPLIT)} FROM {part.name}"

    def _value(self, name: str, part: _Part, form: str) -> str:
        column = quoted_name(name)
        if not form:
            return column
        if part.columns[name] == _TEXT or (form == TIMESTAMP and part.columns[name] == "string"):
            return self.rules.read(column, form)
        if part.columns[name].startswith("timestamp") and "tz=" in part.columns[name]:
            return f"make_timestamp(epoch_us(CAST({column} AS TIMESTAMPTZ)))"
        return f"CAST({column} AS {TIMESTAMP if is_moment(part.columns[name]) else form})"

    def _require_format(self, connection: Backend) -> None:
        form = self.rules.time_format
        try:
            if form:
                connection.raw_sql(f"SELECT try_strptime('', {quoted(form)})").fetchall()
        except duckdb.InvalidInputException as error:
            raise UsageError(
                f"`table.time.format` is {form!r}, which DuckDB's strptime does not know: {error}. "
                "Expected a format such as %d/%m/%Y %H:%M."
            ) from error


def _with_folders(file: TableFile, own: Mapping[str, str]) -> dict[str, str]:
    """The columns of a file and those of its folders.

    Raises:
        DataError: two have one name, or names that differ in case alone, which the database takes for one.
    """
    known: dict[str, str] = {}
    for name in (*own, *file.folders):
        if name.casefold().startswith(OWN_PREFIX):
            raise DataError(
                f"{file.path}: column `{name}` begins with `{OWN_PREFIX}`, as columns of our own do. Rename it."
            )
    for name in own:
        if (other := known.setdefault(name.casefold(), name)) != name:
            raise DataError(
                f"{file.path}: the columns `{other}` and `{name}` are told apart by small and large letters at most; "
                "expected other names. Rename one of them, or leave it out."
            )
    for name, value in file.folders.items():
        if other := known.get(name.casefold(), ""):
            raise DataError(
                f"{file.path} has a column `{other}`, and its folder `{name}={value}` names it too; expected it in one "
                "of the two places. Rename the folder or the column."
            )
        known[name.casefold()] = name
    return {**own, **dict.fromkeys(file.folders, _TEXT)}


def _common_names(parts: Sequence[_Part], used: Collection[str]) -> list[str]:
    """The columns that all files have, in the order of the first.

    Raises:
        DataError: a column that is used stands in one file and is missing in another.
    """
    for name in used:
        having = [part for part in parts if name in part.columns]
        lacking = [part for part in parts if name not in part.columns]
        if having and lacking:
            raise DataError(
                f"{lacking[0].files[0].path}: column `{name}` is missing, which {having[0].files[0].path} has; found "
                f"{', '.join(lacking[0].columns)}. Write all files with the same columns and types."
            )
    return [name for name in parts[0].columns if all(name in part.columns for part in parts)]
