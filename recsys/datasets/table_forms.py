"""How text stands in the files of a table, as it is declared: the form of CSV files, and that of times."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.datasets.table_files import TSV_SUFFIXES
from recsys.errors import UsageError

UTF8 = "utf-8"
TIMESTAMP = "timestamp"
"""The unit of times that are times already, or text that is to be read as such."""


@dataclass(frozen=True)
class CsvForm:
    """How the CSV files of a table are written.

    Attributes:
        encoding: a name that Python knows.
        delimiter: one character; empty: a tab in `.tsv` files and a comma in all others.
        missing: words that stand for "no value" in columns of numbers and times; None where nothing is declared.
    """

    encoding: str = UTF8
    delimiter: str = ""
    missing: tuple[str, ...] | None = None

    def delimiter_of(self, path: Path) -> str:
        """The delimiter of one file."""
        return self.delimiter or ("\t" if path.name.lower().endswith(TSV_SUFFIXES) else ",")


def csv_form(declared: Mapping[str, Any], where: str) -> CsvForm:
    """Return the form that the keys `encoding`, `delimiter` and `missing` declare.

    Raises:
        UsageError: a value cannot be meant; names `where` and the key.
    """
    encoding = declared.get("encoding", CsvForm.encoding)
    try:
        "".encode(encoding)
    except (LookupError, ValueError, TypeError) as error:
        raise UsageError(
            f"{where}.encoding: is {encoding!r}, which Python does not know; expected utf-8, latin-1, cp1252, utf-16 "
            "or another of its names."
        ) from error
    delimiter = declared.get("delimiter", CsvForm.delimiter)
    if not isinstance(delimiter, str) or len(delimiter.encode()) > 1 or delimiter in ('"', "\n", "\r", "\0"):
        raise UsageError(f'{where}.delimiter: is {delimiter!r}; expected one character, such as ";" or "\\t".')
    missing = declared.get("missing")
    if missing is not None and not (
        isinstance(missing, list) and all(isinstance(word, str) and word.strip() == word != "" for word in missing)
    ):
        raise UsageError(
            f"{where}.missing: is {missing!r}; expected a list of words, each in quotation marks: "
            '["NA", "null"]. An empty field is missing without a word.'
        )
    return CsvForm(encoding, delimiter, None if missing is None else tuple(missing))


def time_format(time: Mapping[str, Any], where: str) -> str:
    """Return how times that are text are written, as strptime has it; empty where nothing is declared.

    Raises:
        UsageError: the format tells no day, or stands beside a unit of numbers.
    """
    if "format" not in time:
        return ""
    if time["unit"] != TIMESTAMP:
        raise UsageError(f"{where}: has a format, but numbers since 1970 have none; expected unit: {TIMESTAMP}.")
    found = time["format"]
    if not isinstance(found, str) or not re.search("%[YyxcG]", found) or not re.search("%[djxc]", found):
        raise UsageError(f"{where}.format: is {found!r}; expected one that tells day and year, as %d/%m/%Y does.")
    return found
