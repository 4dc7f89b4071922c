"""What goes with what was listed last, counted as the days go by.

The affinity of a value to a list is the sum, over the list, of the cosine between the two values' sets of groups, such
as products and invoices. Source: item-based collaborative filtering with cosine similarity, Sarwar et al., "Item-Based
Collaborative Filtering Recommendation Algorithms" (2001), on groups in place of ratings.

Two values of a group have met on the day on which the later of them came to it, and a row knows the days before its
own. Each row's sum is made value by value in the order of its list, so it depends on no other row.
"""

from collections.abc import Iterator

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from ibis.backends.duckdb import Backend

from recsys.datasets.database import fetch_one, load_batches, store, stream
from recsys.datasets.past.keys import midnight, past_events
from recsys.datasets.past.opened_groups import MEMBERS, Counted, OpenedGroups
from recsys.datasets.past.opening import NOTHING_BEFORE, Opening
from recsys.datasets.past.past_feature import DAY_MICROSECONDS, MOMENT, ROW, PastFeature
from recsys.datasets.past.points import AT, POINT, Group, join_points, unique_name
from recsys.errors import DataError
from recsys.features.column_names import OWN_PREFIX
from recsys.progress import Progress

Ints = npt.NDArray[np.int64]

_NONE: Ints = np.empty(0, dtype=np.int64)
_LARGEST_BYTES = 2**30
_BATCH_ROWS = 500_000
_COUNTED = ("day", "group", "code", "is_open", "is_carried")
_NUMBER, _DAY = (f"{OWN_PREFIX}past_{name}" for name in ("list", "day"))
_SCHEMA = pa.schema({ROW: pa.int64(), "value": pa.float32()})


