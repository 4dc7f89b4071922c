"""How text stands in the files of a table, as it is declared: the form of CSV files, and that of times."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
from pydantic import Field

from recsys.datasets.database import is_moment, is_nothing, make_timestamp, utc_without_zone
from recsys.datasets.table_files import TSV_SUFFIXES
from recsys.errors import DataError
from recsys.features.declaration import NOT_NULL, Declaration, Expected, Listed, Text, Word, such_that

UTF8 = "utf-8"
TIMESTAMP = "timestamp"
"""The unit of times that are times already, or text that is to be read as such."""

TIME_UNITS = {TIMESTAMP: 0, "seconds": 1_000_000, "ms": 1000, "us": 1}
"""Unit of a time column, with its microseconds; `timestamp` is a column that is one already."""


def _is_encoding(name: str) -> bool:
    try:
        "".encode(name)
    except (LookupError, ValueError):
        return False
    return True


@dataclass(frozen=True)
class CsvForm(Declaration):
    """How the CSV files of a table are written.

    Attributes:
        encoding: a name that Python knows.
        delimiter: one character; empty: a tab in `.tsv` files and a comma in all others.
        missing: words that stand for "no value" in columns of numbers and times; None where nothing is declared.
    """

    encoding: Annotated[
        Word,
        such_that(_is_encoding),
        Expected("an encoding that Python knows: utf-8, latin-1, cp1252, utf-16 or another of its names"),
    ] = UTF8
    delimiter: Annotated[
        str,
        Field(strict=True),
        such_that(lambda one: len(one.encode()) < 2 and one not in ('"', "\n", "\r", "\0")),
        Expected('one character, such as ";" or "\\t"'),
    ] = ""
    missing: Annotated[
        Listed[Annotated[Word, such_that(lambda word: word.strip() == word)]] | None,
        Expected('a list of words, each in quotation marks: ["NA", "null"]. An empty field is missing without a word'),
    ] = None

    def delimiter_of(self, path: Path) -> str:
        """The delimiter of one file."""
        return self.delimiter or ("\t" if path.name.lower().endswith(TSV_SUFFIXES) else ",")


@dataclass(frozen=True)
class TimeForm(Declaration):
    """The column of times and how they are written.

    Attributes:
        unit: one of `TIME_UNITS`.
        format: of times that are text, as strptime has it; empty: as ISO 8601 has it.
    """

    column: Text
    unit: Annotated[str, such_that(TIME_UNITS.__contains__), Expected("one of", TIME_UNITS)]
    format: Annotated[
        str,
        Field(strict=True),
        # Day and year, in one of the ways that strptime has for each.
        such_that(lambda text: bool(re.search("%[YyxcG]", text) and re.search("%[djxc]", text))),
        Expected("one that tells day and year, as %d/%m/%Y does"),
        NOT_NULL,
    ] = ""

    def __post_init__(self) -> None:
        """Refuse a format of numbers."""
        if self.format and self.unit != TIMESTAMP:
            raise ValueError(f"has a format, but numbers since 1970 have none; expected unit: {TIMESTAMP}.")


def moments_of(column: ir.Value, declared: TimeForm, where: str, key: str) -> ir.TimestampValue:
    """Return a column's times in UTC, without zone, in microseconds.

    Args:
        where: the files, for messages; key: where the schema file declares the times.

    Raises:
        DataError: the column has another type than the declared unit asks for.
    """
    name, unit, form = declared.column, declared.unit, column.type()
    if is_nothing(form):
        return column.cast(dt.Timestamp(scale=6))
    if unit == TIMESTAMP:
        if not is_moment(form):
            raise DataError(
                f"{where}: time column `{name}` has type {form}; expected a timestamp. If it holds numbers, "
                f"set `{key}.unit` to seconds, ms or us."
            )
        return utc_without_zone(column)
    if not form.is_numeric():
        raise DataError(f"{where}: time column `{name}` has type {form}; expected numbers, as `{key}.unit` is {unit}.")
    if form.is_integer():
        return make_timestamp(column.cast("int64") * TIME_UNITS[unit])
    return make_timestamp((nan_as_null(column) * TIME_UNITS[unit]).round().cast("int64"))


def nan_as_null(column: ir.Value) -> ir.Value:
    """The column with null in place of NaN."""
    return column.isnan().ifelse(ibis.null(column.type()), column) if column.type().is_floating() else column
