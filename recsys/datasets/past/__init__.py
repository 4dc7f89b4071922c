"""The past of a row: what had happened before it, counted, summed, listed or compared, by any columns.

`past_feature` says what can be asked, `engine` computes it for any rows from any events. Inside: `keys` (what two rows
must share) and `points` (the distinct keys and times of the rows asked about); `cumulative` (sums up to an edge in
time), `range_frames` (what sums cannot tell of a window) and `out_of_fold` (rows without a usable time) give numbers
per point, of which `formulas` makes features; `recent_lists`, `last_distinct` and `lists_of_others` list the last
values, `co_occurrence` compares with them what is bought together. `opening` carries all of it on from day to day.
`standard_sql` says in other words what only DuckDB has words for.
"""

from recsys.datasets.past.engine import PastCounter, add_past
from recsys.datasets.past.opening import NOTHING_BEFORE, Opening, OpeningOutgrownError
from recsys.datasets.past.past_feature import (
    AGE,
    AGE_DAYS,
    CONTRIBUTES,
    FOLDED_KINDS,
    LABEL,
    MOMENT,
    ROW,
    UNIT,
    Before,
    ListedRows,
    PastFeature,
    PastKind,
)

__all__ = [
    "AGE",
    "AGE_DAYS",
    "CONTRIBUTES",
    "FOLDED_KINDS",
    "LABEL",
    "MOMENT",
    "NOTHING_BEFORE",
    "ROW",
    "UNIT",
    "Before",
    "ListedRows",
    "Opening",
    "OpeningOutgrownError",
    "PastCounter",
    "PastFeature",
    "PastKind",
    "add_past",
]
