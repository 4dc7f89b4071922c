"""The raw events of one day, as they were delivered: how many stand there twice, and how many lie in the future."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from ibis.backends.duckdb import Backend

from recsys.datasets.database import fetch_one, store
from recsys.datasets.table_files import find_files, shown_files
from recsys.datasets.table_forms import moments_of
from recsys.datasets.table_layout import TableLayout
from recsys.datasets.table_reading import TableReader
from recsys.datasets.table_types import TextRules
from recsys.datasets.table_uses import uses_of
from recsys.features.column_names import OWN_PREFIX
from recsys.features.schema import FeatureSchema
from recsys.progress import Progress

_MOMENT, _IS_FUTURE = f"{OWN_PREFIX}moment", f"{OWN_PREFIX}is_future"


@dataclass(frozen=True)
class NewestEvents:
    """Counts of raw events, whether or not their rows are kept.

    Attributes:
        events: those of the day.
        duplicates: of these, repeats of another one that is equal in every column that the schema file names.
        future: events later than now.
        newest: the latest time of those, UTC; None where there are none.
        where: the files, for messages.
    """

    events: int
    duplicates: int
    future: int
    newest: datetime.datetime | None
    where: str


def newest_events(
    connection: Backend,
    raw: Path,
    layout: TableLayout,
    schema: FeatureSchema,
    day: datetime.date,
    now: datetime.datetime,
    progress: Progress,
) -> NewestEvents:
    """Count the events of a UTC day, and those that lie in the future.

    The files are gone through once, and of all other events nothing but the time is looked at.

    Args:
        layout: of events that have times.
        now: with a zone.

    Raises:
        DataError: see `find_files` and `TableReader.read`.
    """
    assert layout.time is not None
    files = find_files(raw, layout.files, progress)
    where, uses = shown_files(files), uses_of(layout, schema)
    reader = TableReader(raw, layout.csv, uses, TextRules(layout.csv.missing, layout.time.format))
    rows = reader.read(connection, files)
    time = moments_of(rows[layout.time.column], layout.time, where, "table.time")
    start = datetime.datetime.combine(day, datetime.time())
    is_of_day = (time >= start) & (time < start + datetime.timedelta(days=1))
    is_future = time > now.astimezone(datetime.UTC).replace(tzinfo=None)
    # Columns that are used and stand in side tables, or are counted, are no columns of the events.
    own = [name for name in rows.columns if name in uses]
    chosen = rows.mutate(**{_MOMENT: time, _IS_FUTURE: is_future}).filter(is_of_day | is_future)
    kept = store(connection, f"{OWN_PREFIX}newest", chosen.select(*own, _MOMENT, _IS_FUTURE))
    ahead = kept.filter(kept[_IS_FUTURE])
    of_day = kept.filter((kept[_MOMENT] >= start) & (kept[_MOMENT] < start + datetime.timedelta(days=1))).select(*own)
    events = fetch_one(connection, of_day.aggregate(rows=of_day.count()))["rows"]
    different = fetch_one(connection, of_day.distinct().aggregate(rows=of_day.distinct().count()))["rows"]
    later = fetch_one(connection, ahead.aggregate(rows=ahead.count(), newest=ahead[_MOMENT].max()))
    newest = later["newest"] and later["newest"].replace(tzinfo=datetime.UTC)
    return NewestEvents(events, events - different, later["rows"], newest, where)
