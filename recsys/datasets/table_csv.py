"""CSV files as rows of text: one declared form for all of them, nothing guessed, and every record accounted for.

A field is what stands between two delimiters, or between double quotes, in which a double quote is written twice and
delimiters and line ends may stand. The first record is the header. An empty field has no value.
"""

import codecs
import csv
import gzip
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import duckdb
from ibis.backends.duckdb import Backend

from recsys.datasets.database import quoted, quoted_files, quoted_name
from recsys.datasets.table_files import TableFile, shown_files
from recsys.datasets.table_forms import UTF8, CsvForm
from recsys.errors import DataError

_READ_BYTES = 1 << 20
# DuckDB's own limit.
_LONGEST_RECORD = 2_000_000
_BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def header_of(file: TableFile, form: CsvForm) -> tuple[str, ...]:
    """Return the names of a file's columns.

    Raises:
        DataError: the file cannot be decoded, holds nothing but empty lines, or names a column twice.
    """
    names = next((record for _, record in _records(file.path, form)), [])
    if not names:
        raise DataError(f"{file.path} holds no header; expected the columns' names in its first line.")
    # The mark that some programs put before the first letter; an empty name is that of pandas' index.
    names[0] = names[0].removeprefix("\ufeff")
    names = [name or f"unnamed_{place}" for place, name in enumerate(names)]
    if repeated := [name for place, name in enumerate(names) if name in names[:place]]:
        raise DataError(f"{file.path} names the column `{repeated[0]}` twice in its header; expected each name once.")
    if any("\0" in name for name in names):
        raise DataError(
            f"{file.path} holds NUL bytes in its first line, as UTF-16 does when read as {form.encoding}. Say how the "
            "files are written under `table.csv.encoding` of the schema (utf-16, for instance)."
        )
    return tuple(names)


def readable(path: Path, form: CsvForm, folder: Path) -> Path:
    """Return a file that is UTF-8: itself, or a copy in `folder`.

    Raises:
        DataError: it is not in the declared encoding; names line and byte.
    """
    if codecs.lookup(form.encoding).name == UTF8:
        return path
    target = folder / f"{len([*folder.glob('*.csv')])}.csv"
    with (
        _opened(path) as stream,
        io.TextIOWrapper(stream, form.encoding, newline="") as text,
        target.open("w", encoding=UTF8, newline="") as copy,
    ):
        try:
            while block := text.read(_READ_BYTES):
                copy.write(block)
        except UnicodeError as error:
            raise _undecodable(path, form) from error
    return target


def csv_rows(paths: Sequence[Path], names: Sequence[str], delimiter: str, more: str = "") -> str:
    """SQL that stands for the rows of UTF-8 files with one header, as text.

    Args:
        more: more of DuckDB's options, with a comma in front.
    """
    # By place, since DuckDB takes names that differ in case alone for one.
    columns = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(names)))
    return (
        f"read_csv({quoted_files(paths)}, columns={{{columns}}}, delim={quoted(delimiter)}, quote='\"', escape='\"', "
        "header=true, skip=0, comment='', nullstr='', auto_detect=false, strict_mode=true, null_padding=false, "
        f"ignore_errors=false, hive_partitioning=false{more})"
    )


def csv_columns(names: Sequence[str]) -> list[str]:
    """The columns of `csv_rows` under the files' own names."""
    return [f"c{place} AS {quoted_name(name)}" for place, name in enumerate(names)]


def require_every_record(files: Sequence[TableFile], form: CsvForm, rows: int) -> None:
    """Refuse files in which more or fewer records stand than rows were read.

    Args:
        rows: read from all of them together.
    """
    # Lines are counted at the speed of the disk, and mostly each is a record.
    if sum(_lines(file.path, form) for file in files) == rows + len(files):
        return
    records = sum(1 for file in files for _ in _records(file.path, form)) - len(files)
    if records != rows:
        raise DataError(
            f"{shown_files(files)}: {records} records below the header, of which {rows} could "
            "be read. Expected lines that end alike, and double quotes in pairs: write the files again."
        )


def line_of(files: Sequence[TableFile], form: CsvForm, column: str, value: str) -> str:
    """Return where a value stands first in a column, as "rows.csv, line 7"; for messages, as it reads the files."""
    for file in files:
        header = header_of(file, form)
        if column in file.folders:
            if file.folders[column] == value:
                return f"{file.path} (the folder `{column}=`)"
            continue
        place = header.index(column)
        for line, record in _records(file.path, form):
            if len(record) > place and record[place] == value:
                return f"{file.path}, line {line}"
    return str(files[0].path)


