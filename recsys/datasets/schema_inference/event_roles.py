"""Which table holds the events, and which of its columns are user, item, time, position, query and label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ibis.backends.duckdb import Backend

from recsys.datasets.database import quoted_name
from recsys.datasets.schema_inference.column_profiles import ColumnKind, ColumnProfile, moment_sql, rows_of
from recsys.datasets.schema_inference.raw_tables import RawTable
from recsys.datasets.schema_inference.role_words import Role, is_called, is_only, score
from recsys.datasets.schema_inference.written_values import WrittenTime, epoch_unit
from recsys.errors import UsageError, did_you_mean

NOTHING = "none"
"""What an option says where the data have no such column, although one looks like it."""

Profiles = Mapping[str, ColumnProfile]


@dataclass(frozen=True)
class Settled:
    """What the user says of the events, so that it need not be guessed; empty: guess. See `NOTHING`."""

    user: str = ""
    item: str = ""
    time: str = ""
    label: str = ""
    query: str = ""
    events: str = ""


@dataclass
class Notes:
    """What is to be told beside the declaration.

    Attributes:
        asked: what the data cannot tell -> the question.
        aside: file or column -> why it is not used.
        said: path of a key in the document -> the comment above it.
    """

    asked: dict[str, str] = field(default_factory=dict)
    aside: dict[str, str] = field(default_factory=dict)
    said: dict[tuple[str, ...], str] = field(default_factory=dict)


@dataclass(frozen=True)
class EventRoles:
    """The table of the events.

    Attributes:
        time, position: a column, or empty; at most one of them is not.
        query: the column of baskets, sessions and the like; empty where there is none.
        label: a declaration such as `stars > 3`; empty where every event is a positive.
        judged: columns that say what came of an event: the label's, and others such as ratings.
        view: of the table in the database, with the time as `moment` where there is one.
    """

    table: RawTable
    columns: Profiles
    user: str
    item: str
    time: str = ""
    position: str = ""
    query: str = ""
    label: str = ""
    judged: tuple[str, ...] = ()
    view: str = ""

    @property
    def order(self) -> str:
        """SQL: what says which of a user's events was earlier; empty where nothing does."""
        return "moment" if self.time else quoted_name(self.position) if self.position else ""


def find_events(
    tables: Sequence[RawTable], profiles: Mapping[str, Profiles], settled: Settled, connection: Backend, notes: Notes
) -> EventRoles:
    """Choose the table that holds the events, and say what its columns are.

    Raises:
        UsageError: no table has a user and an item, or several have; names the columns, and the option that tells.
    """
    chosen: list[tuple[RawTable, str, str]] = []
    for table in tables:
        user = _named(profiles[table.name], Role.USER, settled.user)
        item = _named(profiles[table.name], Role.ITEM, settled.item, but=user)
        if not user and settled.user == "" and item:
            user = _named(profiles[table.name], Role.QUERY, "", but=item)
        if user and item and _are_events(profiles[table.name], user, item):
            chosen.append((table, user, item))
    if not chosen:
        raise UsageError(_no_events(tables, profiles, settled))
    if len(chosen) > 1:
        shown = "; ".join(f"{table.name} ({', '.join(table.files[:3])}: {table.rows:,} rows)" for table, *_ in chosen)
        first = chosen[0][0].files
        named = first[0] if len(first) == 1 or "/" not in first[0] else first[0].rsplit("/", 1)[0]
        raise UsageError(
            f"{len(chosen)} tables have a user and an item in each row: {shown}. Say which files are the events: "
            f"`--events {named}`, or another name, folder or pattern."
        )
    table, user, item = chosen[0]
    return _with_roles(EventRoles(table, profiles[table.name], user, item), settled, connection, notes)


def _are_events(columns: Profiles, user: str, item: str) -> bool:
    """Whether users and items both stand in several rows, as in no table of one row per user or item."""
    return all(columns[name].distinct < columns[name].rows for name in (user, item))


def _named(columns: Profiles, role: Role, settled: str, but: str = "") -> str:
    """The column that is called after a role and can name things; empty where there is none."""
    if settled:
        return settled if settled in columns else ""
    found = [
        (score(name, role), -place, name)
        for place, (name, column) in enumerate(columns.items())
        if name != but and column.is_id and column.distinct > 1 and score(name, role)
    ]
    return max(found)[2] if found else ""


