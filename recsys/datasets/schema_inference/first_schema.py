"""A first schema for the rows in a folder: looked at, guessed where it must be, and checked as any other."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ibis.backends.duckdb import Backend

from recsys.datasets.database import quoted, quoted_name, temporary_database
from recsys.datasets.schema_inference.column_profiles import profile, rows_of
from recsys.datasets.schema_inference.commented_yaml import commented_yaml
from recsys.datasets.schema_inference.drafted_features import Drafted
from recsys.datasets.schema_inference.event_roles import EventRoles, Notes, Profiles, Settled, find_events
from recsys.datasets.schema_inference.first_features import (
    csv_document,
    draft_events,
    draft_ids,
    draft_side,
)
from recsys.datasets.schema_inference.first_history import draft_history
from recsys.datasets.schema_inference.first_labels import with_label
from recsys.datasets.schema_inference.first_rules import (
    Span,
    candidates_of,
    kept_events,
    query_of,
    segments_of,
    span_of,
    splits_of,
)
from recsys.datasets.schema_inference.raw_tables import RawTable, find_tables, matches, pattern_of, table_files
from recsys.datasets.schema_inference.side_keys import find_sides
from recsys.datasets.source import TRAIN
from recsys.datasets.table_files import FILE_SPLIT
from recsys.datasets.table_layout import TableLayout
from recsys.errors import UsageError
from recsys.features.schema import FeatureSchema
from recsys.files import write_text_atomically
from recsys.progress import Progress

_RANKED_QUERIES = 300


@dataclass(frozen=True)
class FirstSchema:
    """What was found.

    Attributes:
        text: of the schema file, comments included.
        document: its plain values.
        asked: what the data cannot tell -> the question.
        aside: file or column that is not used -> why.
        raw: the folder that its files lie below.
    """

    text: str
    document: Mapping[str, Any]
    asked: Mapping[str, str]
    aside: Mapping[str, str]
    raw: Path

    def write(self, path: Path) -> None:
        """Write the text as a file that is not there yet.

        Raises:
            UsageError, CannotWriteError: it is there, or cannot be written.
        """
        require_unused(path)
        write_text_atomically(path, self.text)


def require_unused(path: Path) -> None:
    """Refuse to write where a file is, which may have been changed by hand.

    Raises:
        UsageError: names it.
    """
    if path.exists():
        raise UsageError(
            f"{path} is there already and is not overwritten, as it may have been changed by hand. Name another "
            "output, or move it away."
        )


def first_schema(
    rows: Path,
    settled: Settled,
    name: str,
    memory_limit: str,
    threads: int,
    progress: Progress,
) -> FirstSchema:
    """Look at a file, or at all files below a folder, and write the schema that the rows most likely want.

    Args:
        name: of the data.

    Raises:
        DataError: there are no files of rows, or one cannot be read.
        UsageError: no table, or more than one, is recognised as that of the events; names the option that tells.
    """
    raw = rows if rows.is_dir() else rows.parent
    names = table_files(raw) if rows.is_dir() else [rows.name]
    if settled.events and not any(matches(each, settled.events) for each in names):
        raise UsageError(
            f"`--events {settled.events}` fits no file below {raw}, which holds {', '.join(names[:10])}. Expected a "
            "name, a folder or a pattern."
        )
    with TemporaryDirectory() as work, temporary_database(Path(work), memory_limit, threads) as connection:
        progress("find tables", 0, len(names))
        tables = find_tables(raw, names, settled.events, connection)
        profiles: dict[str, Profiles] = {}
        for number, table in enumerate(tables):
            progress("look at columns", number, len(tables))
            profiles[table.name] = profile(table, connection)
        progress("choose features", 0, 1)
        found = _Inference(tables, profiles, settled, names, connection).schema(name, raw, str(rows))
        progress("choose features", 1, 1)
    return found


@dataclass
class _Inference:
    tables: list[RawTable]
    profiles: dict[str, Profiles]
    settled: Settled
    names: list[str]
    connection: Backend

    def schema(self, name: str, raw: Path, shown: str) -> FirstSchema:
        """Go from the tables to the document."""
        notes, connection = Notes(), self.connection
        candidates = self.tables
        if self.settled.events:
            candidates = [one for one in self.tables if all(matches(file, self.settled.events) for file in one.files)]
        events = find_events(candidates, self.profiles, self.settled, connection, notes)
        events, where = kept_events(with_label(events, self.settled, connection, notes), connection, notes)
        span = span_of(events, connection)
        splits = splits_of(events, span, connection, notes)
        drafted = Drafted(event_columns=frozenset(events.table.columns))
        user, item = draft_ids(events, drafted, self._unseen_users(events, splits))
        draft_events(events, drafted, connection, notes)
        for side in find_sides(events, self.tables, self.profiles, connection, notes):
            draft_side(side, events, drafted, pattern_of(side.table.files, self.names), notes)
        is_random = self._are_mixed(events)
        history = draft_history(events, user, item, span, drafted, is_random, connection)
        segments, segment = segments_of(events, history.activity, span, connection, notes)
        table = self._table(events, where, drafted)
        table |= _examples(events, span, drafted, connection, notes)
        table |= {"segment": segment, **({"splits": splits} if splits else {})}
        table |= {"history": {"scope": history.scope, "features": history.features}} if history.features else {}
        _say_of_time(events, notes)
        document = {
            "name": name,
            "segment": "segment",
            "segments": segments,
            "label": "label",
            "time": "time",
            "user": user,
            "item": item,
            "features": [entry for entry, _ in drafted.features],
            "table": {key: value for key, value in table.items() if key == "candidates" or value not in ({}, [])},
        }
        where_is = f"The schema inferred from {raw}"
        TableLayout.from_document(document, FeatureSchema.from_document(document, where_is), where_is)
        head = _head(raw, shown, events, notes)
        seen = {entry["name"]: note for entry, note in drafted.features}
        text = commented_yaml(document, head, notes.said, seen)
        return FirstSchema(text, document, notes.asked, notes.aside, raw)

    def _table(self, events: EventRoles, where: list[str], drafted: Drafted) -> dict[str, Any]:
        """The beginning of the block: files, and what is read of them."""
        splits = events.table.splits
        files: Any = {split: pattern_of(files, self.names) for split, files in splits.items()}
        table: dict[str, Any] = {"files": files or pattern_of(events.table.files, self.names)}
        table["csv"] = csv_document(events.table.csv, sorted(drafted.no_value))
        table |= {"columns": drafted.columns, "missing": drafted.missing}
        time = events.columns[events.time].time if events.time else None
        if time:
            table["time"] = {"column": events.time, "unit": time.unit}
            table["time"] |= {"format": time.format} if time.format else {}
        elif events.position:
            table["position"] = events.position
        table |= {"lists": drafted.lists, "words": drafted.words, "tables": drafted.tables, "derive": drafted.derive}
        return {**table, "where": where}

    def _unseen_users(self, events: EventRoles, splits: Mapping[str, Any]) -> float:
        """The share of the users of validation and test that have no event in training."""
        user, view = quoted_name(events.user), quoted_name(events.view)
        if events.table.splits:
            is_training = f"{quoted_name(FILE_SPLIT)} = {quoted(TRAIN)}"
        elif "validation_start" in splits:
            is_training = f"moment < TIMESTAMP '{splits['validation_start']}'"
        else:
            return 0.0
        ((share,),) = rows_of(
            self.connection,
            f"SELECT avg((NOT t)::INT) FROM (SELECT bool_or({is_training}) AS t FROM {view} GROUP BY {user} "
            f"HAVING bool_or(NOT ({is_training})))",
        )
        return float(share or 0)

    def _are_mixed(self, events: EventRoles) -> bool:
        """Whether the files of validation and test hold events that are earlier than many of training."""
        if not events.table.splits or not events.time:
            return bool(events.table.splits)
        split, view = quoted_name(FILE_SPLIT), quoted_name(events.view)
        ((share,),) = rows_of(
            self.connection,
            f"SELECT avg((moment < (SELECT max(moment) FROM {view} WHERE {split} = {quoted(TRAIN)}))::INT) FROM {view} "
            f"WHERE {split} <> {quoted(TRAIN)}",
        )
        return bool(share and share > 0.05)


def _say_of_time(events: EventRoles, notes: Notes) -> None:
    """What was found of how times are written, and what that leaves open."""
    if events.position:
        notes.said["table", "position"] = "The order of each user's events; there are no times."
    time = events.columns[events.time].time if events.time else None
    if time is None:
        return
    said = f"{events.columns[events.time].seen}."
    if time.format:
        said += f" All are written as {time.format}."
    if time.other_format:
        notes.asked["time"] = (
            f"are times written as {time.format}, or as {time.other_format}? All of them read as either."
        )
    if time.unit != "timestamp":
        said += f" Numbers of this size are {time.unit} since 1970."
    elif time.zoned == 0:
        said += " They name no zone and are taken as UTC, so a local midnight is another hour here."
    elif time.zoned == 1:
        said += " Each names its zone; days are those of UTC."
    else:
        notes.asked["time zone"] = (
            f"{1 - time.zoned:.1%} of the times name no zone, and the others do; those are taken as UTC. Are they?"
        )
    notes.said["table", "time"] = said


def _head(raw: Path, rows: str, events: EventRoles, notes: Notes) -> list[str]:
    """The comment at the top: what was looked at, what is asked for, and what is left aside."""
    columns, table = events.columns, events.table
    what = "label" if events.label else "every event a positive"
    order = f"times `{events.time}`" if events.time else f"order `{events.position}`" if events.position else "no times"
    head = [
        f"Written by `recsys init {rows}`: {table.rows:,} events of {columns[events.user].distinct:,} users "
        f"(`{events.user}`) and {columns[events.item].distinct:,} items (`{events.item}`), {order}, {what}. It can be "
        "used as it is; every line can be changed, and data/README.md says what else a schema may hold.",
    ]
    if notes.asked:
        head += ["ASKED FOR, as the data cannot tell:", *(f"  {what}: {text}" for what, text in notes.asked.items())]
    if notes.aside:
        head += ["LEFT ASIDE:", *(f"  {what}: {why}" for what, why in notes.aside.items())]
    return head


def _examples(
    events: EventRoles, span: Span | None, drafted: Drafted, connection: Backend, notes: Notes
) -> dict[str, Any]:
    """Label, or what makes negatives of implicit events."""
    if events.label:
        return {"label": events.label}
    query = query_of(events, notes) | ({"keep": drafted.keep} if drafted.keep else {})
    candidates = candidates_of(events, span, connection, notes)
    notes.said["table", "ranking"] = "How many queries rank their candidates; 0 is all of them."
    return {
        "query": query,
        # A rule without keys is every item, and says so by standing there.
        "candidates": candidates,
        "negatives": {"per_positive": 4, "power": 0.5, "seed": 0},
        "ranking": {"validation_queries": _RANKED_QUERIES, "test_queries": 0},
    }
