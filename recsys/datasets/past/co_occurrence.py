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

from recsys.datasets.database import fetch, fetch_one, load_batches, store, stream
from recsys.datasets.past.keys import midnight, past_events
from recsys.datasets.past.past_feature import DAY_MICROSECONDS, MOMENT, ROW, PastFeature
from recsys.datasets.past.points import AT, POINT, Group, join_points, unique_name
from recsys.errors import DataError
from recsys.features.column_names import OWN_PREFIX
from recsys.progress import Progress

Ints = npt.NDArray[np.int64]

_LARGEST_BYTES = 2**30
_BATCH_ROWS = 500_000
_NUMBER, _DAY = (f"{OWN_PREFIX}past_{name}" for name in ("list", "day"))
_SCHEMA = pa.schema({ROW: pa.int64(), "value": pa.float32()})


class CoOccurrences:
    """Counts of values that share a group; grows with every group added. Memory: 4 bytes per pair of values.

    >>> counts = CoOccurrences(num_values=3)
    >>> counts.add(np.array([0, 1]), earlier=np.array([], dtype=np.int64))
    >>> counts.affinity(np.array([[0, -1]]), np.array([0, 0]), np.array([1, 2])).tolist()
    [1.0, 0.0]
    """

    def __init__(self, num_values: int) -> None:
        self._together = np.zeros((num_values, num_values), dtype=np.int32)
        self._groups = np.zeros(num_values, dtype=np.int64)

    def add(self, values: Ints, earlier: Ints) -> None:
        """Count the values, each named once, that came to a group in which those of `earlier` already were."""
        self._together[np.ix_(values, values)] += 1
        self._together[values, values] = 0
        self._together[np.ix_(values, earlier)] += 1
        self._together[np.ix_(earlier, values)] += 1
        self._groups[values] += 1

    def affinity(self, lists: Ints, positions: Ints, values: Ints) -> npt.NDArray[np.float32]:
        """Return the affinity of each of `values` to its list.

        Args:
            lists: (L, K), padded with -1.
            positions: (n,) which list each value is held against.
            values: (n,).

        Returns:
            (n,) float32.
        """
        # A value in no group has no company: 1 keeps its quotient 0.
        norm = 1 / np.sqrt(np.maximum(self._groups, 1).astype(np.float64))
        weights = np.where(lists < 0, 0.0, norm[lists])
        total = np.zeros(len(values), dtype=np.float64)
        for number in range(lists.shape[1]):
            total += self._together[lists[positions, number], values] * weights[positions, number]
        return (total * norm[values]).astype(np.float32)


