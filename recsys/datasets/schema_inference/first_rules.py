"""Which events are kept, what their splits and segments are, and of implicit ones their queries and candidates."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from ibis.backends.duckdb import Backend

from recsys.datasets.database import quoted_name
from recsys.datasets.schema_inference.column_profiles import ColumnKind, day_of, in_expression, rows_of
from recsys.datasets.schema_inference.event_roles import EventRoles, Notes
from recsys.datasets.schema_inference.role_words import Role, is_called, is_only, score
from recsys.datasets.source import TEST, TRAIN, VALIDATION

_LARGE_CATALOGUE = 3000
_NEAREST = 200
_ACTIVITY = ("new", "light", "regular", "heavy")
# Users of whom the activity is counted: enough for quantiles, whatever the number of events.
_COUNTED_EVENTS = 5_000_000
_EVERYONE = "everyone"
# A share of the rows that is too small for a segment.
_FEW = 0.05
_SPLITS = (TRAIN, VALIDATION, TEST)


@dataclass(frozen=True)
class Span:
    """From when to when events happened."""

    first: datetime
    last: datetime
    validation_start: datetime
    test_start: datetime

    @property
    def days(self) -> float:
        """Its length."""
        return (self.last - self.first) / timedelta(days=1)

    @property
    def has_day_splits(self) -> bool:
        """Whether days divide it into three splits."""
        return self.first.date() < self.validation_start.date() < self.test_start.date() <= self.last.date()


def kept_events(events: EventRoles, connection: Backend, notes: Notes) -> tuple[EventRoles, list[str]]:
    """The events that can be examples, and the conditions that they meet."""
    declared, tests = list[str](), list[str]()
    for name in (events.user, events.item, events.time):
        if name and (missing := events.columns[name].missing):
            declared.append(f"{in_expression(name)} is not null")
            tests.append(f"{quoted_name(name)} IS NOT NULL")
            share = missing / events.table.rows
            notes.said["table", "where"] = _joined(notes, f"{share:.1%} of the rows have no `{name}`.")
    for name, column in events.columns.items():
        is_amount = is_only(name, Role.QUANTITY, ("unit",)) or is_only(name, Role.PRICE, ("unit",))
        if events.label or not is_amount or not column.is_number or column.low > 0 or column.expression:
            continue
        test = f"TRY_CAST({quoted_name(name)} AS DOUBLE) > 0"
        query = f"SELECT count(*) FILTER (NOT ({test})) FROM {quoted_name(events.view)}"
        ((others,),) = rows_of(connection, query)
        if 0 < others < 0.2 * column.rows:
            declared.append(f"{in_expression(name)} > 0")
            tests.append(test)
            notes.said["table", "where"] = _joined(
                notes, f"{others:,} rows have a `{name}` of 0 or less: returns and corrections, it is guessed."
            )
    view = f"kept {events.view}"
    where = f" WHERE {' AND '.join(tests)}" if tests else ""
    connection.raw_sql(f"CREATE VIEW {quoted_name(view)} AS SELECT * FROM {quoted_name(events.view)}{where}")
    return replace(events, view=view), declared


def span_of(events: EventRoles, connection: Backend) -> Span | None:
    """From when to when the events happened, and the days before which 80 and 90 % of them lie."""
    if not events.time:
        return None
    ((first, last, cuts),) = rows_of(
        connection,
        "SELECT min(moment), max(moment), approx_quantile(epoch_us(moment), [0.8, 0.9]) "
        f"FROM {quoted_name(events.view)}",
    )
    if first is None:
        return None
    days = [datetime.fromisoformat("1970-01-01") + timedelta(days=round(cut / 86_400_000_000)) for cut in cuts]
    return Span(first, last, *days)


def splits_of(events: EventRoles, span: Span | None, connection: Backend, notes: Notes) -> dict[str, Any]:
    """The rule that divides the events; empty where the files do."""
    if events.table.splits:
        notes.said["table", "files"] = "The names of the files tell the splits."
        return {}
    for name, column in events.columns.items():
        is_split = column.kind is ColumnKind.TEXT and score(name, Role.SPLIT) and column.distinct in (3, 4)
        if is_split and (rule := _of_column(events, name, connection)):
            notes.said["table", "splits"] = f"The column `{name}` tells them."
            return rule
    if span and span.has_day_splits:
        notes.said["table", "splits"] = (
            f"Guessed: from the days before which 80 and 90 % of the events lie ({day_of(span.first)} to "
            f"{day_of(span.last)}). Events before `train_start`, where it is declared, are past and no examples."
        )
        return {"validation_start": span.validation_start.date(), "test_start": span.test_start.date()}
    if span:
        notes.said["table", "splits"] = (
            "Guessed: the earliest events train; too few days lie between them to name days."
        )
        return {"shares": {TRAIN: 0.8, VALIDATION: 0.1, TEST: 0.1}, "by": "time"}
    if events.position:
        notes.said["table", "splits"] = (
            f"`{events.position}` orders each user's events: the last one of each user is test, the one before it "
            "validation."
        )
        return {"leave_last": 1}
    notes.asked["time"] = (
        "no column holds times, nor an order of each user's events. Is there one (`--time`)? Without, the rows are "
        "divided by chance, nothing is known of a user's past, and results may promise more than will be kept."
    )
    notes.said["table", "splits"] = "Drawn by chance. `by: user` would ask instead what is known of users never seen."
    return {"shares": {TRAIN: 0.8, VALIDATION: 0.1, TEST: 0.1}, "by": "row", "seed": 0}


def _of_column(events: EventRoles, name: str, connection: Backend) -> dict[str, Any]:
    query = f"SELECT DISTINCT {quoted_name(name)} FROM {quoted_name(events.view)} WHERE {quoted_name(name)} IS NOT NULL"
    values = [str(value) for (value,) in rows_of(connection, query)]
    found = {split: [one for one in values if one.lower().startswith(split[:3])] for split in _SPLITS}
    found[VALIDATION] = found[VALIDATION] or [one for one in values if one.lower() in ("dev", "eval")]
    return {"column": name, **{split: several[0] for split, several in found.items()}} if all(found.values()) else {}


def candidates_of(events: EventRoles, span: Span | None, connection: Backend, notes: Notes) -> dict[str, Any]:
    """The items that a query of implicit events chooses from."""
    rule: dict[str, Any] = {}
    item, view = quoted_name(events.item), quoted_name(events.view)
    days = next((each for each in (90, 30, 14, 7) if span and span.days >= 2 * each), 0)
    where = ""
    if span and days:
        rule["within"] = f"{days}d"
        since = span.validation_start - timedelta(days=days)
        where = f" WHERE moment >= TIMESTAMP '{since}' AND moment < TIMESTAMP '{span.validation_start}'"
    ((items,),) = rows_of(connection, f"SELECT count(DISTINCT {item}) FROM {view}{where}")
    what = f"had events in the {days} days before validation" if days else "have events"
    said = f"{items:,} items {what}."
    notes.asked["candidates"] = (
        f"may a user choose among {'items with an event in the last ' + rule['within'] if rule else 'all items'}? If "
        "it is known what was on offer or shown, say that instead (`table.candidates`)."
    )
    if items > _LARGE_CATALOGUE:
        rule["nearest"] = _NEAREST
        said += f" Two stages: the tower retrieves the {_NEAREST} nearest of them, and the ranker orders those."
    notes.said["table", "candidates"] = said
    return rule


def query_of(events: EventRoles, notes: Notes) -> dict[str, Any]:
    """What events of implicit data belong together."""
    if events.query:
        count = events.columns[events.query]
        each = (count.rows - count.missing) / max(count.distinct, 1)
        notes.said["table", "query"] = (
            f"`{events.query}` is of one user each, with {each:.1f} events on average: what one holds was chosen "
            "together."
        )
        return {"column": events.query}
    notes.said["table", "query"] = "No column tells baskets or sessions, so each event is a choice of its own."
    return {"next": "event"}


def segments_of(
    events: EventRoles, activity: str, span: Span | None, connection: Backend, notes: Notes
) -> tuple[list[str], dict[str, Any]]:
    """The names of the user segments, and the rule that gives each row its own.

    Args:
        activity: the feature that counts a user's earlier events; empty where none can.
    """
    for name, column in events.columns.items():
        is_small = column.kind in (ColumnKind.TEXT, ColumnKind.WHOLE) and 2 <= column.distinct <= 8
        if is_small and is_called(name, Role.SEGMENT) and name not in events.judged:
            return _by_column(events, name, connection, notes)
    names, bins = _activity(events, span, connection) if activity else ([], [])
    if bins:
        what = "queries" if events.query else "events"
        new = f"{names[0]} are those without any, and " if names[0] == _ACTIVITY[0] else ""
        notes.said["table", "segment"] = (
            f"Guessed: by how many earlier {what} the user has; {new}the numbers divide the later rows evenly."
        )
        return names, {"column": activity, "bins": bins}
    for name, column in events.columns.items():
        is_small = column.kind is ColumnKind.TEXT and 2 <= column.distinct <= 6 and not column.separator
        is_free = name not in (events.user, events.item, *events.judged)
        if is_small and is_free and owned(events, name, events.user, connection):
            return _by_column(events, name, connection, notes)
    notes.asked["segments"] = (
        "which groups of users are to be told apart? Nothing in the data says it, so everyone is in one segment "
        "(`segments` and `table.segment`)."
    )
    return [_EVERYONE], {"column": events.user, "missing": _EVERYONE, "other": _EVERYONE}


def _by_column(events: EventRoles, name: str, connection: Backend, notes: Notes) -> tuple[list[str], dict[str, Any]]:
    own, view = quoted_name(name), quoted_name(events.view)
    values = [
        value
        for (value, _) in rows_of(
            connection, f"SELECT {own}, count(*) AS n FROM {view} WHERE {own} IS NOT NULL GROUP BY 1 ORDER BY n DESC, 1"
        )
    ]
    rule: dict[str, Any] = {"column": name}
    if events.columns[name].kind is ColumnKind.TEXT:
        names = [str(value) for value in values]
    else:
        names = [f"{_plain(name)}_{value}" for value in sorted(values)]
        rule["names"] = dict(zip(sorted(values), names, strict=True))
    most = names[0] if "names" not in rule else rule["names"][values[0]]
    notes.said["table", "segment"] = (
        f"Guessed: `{name}` has few values. Rows without one, and values that appear later, count as {most}."
    )
    return names, {**rule, "missing": most, "other": most}


def _activity(events: EventRoles, span: Span | None, connection: Backend) -> tuple[list[str], list[int]]:
    """Names of segments, and the rising numbers of earlier events (or queries) between them; empty where few have one.

    The numbers divide the rows of validation and test that have a past evenly, as each segment is to be measured there.
    """
    user, view = quoted_name(events.user), quoted_name(events.view)
    every = max(1, events.table.rows // _COUNTED_EVENTS)
    some = f" WHERE hash({user}) % {every} = 0" if every > 1 else ""
    if events.query:
        query = quoted_name(events.query)
        source = f"SELECT {user}, {query}, min({events.order}) AS o FROM {view}{some} GROUP BY {user}, {query}"
    else:
        source = f"SELECT {user}, {events.order} AS o FROM {view}{some}"
    earlier = f"SELECT o, row_number() OVER (PARTITION BY {user} ORDER BY o) - 1 AS n FROM ({source})"
    later = f" WHERE o >= TIMESTAMP '{span.validation_start}'" if span and span.has_day_splits else ""
    ((known, cuts),) = rows_of(
        connection,
        f"SELECT avg((n > 0)::INT), quantile_disc(n, [0.33, 0.67]) FILTER (n > 0) FROM ({earlier}){later}",
    )
    if not known or known < _FEW:
        return [], []
    if known > 1 - _FEW / 5:
        bins = sorted({max(2, int(cut)) for cut in cuts})
        return [*_ACTIVITY[-len(bins) - 1 :]], bins
    bins = sorted({1, *(int(cut) for cut in cuts)})
    return [_ACTIVITY[0], *_ACTIVITY[-len(bins) :]], bins


def owned(events: EventRoles, name: str, by: str, connection: Backend, least: float = 0.8) -> bool:
    """Whether a column's value hangs on that of another: nearly all rows have the most frequent one of theirs.

    Args:
        least: the share of the rows that must, of those that would not have it anyway.
    """
    column, key, view = quoted_name(name), quoted_name(by), quoted_name(events.view)
    counts = f"SELECT {key} AS k, {column} AS v, count(*) AS n FROM {view} WHERE {column} IS NOT NULL GROUP BY 1, 2"
    ((with_key, every),) = rows_of(
        connection,
        f"WITH c AS ({counts}), k AS (SELECT max(n) AS m, sum(n) AS s FROM c GROUP BY k) "
        "SELECT (SELECT sum(m) / sum(s) FROM k), (SELECT max(n) / sum(n) FROM (SELECT sum(n) AS n FROM c GROUP BY v))",
    )
    if with_key is None or every == 1:
        return False
    # Where one value is nearly all of the rows', it stands beside every key.
    return bool(float(with_key) - float(every) >= least * (1 - float(every)))


def are_items(events: EventRoles, name: str, connection: Backend) -> bool:
    """Whether the elements of a column of lists are items of the events."""
    column, item, view = quoted_name(name), quoted_name(events.item), quoted_name(events.view)
    elements = f"(SELECT DISTINCT CAST(unnest({column}) AS VARCHAR) AS e FROM {view})"
    items = f"(SELECT CAST({item} AS VARCHAR) FROM {view})"
    ((share,),) = rows_of(connection, f"SELECT avg((e IN {items})::INT) FROM {elements}")
    return bool(share and share > 0.9)


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name).strip("_").lower()


def _joined(notes: Notes, text: str) -> str:
    before = notes.said.get(("table", "where"), "")
    return f"{before} {text}".strip()
