"""The examples of a window that ends with a date, from what the past had come to before it and the events since.

Events from the date on are as if they stood in no file. What came before the window is not read either, but for as far
as a row may look back at single events: sums, lists and the rest of the past come out of an opening (see
`recsys.datasets.past.opening`), which is made of the one before it and the days between the two.
"""

import datetime
from dataclasses import dataclass, replace
from pathlib import Path

from ibis.backends.duckdb import Backend

from recsys.datasets.column_levels import sources_of
from recsys.datasets.computed_features import ComputedFeatures, own_name
from recsys.datasets.database import store, temporary_database
from recsys.datasets.day_files import DayFiles
from recsys.datasets.declared_durations import DAY_US
from recsys.datasets.declared_history import HistoryScope
from recsys.datasets.declared_roles import SplitRule
from recsys.datasets.event_tables import RawEvents, events_of
from recsys.datasets.pair_rows import had_before
from recsys.datasets.past import Opening, OpeningOutgrownError
from recsys.datasets.query_tables import read_queries
from recsys.datasets.side_tables import values_that_came_late
from recsys.datasets.source import SourceRows
from recsys.datasets.table import example_rows, labelled_log, origins_of
from recsys.datasets.table_layout import TableLayout
from recsys.features.column_names import OWN_PREFIX
from recsys.features.schema import FeatureSchema
from recsys.progress import Progress

OPENING_NAME = "opening.duckdb"


@dataclass(frozen=True)
class DatedSource:
    """Reads the rows of the days before a date.

    Attributes:
        raw: the folder of the side tables.
        layout: with the window's dates.
        since, opening: the day from which on events are read, and the folder of what there was before; None: all.
    """

    days: DayFiles
    raw: Path
    layout: TableLayout
    before: datetime.date
    since: datetime.date | None = None
    opening: Path | None = None

    def read(self, connection: Backend, schema: FeatureSchema, progress: Progress) -> SourceRows:
        """Return the rows; see `Source.read`.

        Raises:
            OpeningOutgrownError: all events have to be read.
        """
        raw = self.events(connection, schema, progress, is_continued=False)
        rows, extras, _ = example_rows(connection, raw, progress)
        description = {
            "source": "table",
            "files": raw.digests,
            "days": {day.isoformat(): found for day, found in self.days.fingerprints.items() if day < self.before},
            "history": str(self.layout.history.scope) if self.layout.history.features else "none",
            "schema_file": self.layout.text,
        }
        # What is left out of the files is counted by day and not by window, so no counts go along.
        return SourceRows(rows, extras, description, {}, origins_of(self.layout, schema))

    def events(
        self, connection: Backend, schema: FeatureSchema, progress: Progress, *, is_continued: bool
    ) -> RawEvents:
        """Return the events since the opening.

        Args:
            is_continued: whether the next opening is to be made of them.
        """
        opening = Opening({}, is_continued=is_continued)
        if self.opening:
            opening = Opening.load(connection, self.opening / OPENING_NAME, is_continued=is_continued)
        rows = self.days.rows(connection, self.since, self.before)
        raw = events_of(
            connection, rows, self.raw, self.layout, schema, progress, self.days.where, opening, self.days.digest
        )
        counted = columns_of_the_past(self.layout, schema)
        for side in raw.sides:
            if counted.intersection(side.columns) and values_that_came_late(connection, side, opening):
                raise OpeningOutgrownError(f"the side table `{side.name}` has come to know more of an earlier event")
        return raw


def write_opening(
    source: DatedSource, schema: FeatureSchema, folder: Path, *, memory_limit: str, threads: int, progress: Progress
) -> None:
    """Write into `folder` what the past has come to before the source's date.

    Raises:
        OpeningOutgrownError: it cannot be made of the source's own opening.
    """
    # All of it is of the past, as the events of training are.
    end = datetime.datetime.combine(source.before, datetime.time())
    splits = SplitRule(validation_start=end, test_start=end + datetime.timedelta(days=1))
    layout = replace(source.layout, splits=splits)
    with temporary_database(folder, memory_limit, threads) as connection:
        raw = replace(source, layout=layout).events(connection, schema, progress, is_continued=True)
        if layout.label:
            log, _ = labelled_log(connection, raw, progress)
            more = []
        else:
            log = read_queries(connection, raw, progress).log
            more = [had_before(schema)]
        of_events = [own_name(name) for name in log.computed.of_events] if not layout.label else []
        nobody = store(connection, f"{OWN_PREFIX}nobody", log.rows.drop(*of_events).limit(0))
        if layout.history.features or more:
            log.computed.on_rows(connection, nobody, log.rows, progress, more)
        raw.opening.save(connection, folder / OPENING_NAME)


def columns_of_the_past(layout: TableLayout, schema: FeatureSchema) -> set[str]:
    """The columns of files and side tables that features of the past, and queries, are made of."""
    computed = ComputedFeatures(layout, schema)
    kept = layout.query.keep if layout.query else {}
    names = [*computed.read, *kept, schema.user, schema.item]
    return {source for name in names for source in sources_of(name, layout, schema)}


def days_back(layout: TableLayout, schema: FeatureSchema) -> int | str:
    """How many days before the first example single events are looked at; or why that is all of them, in words."""
    history, computed = layout.history, ComputedFeatures(layout, schema)
    past = history.features
    if layout.time is None or layout.splits is None or not layout.splits.is_by_time:
        return "the rows are not split by dates"
    if past and history.scope is not HistoryScope.LIVE:
        return "the past is that of training events alone"
    if layout.merge and layout.time.column not in layout.merge.by:
        return "repeats are merged whatever their time"
    if windowed := [name for name in computed.of_events if name in past and past[name].window]:
        return f"`{windowed[0]}`, of which others are counted, has a window"
    # A list that a row's key names is of the row's own moment; all else ends with a window.
    spans = [past[name].window + past[name].ago for name in computed.asked if name in past]
    spans += [layout.candidates.within] if layout.candidates else []
    spans += [layout.query.session] if layout.query else []
    # Whole days, and the day in which the first example's own past ends.
    return -(-max(spans, default=0) // DAY_US) + 2