def store_co_occurrence(
    connection: Backend,
    asked: ir.Table,
    events: ir.Table,
    feature: PastFeature,
    group: Group,
    lists: ir.Table,
    progress: Progress,
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
    codes = known.select(value=feature.of).distinct().mutate(code=ibis.row_number())
    codes = store(connection, unique_name(), codes)
    number = int(fetch_one(connection, codes.aggregate(number=codes.count()))["number"])
    if number * number * 4 > _LARGEST_BYTES:
        raise DataError(
            f"Feature `{feature.name}` counts what occurs together among the {number} values of `{feature.of}`; "
            f"expected at most {int((_LARGEST_BYTES / 4) ** 0.5)}, as all pairs are kept in memory. Count over a "
            "coarser column, such as the category, or filter rare values out of the events."
        )
    members = store(connection, unique_name(), _members(known, feature, codes))
    coded = store(connection, unique_name(), _coded(lists, codes))
    asking = _asking(asked, feature, group, coded, codes)
    found = _affinities(connection, members, coded, asking, CoOccurrences(number), progress)
    return load_batches(connection, unique_name(), _SCHEMA, found)


def _day(moment: ir.Value) -> ir.IntegerValue:
    return (midnight(moment) / DAY_MICROSECONDS).cast("int64")


def _members(known: ir.Table, feature: PastFeature, codes: ir.Table) -> ir.Table:
    """(day, group, code, is_open): who came to which group, and on which day first; open: on several days."""
    rows = known.filter(known[feature.together].notnull())
    rows = rows.select(together=feature.together, value=feature.of, day=_day(rows[MOMENT]))
    first = rows.group_by(["together", "value"]).aggregate(day=rows.day.min()).inner_join(codes, "value")
    groups = first.group_by("together").aggregate(is_open=first.day.max() > first.day.min())
    numbered = groups.mutate(group=ibis.row_number())
    joined = first.inner_join(numbered, "together")
    return joined.select("day", "group", "code", "is_open").order_by("day")


def _coded(lists: ir.Table, codes: ir.Table) -> ir.Table:
    """(the columns of a point, day, codes, number): the lists in codes, numbered in the order of their days."""
    listed = lists.listed
    values = lists.select(POINT, value=listed.unnest(), place=ibis.range(0, listed.length()).unnest())
    joined = values.inner_join(codes, "value")
    coded = joined.group_by(POINT).aggregate(codes=joined.code.collect(order_by=joined.place))
    both = lists.drop("listed").inner_join(coded, POINT).mutate(day=_day(lists[AT]))
    return both.mutate(number=ibis.row_number().over(order_by=[both.day, both[POINT]]))


def _asking(asked: ir.Table, feature: PastFeature, group: Group, coded: ir.Table, codes: ir.Table) -> ir.Table:
    """(row, code, number, day): the value that a row asks about and the number of its list, in the order of lists."""
    (value,) = feature.by
    joined = join_points(asked, group, coded, {"number": _NUMBER, "day": _DAY})
    rows = joined.filter(joined[_NUMBER].notnull()).select(
        row=joined[ROW].cast("int64"), value=joined[value], number=joined[_NUMBER], day=joined[_DAY]
    )
    return rows.inner_join(codes, "value").select("row", "code", "number", "day").order_by("number")


def _affinities(
    connection: Backend,
    members: ir.Table,
    coded: ir.Table,
    asking: ir.Table,
    counts: CoOccurrences,
    progress: Progress,
) -> Iterator[pa.RecordBatch]:
    days = _integers(fetch(connection, members.select("day").distinct().order_by("day")), "day")
    coming, today, lists, first = 0, None, np.empty((0, 0), np.int64), 0
    earlier = dict[int, Ints]()
    for batch in stream(connection, connection.compile(asking), _BATCH_ROWS):
        rows, values, numbers, on_day = (column.to_numpy() for column in batch.columns)
        starts = np.flatnonzero(np.diff(on_day, prepend=on_day[:1] - 1))
        for begin, end in zip(starts, [*starts[1:], len(on_day)], strict=True):
            if on_day[begin] != today:
                today = on_day[begin]
                while coming < len(days) and days[coming] < today:
                    _add_day(counts, fetch(connection, members.filter(members.day == int(days[coming]))), earlier)
                    coming += 1
                    progress("counting what occurs together", coming, len(days))
                lists, first = _padded(fetch(connection, coded.filter(coded.day == int(today)).order_by("number")))
            found = counts.affinity(lists, numbers[begin:end] - first, values[begin:end])
            has_company = found != 0
            arrays = [pa.array(rows[begin:end][has_company]), pa.array(found[has_company])]
            yield pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _add_day(counts: CoOccurrences, members: pa.Table, earlier: dict[int, Ints]) -> None:
    groups, codes = _integers(members, "group"), _integers(members, "code")
    order = np.argsort(groups, kind="stable")
    groups, codes, is_open = groups[order], codes[order], members["is_open"].to_numpy()[order]
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1))
    for begin, end in zip(starts, [*starts[1:], len(groups)], strict=True):
        group, values = int(groups[begin]), codes[begin:end]
        already = earlier.get(group, np.empty(0, np.int64))
        counts.add(values, already)
        if is_open[begin]:
            earlier[group] = np.concatenate([already, values])


def _padded(coded: pa.Table) -> tuple[Ints, int]:
    """(L, K) codes, -1 behind the end of a list; and the number of the first list."""
    lists = coded["codes"].combine_chunks()
    lengths = np.diff(lists.offsets.to_numpy())
    padded = np.full((len(lengths), lengths.max()), -1, dtype=np.int64)
    padded[np.arange(lengths.max()) < lengths[:, None]] = lists.flatten().to_numpy()
    return padded, int(coded["number"][0].as_py())


def _integers(table: pa.Table, name: str) -> Ints:
    return np.asarray(table[name].to_numpy(), dtype=np.int64)