class CoOccurrences:
    """Counts of values that share a group; grows with every group added. Memory: 4 bytes per pair of values.

    >>> counts = CoOccurrences(num_values=3)
    >>> counts.add(np.array([0, 1]), earlier=np.array([], dtype=np.int64))
    >>> counts.affinity(np.array([0]), np.array([1, 2])).tolist()
    [1.0, 0.0]
    """

    def __init__(self, num_values: int) -> None:
        self._together = np.zeros((num_values, num_values), dtype=np.int32)
        self._groups = np.zeros(num_values, dtype=np.int64)
        # A value in no group has no company: 1 keeps its quotient 0.
        self._norm = np.ones(num_values, dtype=np.float64)

    def add(self, values: Ints, earlier: Ints) -> None:
        """Count the values, each named once, that came to a group in which those of `earlier` already were."""
        self._together[values[:, None], values] += 1
        self._together[values, values] = 0
        if len(earlier):
            self._together[values[:, None], earlier] += 1
            self._together[earlier[:, None], values] += 1
        self._groups[values] += 1
        self._norm[values] = 1 / np.sqrt(self._groups[values])

    def restore(self, counted: Counted, codes: Ints) -> None:
        """Go on from what `counted` had returned; `codes` are its values' places here."""
        self._together[codes[counted.first], codes[counted.second]] = counted.together
        self._together[codes[counted.second], codes[counted.first]] = counted.together
        self._groups[codes] = counted.groups
        self._norm[codes] = 1 / np.sqrt(np.maximum(counted.groups, 1))

    def counted(self) -> Counted:
        """Return all that was counted."""
        first, second = np.nonzero(np.triu(self._together))
        return Counted(first, second, self._together[first, second], self._groups)

    def affinity(self, listed: Ints, values: Ints) -> npt.NDArray[np.float32]:
        """Return the affinity of each of `values` to a list; (len(values),) float32."""
        if len(values) * 4 < len(self._groups):
            sums = self._sums(listed, self._together[listed[:, None], values])
        else:
            # Whole lines are read faster than parts of them are picked.
            sums = self._sums(listed, self._together[listed])[values]
        return (sums * self._norm[values]).astype(np.float32)

    def _sums(self, listed: Ints, together: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        # Neither a product of matrices nor a sum, whose order of addition depends on how many columns there are.
        return np.add.accumulate(together * self._norm[listed, None], axis=0)[-1]


def store_co_occurrence(
    connection: Backend,
    asked: ir.Table,
    events: ir.Table,
    feature: PastFeature,
    group: Group,
    lists: ir.Table,
    progress: Progress,
    opening: Opening = NOTHING_BEFORE,
) -> ir.Table:
    """Store (ROW, value) of the rows that have an affinity.

    Args:
        group: of the list feature.
        lists: POINT, AT, the keys and a column `listed`.

    Raises:
        DataError: there are too many values to count their pairs.
    """
    known = past_events(events)
    known = known.filter(known[feature.of].notnull())
    before = OpenedGroups(connection, opening, feature)
    codes = before.all_values(known.select(value=feature.of).distinct()).mutate(code=ibis.row_number())
    codes = store(connection, unique_name(), codes)
    number = int(fetch_one(connection, codes.aggregate(number=codes.count()))["number"])
    if number * number * 4 > _LARGEST_BYTES:
        raise DataError(
            f"Feature `{feature.name}` counts what occurs together among the {number} values of `{feature.of}`; "
            f"expected at most {int((_LARGEST_BYTES / 4) ** 0.5)}, as all pairs are kept in memory. Count over a "
            "coarser column, such as the category, or filter rare values out of the events."
        )
    members = store(connection, unique_name(), _members(known, feature, codes, before))
    coded = store(connection, unique_name(), _coded(lists, codes))
    asking = store(connection, unique_name(), _asking(asked, feature, group, coded, codes))
    counts = CoOccurrences(number)
    if known_before := before.counted(codes):
        counts.restore(*known_before)
    coming = _additions(_streamed(connection, members.select(*_COUNTED).order_by(["day", "group"])), counts)
    found = _affinities(connection, coming, coded, asking, counts, progress)
    affinities = load_batches(connection, unique_name(), _SCHEMA, found)
    if opening.is_continued:
        for _ in coming:
            pass
        before.keep(codes, members, counts.counted())
    return affinities


def _day(moment: ir.Value) -> ir.IntegerValue:
    return (midnight(moment) / DAY_MICROSECONDS).cast("int64")


def _members(known: ir.Table, feature: PastFeature, codes: ir.Table, before: OpenedGroups) -> ir.Table:
    """`MEMBERS`, group, code, is_open: who came to which group, and on which day first; open: on several days."""
    rows = known.filter(known[feature.together].notnull())
    rows = rows.select(together=feature.together, value=feature.of, day=_day(rows[MOMENT]))
    rows = before.all_members(rows.mutate(last=rows.day, is_carried=ibis.literal(False)))
    distinct = rows.group_by(["together", "value"]).aggregate(
        day=rows.day.min(), last=rows["last"].max(), is_carried=rows.is_carried.any()
    )
    first = distinct.inner_join(codes, "value")
    groups = first.group_by("together").aggregate(is_open=first.day.max() > first.day.min())
    numbered = groups.mutate(group=ibis.row_number())
    joined = first.inner_join(numbered, "together")
    return joined.select(*MEMBERS, "group", "code", "is_open")


def _coded(lists: ir.Table, codes: ir.Table) -> ir.Table:
    """(the columns of a point, day, codes, number): the lists in codes, numbered in the order of their days."""
    listed = lists.listed
    values = lists.select(POINT, value=listed.unnest(), place=ibis.range(0, listed.length()).unnest())
    joined = values.inner_join(codes, "value")
    coded = joined.group_by(POINT).aggregate(codes=joined.code.collect(order_by=joined.place))
    both = lists.drop("listed").inner_join(coded, POINT).mutate(day=_day(lists[AT]))
    return both.mutate(number=ibis.row_number().over(order_by=[both.day, both[POINT]]))


def _asking(asked: ir.Table, feature: PastFeature, group: Group, coded: ir.Table, codes: ir.Table) -> ir.Table:
    """(row, code, number, day): the value that a row asks about and the number of its list."""
    (value,) = feature.by
    joined = join_points(asked, group, coded, {"number": _NUMBER, "day": _DAY})
    rows = joined.filter(joined[_NUMBER].notnull()).select(
        row=joined[ROW].cast("int64"), value=joined[value], number=joined[_NUMBER], day=joined[_DAY]
    )
    return rows.inner_join(codes, "value").select("row", "code", "number", "day")


def _affinities(
    connection: Backend,
    coming: Iterator[int],
    coded: ir.Table,
    asking: ir.Table,
    counts: CoOccurrences,
    progress: Progress,
) -> Iterator[pa.RecordBatch]:
    total, done = int(fetch_one(connection, asking.aggregate(rows=asking.count()))["rows"]), 0
    counted = next(coming, None)
    lists = _lists(_streamed(connection, coded.select("number", "codes").order_by("number")))
    number, listed = -1, _NONE
    for batch in _streamed(connection, asking.order_by("number")):
        rows, values, numbers, on_day = (column.to_numpy() for column in batch.columns)
        found = np.empty(len(rows), dtype=np.float32)
        for one in _runs(numbers):
            while counted is not None and counted < on_day[one.start]:
                counted = next(coming, None)
            # Not all lists are asked about.
            while number < numbers[one.start]:
                number, listed = next(lists)
            found[one] = counts.affinity(listed, values[one])
        has_company = found != 0
        yield pa.record_batch([pa.array(rows[has_company]), pa.array(found[has_company])], schema=_SCHEMA)
        done += len(rows)
        progress("comparing with what occurs together", done, total)


def _streamed(connection: Backend, rows: ir.Table) -> Iterator[pa.RecordBatch]:
    return stream(connection, connection.compile(rows), _BATCH_ROWS)


def _additions(batches: Iterator[pa.RecordBatch], counts: CoOccurrences) -> Iterator[int]:
    """Yield the day of the members that come next, and count them when asked for the following ones.

    Args:
        batches: of `_members`, in the order of day and group; those that are carried were counted before.
    """
    earlier = dict[int, Ints]()
    for batch in batches:
        days, groups, codes, is_open, is_carried = (batch[name].to_numpy(zero_copy_only=False) for name in _COUNTED)
        for one in _runs(days, groups):
            group = int(groups[one.start])
            already = earlier.get(group, _NONE)
            if not is_carried[one.start]:
                yield int(days[one.start])
                counts.add(codes[one], already)
            # The last group of a batch may go on in the next.
            if is_open[one.start] or one.stop == len(groups):
                earlier[group] = np.concatenate([already, codes[one]])


def _lists(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, Ints]]:
    for batch in batches:
        numbers, codes = batch.columns
        values, edges = codes.values.to_numpy(), codes.offsets.to_numpy()
        for number, begin, end in zip(numbers.to_pylist(), edges[:-1], edges[1:], strict=True):
            yield number, values[begin:end]


def _runs(*columns: Ints) -> Iterator[slice]:
    """The stretches in which all columns stay the same."""
    changes = [np.diff(column, prepend=column[:1] - 1, append=column[-1:] + 1) != 0 for column in columns]
    edges = np.flatnonzero(np.logical_or.reduce(changes))
    return map(slice, edges[:-1].tolist(), edges[1:].tolist())
