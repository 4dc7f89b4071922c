"""The tables that lie in a folder: which files are one table, and which of those are its train, validation and test."""

import codecs
import gzip
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import duckdb
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from recsys.datasets.database import folder_of, parquet_rows, quoted, quoted_name
from recsys.datasets.schema_inference.role_words import words_of
from recsys.datasets.source import TEST, TRAIN, VALIDATION
from recsys.datasets.table_csv import csv_columns, csv_rows, header_of, readable
from recsys.datasets.table_files import CSV_SUFFIXES, FILE_SPLIT, PARQUET_SUFFIX, TSV_SUFFIXES, TableFile
from recsys.datasets.table_forms import UTF8, CsvForm
from recsys.errors import DataError
from recsys.files import files_below, folder_columns, is_leftover

_SPLIT_WORDS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("valid", "validation", "val", "dev"),
    TEST: ("test", "testing", "holdout"),
}
_DELIMITERS = ",;\t|"
_LISTED_FILES = 4


@dataclass(frozen=True)
class RawTable:
    """Files of equal columns.

    Attributes:
        name: what stands for it in messages and in the schema.
        files: names below the raw folder.
        splits: split -> names, where the names say it; else empty.
        columns: name -> DuckDB's type; text in CSV files.
        view: of the rows, in the database.
    """

    name: str
    files: tuple[str, ...]
    columns: Mapping[str, str]
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    csv: CsvForm = field(default_factory=CsvForm)
    view: str = ""
    rows: int = 0

    @property
    def is_csv(self) -> bool:
        """Whether it is text, whose columns have no types."""
        return not self.files[0].lower().endswith(PARQUET_SUFFIX)

    @property
    def subject(self) -> frozenset[str]:
        """The words of its files' names."""
        return frozenset(word for name in self.files for word in _subject(name))


def table_files(raw: Path) -> list[str]:
    """The names below `raw` of all files that can be read as rows, in their order.

    Raises:
        DataError: there are none.
    """
    found = [
        name
        for name in (files_below(raw) if raw.is_dir() else [])
        if not is_leftover(name) and name.lower().endswith((PARQUET_SUFFIX, *CSV_SUFFIXES))
    ]
    if not found:
        there = ", ".join(sorted(each.name for each in raw.iterdir())[:10]) if raw.is_dir() else "no such folder"
        raise DataError(
            f"{raw}: no rows to look at (it holds: {there or 'nothing'}); expected files that end in {PARQUET_SUFFIX}, "
            f"{', '.join(CSV_SUFFIXES)}. Write the rows as one of these."
        )
    return found


def find_tables(raw: Path, names: Sequence[str], events: str, connection: Backend) -> list[RawTable]:
    """Group files into tables, and give each a view in the database.

    Files of the same columns, in whatever order, are one table, unless their names tell that they belong to different
    ones: `beauty_events` and `toys_events` beside `beauty_items` and `toys_items`, or two folders with a train, a
    validation and a test file each.

    Args:
        events: a pattern of the files that are the events, whatever else has the same columns; or empty.

    Raises:
        DataError: a file cannot be read; names it.
    """
    forms: dict[str, CsvForm] = {}
    groups: dict[tuple[object, ...], list[str]] = defaultdict(list)
    types: dict[str, dict[str, str]] = {}
    for name in names:
        types[name], forms[name] = _columns_of(raw, name)
        is_asked = bool(events) and matches(name, events)
        is_csv = not name.lower().endswith(PARQUET_SUFFIX)
        groups[frozenset(types[name]), is_csv, forms[name].encoding, forms[name].delimiter, is_asked].append(name)
    parted = [part for group in groups.values() for part in _parted(group, [*groups.values()])]
    tables, taken = [], set[str]()
    for number, files in enumerate(sorted(parted)):
        name = _table_name(files)
        name = f"{name}_{number}" if name in taken else name
        taken.add(name)
        table = RawTable(name, tuple(files), types[files[0]], _splits(files), forms[files[0]], f"raw {number}")
        tables.append(_stored(raw, table, connection))
    return tables