def _no_events(tables: Sequence[RawTable], profiles: Mapping[str, Profiles], settled: Settled) -> str:
    seen = "; ".join(f"{table.name} ({table.files[0]}): {', '.join(profiles[table.name])}" for table in tables[:8])
    every = [name for table in tables for name in profiles[table.name]]
    for flag in ("user", "item"):
        if (name := getattr(settled, flag)) and name not in every:
            return f"`--{flag} {name}`: no table has this column{did_you_mean(name, every)}; the columns are {seen}."
    missing = [role for role in (Role.USER, Role.ITEM) if not any(_named(each, role, "") for each in profiles.values())]
    what = " and ".join(f"which column is the {role}" for role in missing or (Role.USER, Role.ITEM))
    return (
        f"No table is recognised as one of events, which has a user and an item in each row, both in several rows: "
        f"it cannot be told {what}. The columns are {seen}. Say it: `--user <column> --item <column>`, and where they "
        "have other names than usual `--time`, `--label` and `--query`."
    )


def _with_roles(events: EventRoles, settled: Settled, connection: Backend, notes: Notes) -> EventRoles:
    for flag in ("time", "query"):
        name = getattr(settled, flag)
        if name and name != NOTHING and name not in events.columns:
            raise UsageError(
                f"`--{flag} {name}`: {events.table.name} has no such column{did_you_mean(name, events.columns)}; it "
                f"has {', '.join(events.columns)}. `--{flag} {NOTHING}` says that there is none."
            )
    columns, time = dict(events.columns), _time(events, settled, notes)
    if time:
        columns[time.name] = time
    events = replace(events, columns=columns, time=time.name if time else "")
    if not events.time:
        events = replace(events, position=_position(events, connection))
    events = replace(events, query=_query(events, settled, connection))
    view = f"events of {events.table.view}"
    moment = f", {moment_sql(columns[events.time])} AS moment" if events.time else ""
    connection.raw_sql(f"CREATE VIEW {quoted_name(view)} AS SELECT *{moment} FROM {quoted_name(events.table.view)}")
    return replace(events, view=view)


def _time(events: EventRoles, settled: Settled, notes: Notes) -> ColumnProfile | None:
    """The column of times, with how they are written."""
    if settled.time == NOTHING:
        return None
    roles = (events.user, events.item)
    found: list[tuple[int, int, ColumnProfile]] = []
    for place, (name, column) in enumerate(events.columns.items()):
        if name in roles or (settled.time and name != settled.time):
            continue
        unit = epoch_unit(column.low, column.highest) if column.kind in (ColumnKind.WHOLE, ColumnKind.NUMBER) else ""
        is_named = is_called(name, Role.TIME)
        if column.kind is ColumnKind.TIME:
            found.append((2 * score(name, Role.TIME) + 1, -place, column))
        elif unit and not column.expression and (is_named or settled.time):
            found.append((score(name, Role.TIME), -place, replace(column, time=WrittenTime(unit))))
    if settled.time and not found:
        column = events.columns[settled.time]
        raise UsageError(
            f"`--time {settled.time}`: the column holds {column.seen}; expected times, or numbers of seconds, ms or "
            "us since 1970."
        )
    if not found:
        return None
    best = max(found, key=lambda each: each[:2])
    if others := [column.name for *_, column in found if column.name != best[2].name and column.distinct > 1]:
        notes.asked["time"] = (
            f"is `{best[2].name}` when the event happened? `{'`, `'.join(others)}` could be it too "
            f"(`--time {others[0]}`)."
        )
    return best[2]


def _position(events: EventRoles, connection: Backend) -> str:
    """The column that counts each user's events, where one does: whole numbers that never repeat within a user."""
    for name, column in events.columns.items():
        if column.kind is ColumnKind.WHOLE and not column.missing and is_only(name, Role.POSITION):
            user, own = quoted_name(events.user), quoted_name(name)
            view = quoted_name(events.table.view)
            ((pairs,),) = rows_of(connection, f"SELECT count(*) FROM (SELECT DISTINCT {user}, {own} FROM {view})")
            if pairs == column.rows:
                return name
    return ""


def _query(events: EventRoles, settled: Settled, connection: Backend) -> str:
    """The column whose values are baskets, sessions or the like: several rows each, all of one user."""
    if settled.query:
        return "" if settled.query == NOTHING else settled.query
    for name, column in events.columns.items():
        if name in (events.user, events.item, events.time, events.position) or not column.is_id:
            continue
        if not score(name, Role.QUERY) or not 1 < column.distinct < column.rows:
            continue
        own, user, view = quoted_name(name), quoted_name(events.user), quoted_name(events.table.view)
        ((shared,),) = rows_of(
            connection,
            f"SELECT avg((u > 1)::INT) FROM (SELECT {own}, count(DISTINCT {user}) AS u FROM {view} GROUP BY 1)",
        )
        if shared < 0.01:
            return name
    return ""
