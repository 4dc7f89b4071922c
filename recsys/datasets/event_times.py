"""When the events of a table begin and end, read without any other column."""

import datetime
from pathlib import Path

from ibis.backends.duckdb import Backend

from recsys.datasets.database import fetch_one
from recsys.datasets.table_files import find_files, shown_files
from recsys.datasets.table_forms import TIMESTAMP, moments_of
from recsys.datasets.table_layout import TableLayout
from recsys.datasets.table_reading import TableReader
from recsys.datasets.table_types import TextRules
from recsys.datasets.table_uses import Use
from recsys.errors import DataError
from recsys.progress import Progress


def event_times(
    connection: Backend, raw: Path, layout: TableLayout, progress: Progress
) -> tuple[datetime.datetime, datetime.datetime]:
    """Return the times of the first and the newest event, in UTC, whether or not its row is kept.

    Args:
        layout: of events that have times.

    Raises:
        DataError: see `find_files` and `TableReader.read`; or no event has a time.
    """
    assert layout.time is not None
    column = layout.time.column
    files = find_files(raw, layout.files, progress)
    uses = {column: Use.TIME if layout.time.unit == TIMESTAMP else Use.NUMBER}
    rows = TableReader(raw, layout.csv, uses, TextRules(layout.csv.missing, layout.time.format)).read(connection, files)
    time = moments_of(rows[column], layout.time, shown_files(files), "table.time")
    found = fetch_one(connection, rows.aggregate(first=time.min(), newest=time.max()))
    if found["first"] is None:
        raise DataError(
            f"{shown_files(files)}: no row has a time in column `{column}`. Point `data.raw` at files that have some."
        )
    return found["first"].replace(tzinfo=datetime.UTC), found["newest"].replace(tzinfo=datetime.UTC)