def matches(name: str, pattern: str) -> bool:
    """Whether a file is meant by a pattern: a name, a folder, or a pattern as the shell has it."""
    plain, file = pattern.removeprefix("./").rstrip("/"), PurePosixPath(name)
    return fnmatchcase(name, plain) or name.startswith(f"{plain}/") or plain in (file.name, file.stem)


def pattern_of(files: Iterable[str], every: Sequence[str]) -> str | list[str]:
    """The shortest way to name these files and no others: a name, a pattern, or the list."""
    names = sorted(files)
    if len(names) == 1:
        return names[0]
    parts = [PurePosixPath(name).parts for name in names]
    if len({len(each) for each in parts}) > 1:
        return names
    *folders, file = (_common(list(of_place)) for of_place in zip(*parts, strict=True))
    suffix = next(each for each in (PARQUET_SUFFIX, ".csv.gz", ".tsv.gz", ".csv", ".tsv", "") if file.endswith(each))
    # A pattern that names a new month's file as well is the better one, and a few names say more than a star.
    for pattern in ([*folders, f"*{suffix}"], [*folders, file]):
        meant = [
            name
            for name in every
            if len(parts[0]) == len(PurePosixPath(name).parts)
            and all(map(fnmatchcase, PurePosixPath(name).parts, pattern))
        ]
        if meant == names and (folders or not pattern[-1].startswith("*") or len(names) > _LISTED_FILES):
            return "/".join(pattern)
    return names


def _common(words: Sequence[str]) -> str:
    """What words have in common at their beginnings and ends, with a star between."""
    if len(set(words)) == 1:
        return words[0]
    columns = {word.partition("=")[0] if "=" in word else "" for word in words}
    if len(columns) == 1 and (column := columns.pop()):
        return f"{column}=*"
    shortest = min(map(len, words))
    first = next((place for place in range(shortest) if len({word[place] for word in words}) > 1), shortest)
    rest = [word[first:] for word in words]
    shortest = min(map(len, rest))
    last = next((place for place in range(shortest) if len({word[-1 - place] for word in rest}) > 1), shortest)
    return f"{words[0][:first]}*{rest[0][len(rest[0]) - last :]}"


def _columns_of(raw: Path, name: str) -> tuple[dict[str, str], CsvForm]:
    """The columns of a file, those of its folders among them, and its form."""
    path, folders = raw / name, folder_columns(PurePosixPath(name))
    if name.lower().endswith(PARQUET_SUFFIX):
        try:
            return dict.fromkeys([*pq.read_schema(path).names, *folders], ""), CsvForm()
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as Parquet: {error}. Write or copy the file again.") from error
    form = _csv_form(path)
    return dict.fromkeys([*header_of(TableFile(path, name, "", ""), form), *folders], "VARCHAR"), form


