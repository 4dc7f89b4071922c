"""What can be asked about the past, and the columns by which rows and events come to it."""

from dataclasses import dataclass
from enum import StrEnum

from recsys.features.column_names import OWN_PREFIX

ROW, MOMENT, CONTRIBUTES, UNIT, LABEL = (
    f"{OWN_PREFIX}past_{name}" for name in ("row", "moment", "contributes", "unit", "label")
)
"""Columns of our own: a number that only this row has; the time in microseconds (UTC, null for none); whether an event
belongs to the past of rows, or a row asked about is itself such an event; a number per user, never null, by which folds
are made; the label, 0 or 1."""

FOLD_HASH = f"{OWN_PREFIX}past_fold_hash"
"""Beside `UNIT`, what DuckDB's hash makes of it, where another engine counts that has a hash of its own."""

EXACT = f"{OWN_PREFIX}past_exact_"
"""What begins the name of a column that holds another one's numbers as `exact` makes them, in DuckDB, for an engine
that would round them."""

AGE_DAYS = f"{OWN_PREFIX}past_age_days"
"""In place of a column in `of` of a list: how many whole days (int64) before the row the event was."""

AGE = f"{OWN_PREFIX}past_age"
"""As `AGE_DAYS`, in days and parts of days (float32); below 0 of an event that was later."""

DAY_MICROSECONDS = 86_400_000_000


class PastKind(StrEnum):
    """What is computed from the past."""

    COUNT = "count"
    SUM = "sum"
    MEAN = "mean"
    SHARE = "share"
    MINIMUM = "min"
    MAXIMUM = "max"
    DISTINCT = "distinct"
    DAYS_SINCE_LAST = "days_since_last"
    DAYS_SINCE_FIRST = "days_since_first"
    RECENT = "recent"
    CO_OCCURRENCE = "co_occurrence"


FOLDED_KINDS = (PastKind.COUNT, PastKind.SUM, PastKind.MEAN, PastKind.SHARE, PastKind.DISTINCT)
"""The kinds that can be computed out of fold."""


class Before(StrEnum):
    """What an event must be strictly before: the row's time, or the midnight (UTC) that begins the row's day."""

    EVENT = "event"
    DAY = "day"


class ListedRows(StrEnum):
    """Which events a list names: all, or those with label 1."""

    ALL = "all"
    LIKED = "liked"


@dataclass(frozen=True)
class PastFeature:
    """One feature of the past.

    With t the row's time, or the midnight that begins its day, the past is [t - ago - window, t - ago), or all before
    t - ago. An event of the very moment t is no part of it.

    Attributes:
        by: the columns that an event must share with the row; a row with a null among them has no past. At most one is
            a list column (none for `recent`): then an event that shares k of the list's values counts k times.
        of: the events' column that is summed, averaged, listed, ...; empty for `count`, `share` and `days_since_*`.
            `co_occurrence`: the events' column whose values occur together, against which the row's column `by` is
            held.
        within: `share`: the columns, fewer than `by`, that the events of the whole share with the row; none: all
            events.
        window: in microseconds; 0: all the past.
        ago: by how much the window ends before t, in microseconds.
        prior_rows: `mean`: how many rows of the mean over the whole past are added to a group's own. `share`: likewise
            of the share that the other columns of `by` have in the whole past.
        folds: 0 looks at the past; otherwise into how many folds the users are split, and a row that contributes sees
            those of the other folds whatever their time, any other row all that contribute. One of `FOLDED_KINDS`.
        leave_one_out: likewise whatever their time: a row that contributes sees all events that contribute but itself,
            any other row all that contribute. One of `FOLDED_KINDS`, or `recent`, which then lists the last of them.
        length: `recent`: how many events are listed at most, the last of them, oldest first.
        distinct: `recent`: each value stands once, where it occurred last.
        rows: `recent`: which events are listed.
        beside: `recent`: the column whose list this one accompanies element by element: with all else equal, the same
            events are listed. Empty: `of` is that column. Events with null in it are not listed.
        to: `co_occurrence`: the `recent` feature, among the features asked for, that lists values of `of`.
        together: `co_occurrence`: the events' column that says what occurred together, such as an invoice.
    """

    name: str
    kind: PastKind
    by: tuple[str, ...]
    of: str = ""
    within: tuple[str, ...] = ()
    window: int = 0
    ago: int = 0
    before: Before = Before.EVENT
    prior_rows: float = 0.0
    folds: int = 0
    leave_one_out: bool = False
    length: int = 0
    distinct: bool = False
    rows: ListedRows = ListedRows.ALL
    beside: str = ""
    to: str = ""
    together: str = ""