def require_one_header(files: Sequence[TableFile], names: Sequence[str], form: CsvForm) -> None:
    """Refuse files in which the header stands again among the rows; for files in which that was noticed."""
    for file in files:
        lines = [line for line, record in _records(file.path, form) if tuple(record) == tuple(names)]
        if len(lines) > 1:
            raise DataError(
                f"{file.path}, line {lines[1]}: the header stands there again. Expected it once, in the first line: "
                "files were glued together; take it out."
            )


def explain(
    error: duckdb.Error, connection: Backend, files: Sequence[TableFile], paths: Sequence[Path], form: CsvForm
) -> DataError:
    """Return what is wrong with files that DuckDB refused to read at the given paths, with file and line."""
    for file, path in zip(files, paths, strict=True):
        header = header_of(file, form)
        rows = csv_rows([path], header, form.delimiter_of(file.path))
        try:
            connection.raw_sql(f"SELECT count(*) FROM (SELECT * FROM {rows}) WHERE hash(COLUMNS(*)) IS NULL").fetchall()
        except duckdb.Error as own:
            return DataError(_fault(file.path, header, form) or f"{file.path}: {_reason(own)}")
    return DataError(f"{shown_files(files)}: {_reason(error)}")


def _fault(path: Path, header: Sequence[str], form: CsvForm) -> str:
    """The first record that has not one field for each column; empty where all have."""
    for line, record in _records(path, form):
        if len(record) != len(header):
            return (
                f"{path}, line {line}: {len(record)} fields between {form.delimiter_of(path)!r}; expected "
                f"{len(header)}, as in the header ({', '.join(header[:8])}). Mend the line; a field that holds the "
                f"delimiter, a line end or a double quote stands in double quotes, with each of its own doubled."
            )
    return ""


def _reason(error: duckdb.Error) -> str:
    """DuckDB's message without its settings and its advice on them."""
    text = str(error).removeprefix("Invalid Input Error: ")
    if "invalid state" in text:
        return "its lines end in \\n here and in \\r\\n there; expected one of them. Write the file again."
    line = re.search(r"CSV Error on Line: (\d+)", text)
    what = next((part for part in ("unterminated quote", "Maximum line size") if part in text), "")
    reason = {
        "unterminated quote": "a double quote is opened and not closed, or followed by more than a delimiter. Write a "
        "double quote inside of a field twice",
        "Maximum line size": f"a record has more than {_LONGEST_RECORD:,} bytes. Look for a double quote that is not "
        "closed",
    }.get(what, text.splitlines()[0])
    return f"{f'line {line[1]}: ' if line else ''}{reason}. Expected CSV with a header."


def _records(path: Path, form: CsvForm) -> Iterator[tuple[int, list[str]]]:
    """Every record that is no empty line, with the line at which it begins; slow, for headers and messages."""
    csv.field_size_limit(_LONGEST_RECORD)
    with _opened(path) as stream, io.TextIOWrapper(stream, _decoder(form.encoding), newline="") as text:
        reader = csv.reader(text, delimiter=form.delimiter_of(path))
        line = 1
        try:
            for record in reader:
                if record:
                    yield line, record
                line = reader.line_num + 1
        except UnicodeError as error:
            raise _undecodable(path, form) from error
        except (csv.Error, EOFError, OSError) as error:
            raise DataError(f"{path}, line {line}: {error}. Write or copy the file again.") from error


def _undecodable(path: Path, form: CsvForm) -> DataError:
    decoder = codecs.getincrementaldecoder(form.encoding)()
    line, done, found, mark = 1, 0, "its end", b""
    with _opened(path) as stream:
        while block := stream.read(_READ_BYTES):
            mark = mark or block[:2]
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                place = max(0, error.start - waiting)
                line += block[:place].count(b"\n")
                found = f"line {line}, byte {done + place + 1} of the file (0x{block[place]:02x})"
                break
            line, done = line + block.count(b"\n"), done + len(block)
    hint = _BYTE_ORDER_MARKS.get(mark, "latin-1 or cp1252")
    return DataError(
        f"{path}, {found}: this is no {form.encoding}. Say how the files are written under `table.csv.encoding` in the "
        f"schema ({hint}, for instance), or write them as UTF-8."
    )


def _lines(path: Path, form: CsvForm) -> int:
    """Lines, the last of which may have no end."""
    ends, last = 0, b"\n"
    with _opened(path) as stream:
        while block := stream.read(_READ_BYTES):
            ends, last = ends + block.count(b"\n"), block[-1:]
    return ends + (last != b"\n")


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _decoder(encoding: str) -> str:
    return "utf-8-sig" if codecs.lookup(encoding).name == UTF8 else encoding
