"""What a source hands over: raw rows under the schema's names, and where they come from.

A source does no encoding: ids are still ids and dense features still have their units. It runs lazily, inside DuckDB,
so that the rows never need to fit into memory.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import ibis
from ibis.backends.duckdb import Backend

from recsys.features.schema import FeatureSchema
from recsys.progress import Progress

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLIT, DAY = "split", "day"
"""The two columns that every source adds: the split's name, and the UTC day of the row's time."""


@dataclass(frozen=True)
class SourceRows:
    """Raw rows on their way to `encode`.

    Attributes:
        rows: one row per example. Columns, in any order:
            every feature under its own name (dense: a number; sparse: one string or integer id; sparse list: an array
            of ids, oldest first), the segment as one of the schema's names, the label as 0 or 1, the weight where the
            schema has one, the time as a UTC timestamp, `split` (string), `day` (date), and the `extras`.
            Only these columns are read. NaN counts as null.
        extras: which of `recsys.features.schema.EXTRA_TYPES` the rows carry.
        description: plain values for the manifest: files with their digests, dates, sampling.
        counts: what the source itself dropped, merged or mended, by a readable name; goes into the manifest.
        origins: a column's name in the source's own files, where it is another one; messages name both.
        in_files_by_day: the rows come straight from files that hold a day each, so that a span of `time` is read
            without the rest, as often as asked; every day belongs to one split. Other sources' rows are stored once,
            sorted by day.
    """

    rows: ibis.Table
    extras: tuple[str, ...] = ()
    description: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    in_files_by_day: bool = False


class Source(Protocol):
    """Anything that can read its own files as rows of a schema."""

    def read(self, connection: Backend, schema: FeatureSchema, progress: Progress) -> SourceRows:
        """Return the rows as an expression on `connection`, which `encode` will then run.

        Tables may be created on the connection; they vanish with it. What happened at or after a row's time must
        not reach its features.

        Raises:
            DataError: a file is missing or unreadable, or a column is missing or has the wrong type. Raised before
                any long work, naming the file, the column, what was found, what was expected and how to mend it.
        """
        ...