def _csv_form(path: Path) -> CsvForm:
    """Encoding and delimiter of a file, from its bytes and its header."""
    decoder, encoding = codecs.getincrementaldecoder(UTF8)(), UTF8
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
        first = stream.read(1 << 16)
        try:
            decoder.decode(first)
            while block := stream.read(1 << 22):
                decoder.decode(block)
        except UnicodeDecodeError:
            encoding = "utf-16" if first[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "latin-1"
    header = first.decode(encoding, errors="replace").splitlines()[:1] or [""]
    usual = "\t" if path.name.lower().endswith(TSV_SUFFIXES) else ","
    best = max(_DELIMITERS, key=lambda one: (header[0].count(one), one == usual))
    return CsvForm(encoding=encoding, delimiter="" if best == usual or not header[0].count(best) else best)


def _subject(name: str) -> list[str]:
    """The words of a file's name, without those of splits, numbers and single letters."""
    path = PurePosixPath(name)
    parts = [part for part in path.parent.parts if "=" not in part]
    words = [word for part in (*parts, path.name.split(".", 1)[0]) for word in words_of(part)]
    splits = {word for several in _SPLIT_WORDS.values() for word in several}
    return [word for word in words if len(word) > 1 and not word.isdigit() and word not in splits]


def _parted(files: list[str], groups: Sequence[list[str]]) -> list[list[str]]:
    """Files of equal columns, apart where their names tell that they are of different tables."""
    by_subject: dict[frozenset[str], list[str]] = defaultdict(list)
    for name in files:
        by_subject[frozenset(_subject(name))].append(name)
    common = frozenset.intersection(*by_subject)
    own = {word for subject in by_subject for word in subject - common}
    elsewhere = {word for group in groups if group is not files for name in group for word in _subject(name)}
    complete = [part for part in by_subject.values() if len(_splits(part)) == len(_SPLIT_WORDS)]
    return [*by_subject.values()] if own & elsewhere or len(complete) > 1 else [files]


def _splits(files: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The files of each split, where the names of all of them say it and each has some."""
    found: dict[str, list[str]] = {split: [] for split in _SPLIT_WORDS}
    for name in files:
        path = PurePosixPath(name)
        words = {word for part in (*path.parent.parts, path.name.split(".", 1)[0]) for word in words_of(part)}
        named = [split for split, several in _SPLIT_WORDS.items() if words & set(several)]
        if len(named) != 1:
            return {}
        found[named[0]].append(name)
    return {split: tuple(several) for split, several in found.items()} if all(found.values()) else {}


def _table_name(files: Sequence[str]) -> str:
    subjects = [_subject(name) for name in files]
    words = [word for word in subjects[0] if all(word in subject for subject in subjects)]
    return "_".join(dict.fromkeys(words)) or "rows"


def _stored(raw: Path, table: RawTable, connection: Backend) -> RawTable:
    """The table with its rows in the database: CSV as a table of text, Parquet as it is."""
    alike: dict[tuple[object, ...], list[Path]] = defaultdict(list)
    split_of = {name: split for split, names in table.splits.items() for name in names}
    for file in table.files:
        # Columns of CSV files may stand in another order in each.
        header = header_of(TableFile(raw / file, file, "", ""), table.csv) if table.is_csv else ()
        alike[header, *folder_columns(PurePosixPath(file)).items(), split_of.get(file)].append(raw / file)
    parts = []
    for paths in alike.values():
        name = paths[0].relative_to(raw)
        constants = {**folder_columns(name), **({FILE_SPLIT: split_of[name.as_posix()]} if split_of else {})}
        folders = [
            f"{'NULL' if value is None else quoted(value)}::VARCHAR AS {quoted_name(column)}"
            for column, value in constants.items()
        ]
        if table.is_csv:
            header = header_of(TableFile(paths[0], "", "", ""), table.csv)
            texts = [readable(path, table.csv, folder_of(connection)) for path in paths]
            rows, own = csv_rows(texts, header, table.csv.delimiter_of(paths[0])), csv_columns(header)
        else:
            rows, own = parquet_rows(paths), ["*"]
        parts.append(f"SELECT {', '.join([*own, *folders])} FROM {rows}")
    view, kind = quoted_name(table.view), "TABLE" if table.is_csv else "VIEW"
    try:
        connection.raw_sql(f"CREATE {kind} {view} AS {' UNION ALL BY NAME '.join(parts)}")
        described = connection.raw_sql(f"DESCRIBE {view}").fetchall()
        ((rows_read,),) = connection.raw_sql(f"SELECT count(*) FROM {view}").fetchall()
    except duckdb.Error as error:
        raise DataError(
            f"{raw}: {', '.join(table.files[:3])} cannot be read: {str(error).splitlines()[0]}. Mend the file, or "
            "leave it out: name the files that are the events with `--events`."
        ) from error
    columns = {str(name): str(form) for name, form, *_ in described if name != FILE_SPLIT}
    return replace(table, columns=columns, rows=int(rows_read))
