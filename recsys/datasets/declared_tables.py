"""What is declared of a table's events before anything is counted: side tables, and the merging of repeats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from recsys.datasets.table_forms import CsvForm, TimeForm
from recsys.features.declaration import NOT_NULL, Declaration, Expected, Listed, Named, Text


class Keep(StrEnum):
    """Which value stands for several events that become one."""

    MINIMUM = "min"
    MAXIMUM = "max"
    SUM = "sum"
    MEAN = "mean"
    FIRST = "first"
    LAST = "last"


class Duplicates(StrEnum):
    """What becomes of a side table's rows of one key."""

    STOP = "stop"
    FIRST = "first"
    LAST = "last"


_Keep = Annotated[Keep, Expected("one of", Keep)]


def patterns_of(found: Any) -> tuple[str, ...]:
    """Paths and patterns below the raw folder, one or several."""
    patterns = [found] if isinstance(found, str) else found
    if not isinstance(patterns, list | tuple) or not patterns or not all(isinstance(one, str) for one in patterns):
        raise ValueError(f"holds {found!r}; expected a path, a pattern, or a list of them.")
    for pattern in patterns:
        if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts or "\0" in pattern:
            raise ValueError(f"holds {pattern!r}; expected a path below the raw folder, without `..`.")
    return tuple(patterns)


@dataclass(frozen=True)
class SideTable(Declaration):
    """A table whose columns are joined to the events by a key.

    Attributes:
        files: patterns below the raw folder; empty: the table is made of the events themselves, a key's first values.
        key: the column that both have, or that of the events.
        column: the table's own name of the key, where it is another one.
        columns: name from here on -> name in the table; empty: all of them, by their own names.
        time: of a table whose rows hold from a time on; an event gets the newest row of no later time.
        duplicates: what becomes of several rows of one key: an error, or the first or last in the order of the files.
    """

    key: Text
    files: Annotated[tuple[str, ...], BeforeValidator(patterns_of), NOT_NULL] = ()
    column: Text = ""
    columns: Named[Text] = field(default_factory=dict)
    time: Annotated[TimeForm | None, NOT_NULL] = None
    duplicates: Annotated[Duplicates, Expected("one of", Duplicates)] = Duplicates.STOP
    csv: CsvForm = field(default_factory=CsvForm)

    @classmethod
    def keys(cls, values: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
        """Those of files, or those of a table of the events' own first values."""
        if "files" not in values:
            return ("key", "columns"), ("key", "columns")
        return super().keys(values)[0], ("key", "files")

    @property
    def own_key(self) -> str:
        """The key's name in the table."""
        return self.column or self.key


@dataclass(frozen=True)
class MergeRule(Declaration):
    """Events that are equal in all columns of `by` become one, which has those columns and the kept ones alone."""

    by: Annotated[Listed[Text], Field(min_length=1), Expected("a list of columns such as [invoice, item_id]")]
    keep: Named[_Keep] = field(default_factory=dict)
