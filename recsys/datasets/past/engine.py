"""Features of the past for any rows from any events: the same numbers for training, scoring, lists and nights.

What was known is computed once per distinct key and time of the rows, stored, and joined to the rows as they are read.
A row alone has the same bits as the row among others.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol, cast

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import OtherEngine, store
from recsys.datasets.past.co_occurrence import store_co_occurrence
from recsys.datasets.past.cumulative import at_edges, store_lines
from recsys.datasets.past.formulas import Part, parts_of, value_of
from recsys.datasets.past.keys import key_names, keyed
from recsys.datasets.past.lists_of_others import join_others, store_newest
from recsys.datasets.past.opening import NOTHING_BEFORE, Opening
from recsys.datasets.past.out_of_fold import of_other_folds
from recsys.datasets.past.past_feature import AGE, AGE_DAYS, CONTRIBUTES, MOMENT, ROW, PastFeature, PastKind
from recsys.datasets.past.points import (
    AT,
    POINT,
    Group,
    has_list,
    join_points,
    keys_of_points,
    store_points,
    unique_name,
)
from recsys.datasets.past.quantities import (
    ADDED,
    Measure,
    Quantity,
    exact_name,
    from_exact,
    over_points,
    require_summable,
    whole,
)
from recsys.datasets.past.range_frames import in_frames
from recsys.datasets.past.recent_lists import Listing, list_column, or_empty, store_lists
from recsys.features.column_names import OWN_PREFIX
from recsys.progress import Progress

_LISTED = (PastKind.RECENT, PastKind.CO_OCCURRENCE)


def add_past(
    connection: Backend,
    asked: ir.Table,
    events: ir.Table,
    features: Sequence[PastFeature],
    progress: Progress,
    opening: Opening = NOTHING_BEFORE,
) -> ir.Table:
    """Return `asked` with a column per feature, as an expression that joins the rows to small stored tables.

    Counts and numbers of distinct values are int64, 0 for none; sums 0.0. Means, shares, minima, maxima and days are
    float64, null for nothing; with `prior_rows`, a mean or share of nothing is that of the whole past. Lists are empty,
    co-occurrence (float32) is 0 for nothing. A row without a time has no past, but is told what is out of fold. Values
    of one moment are listed in their own order, those of an ENUM in that of its type.

    Args:
        asked: a stored table of the rows: ROW, MOMENT, the columns `by`, and CONTRIBUTES and UNIT where one has folds.
        events: a stored table of what happened: MOMENT, CONTRIBUTES, the columns that the features name, and where they
            ask for it LABEL and UNIT. Numbers are finite or null.
        opening: of the events before these, where `events` begin at a midnight; rows ask for no window that begins
            before it, and for nothing out of fold.

    Raises:
        DataError: a column's numbers are too large to be summed up; too many values for their co-occurrence.
    """
    require_summable(connection, events, summed_columns(features))
    return joined_past(connection, asked, events, features, progress, opening).with_features(features)


def summed_columns(features: Sequence[PastFeature]) -> set[str]:
    """The events' columns whose numbers are summed up."""
    return {one.of for one in features if one.kind in (PastKind.SUM, PastKind.MEAN)}


def joined_past(
    connection: Backend | OtherEngine,
    asked: ir.Table,
    events: ir.Table,
    features: Sequence[PastFeature],
    progress: Progress,
    opening: Opening = NOTHING_BEFORE,
) -> "JoinedPast":
    """Count and list all that the features are made of, and join it to the rows; arguments as of `add_past`."""
    wanted, listings = _quantities(features), _listings(features)
    steps = len(wanted) + len(listings)
    found = JoinedPast(asked)
    lines = dict[tuple[str, ...], ir.Table]()
    for step, (group, quantities) in enumerate(wanted.items()):
        progress("counting the past", step, steps)
        if not group.is_out_of_fold and group.by not in lines:
            lines[group.by] = store_lines(connection, events, group.by, _in_time(wanted, group.by), opening)
        of_past = None if group.is_out_of_fold else lines[group.by]
        numbers = _store_numbers(connection, asked, events, group, quantities, of_past)
        found.join(group, numbers, {one.column: Part(group, one) for one in quantities})
    lists = dict[Listing, ir.Table]()
    for step, (listing, columns) in enumerate(listings.items(), len(wanted)):
        progress("counting the past", step, steps)
        if listing.group.leave_one_out:
            found.join_others(listing, store_newest(connection, events, listing, columns), columns)
            continue
        lists[listing] = store_lists(connection, asked, events, listing, columns, opening)
        found.join(listing.group, lists[listing], {list_column(of): (listing, of) for of in columns})
    for feature in features:
        if feature.kind is PastKind.CO_OCCURRENCE:
            listed = _named(feature.to, features)
            listing = Listing.of_feature(listed)
            named = lists[listing].rename(listed=list_column(listed.of))
            of_points = named.select(POINT, AT, *key_names(listed.by), "listed")
            affinity = store_co_occurrence(
                connection, asked, events, feature, listing.group, of_points, progress, opening
            )
            found.join_rows(affinity, {"value": feature.name})
    return found


class PastCounter(Protocol):
    """What counts features of the past: `add_past`, or another engine in its place."""

    def __call__(
        self,
        connection: Backend,
        asked: ir.Table,
        events: ir.Table,
        features: Sequence[PastFeature],
        progress: Progress,
        opening: Opening = NOTHING_BEFORE,
    ) -> ir.Table:
        """See `add_past`."""
        ...


class JoinedPast:
    """The rows with what was found, under names that no column of theirs has."""

    def __init__(self, asked: ir.Table) -> None:
        self._asked = self._rows = asked
        self._names = dict[Hashable, str]()
        self._others = list[tuple[Listing, ir.Table, Sequence[str]]]()

    def join(self, group: Group, values: ir.Table, columns: Mapping[str, Hashable]) -> None:
        """Join columns of the points; each goes by what it is."""
        self._rows = join_points(self._rows, group, values, {name: self._name(what) for name, what in columns.items()})

    def join_rows(self, values: ir.Table, columns: Mapping[str, Hashable]) -> None:
        """Join columns of (ROW, ...); each goes by what it is."""
        names = {self._name(what): values[column] for column, what in columns.items()}
        right = values.select(**{f"{OWN_PREFIX}past_found": values[ROW]}, **names)
        joined = self._rows.left_join(right, self._rows[ROW] == right[f"{OWN_PREFIX}past_found"])
        self._rows = joined.drop(f"{OWN_PREFIX}past_found")

    def join_others(self, listing: Listing, newest: ir.Table, columns: Sequence[str]) -> None:
        """Join lists of all events of a key but the row's own."""
        self._others.append((listing, newest, columns))

    @property
    def found(self) -> ir.Table:
        """ROW and what was joined to it."""
        return self._rows.select(ROW, *self._names.values())

    def of_other_engine(self, asked: ir.Table, found: ir.Table, events: ir.Table) -> "JoinedPast":
        """The same in DuckDB, of what another engine found.

        Args:
            asked: the rows, in DuckDB, as are the other two.
            found: what `found` was.
            events: with the columns' own types.
        """
        moved = JoinedPast(asked)
        columns = {name: _as_here(found[name], what, events) for what, name in self._names.items()}
        moved.join_rows(found.select(ROW, **columns), {name: what for what, name in self._names.items()})
        return moved

    def with_features(self, features: Sequence[PastFeature]) -> ir.Table:
        """The columns of `asked` and the features."""
        # Last, as they are long: whatever is joined after them would carry them along.
        for listing, newest, columns in self._others:
            self._rows = join_others(self._rows, listing, newest, {of: self._name((listing, of)) for of in columns})
        return self._rows.select(*self._asked.columns, **{one.name: self._value(one) for one in features})

    def _value(self, feature: PastFeature) -> ir.Value:
        if feature.kind is PastKind.CO_OCCURRENCE:
            return self._rows[self._names[feature.name]].fill_null(ibis.literal(0.0, "float32"))
        if feature.kind is PastKind.RECENT:
            return or_empty(self._rows[self._names[Listing.of_feature(feature), feature.of]])
        return value_of(feature, self._rows, self._number)

    def _number(self, part: Part) -> ir.Value:
        # A row that is no point has nothing in its past.
        values = self._rows[self._names[part]]
        return values.fill_null(0) if part.quantity.measure in ADDED else values

    def _name(self, what: Hashable) -> str:
        return self._names.setdefault(what, f"{OWN_PREFIX}past_{len(self._names)}")


def _quantities(features: Sequence[PastFeature]) -> dict[Group, list[Quantity]]:
    found = dict[Group, dict[Quantity, None]]()
    for feature in features:
        if feature.kind not in _LISTED:
            for part in parts_of(feature):
                found.setdefault(part.group, {})[part.quantity] = None
    return {group: [*quantities] for group, quantities in found.items()}


def _in_time(wanted: Mapping[Group, Sequence[Quantity]], by: tuple[str, ...]) -> list[Quantity]:
    """All that is wanted by some columns of the events before a time."""
    return [one for group, found in wanted.items() if group.by == by and not group.is_out_of_fold for one in found]


def _listings(features: Sequence[PastFeature]) -> dict[Listing, list[str]]:
    found = dict[Listing, set[str]]()
    for feature in features:
        if feature.kind is PastKind.RECENT:
            found.setdefault(Listing.of_feature(feature), set()).add(feature.of)
    return {listing: sorted(columns) for listing, columns in found.items()}


def _named(name: str, features: Sequence[PastFeature]) -> PastFeature:
    return next(feature for feature in features if feature.name == name)


def _as_here(values: ir.Value, what: Hashable, events: ir.Table) -> ir.Value:
    """What another engine found, as DuckDB itself would have it."""
    if isinstance(what, Part):
        one = what.quantity
        return from_exact(values, events[one.of]) if one.measure is Measure.SUM else values
    _, of = cast(tuple[Listing, str], what)
    if of in (AGE, AGE_DAYS) or events[of].type().is_string():
        return values
    return values.cast(dt.Array(events[of].type()))


def _store_numbers(
    connection: Backend | OtherEngine,
    asked: ir.Table,
    events: ir.Table,
    group: Group,
    quantities: Sequence[Quantity],
    lines: ir.Table | None,
) -> ir.Table:
    """Store (POINT, AT, the keys as the rows have them, a column per quantity)."""
    if lines is None:
        rows = events.filter(events[CONTRIBUTES])
        known = keyed(rows, group.by, moment=rows[MOMENT])
    points = store_points(connection, asked, group, known if lines is None else lines)
    by_key = keys_of_points(points, group)
    if lines is None:
        parts = [(of_other_folds(by_key, events, group, quantities), quantities)]
    else:
        unframed = [one for one in quantities if not one.is_framed]
        parts = [(at_edges(by_key, lines, key_names(group.by), unframed), unframed)]
        for window, ago in {(one.window, one.ago): None for one in quantities if one.is_framed}:
            framed = [one for one in quantities if one.is_framed and (one.window, one.ago) == (window, ago)]
            parts.append((in_frames(by_key, events, group.by, window, ago, framed), framed))
    if has_list(points, group):
        parts = [(points, []), *((over_points(part, POINT, of_part), of_part) for part, of_part in parts)]
    (joined, _), *others = parts
    for part, of_part in others:
        joined = joined.left_join(part.select(POINT, *(one.column for one in of_part)), POINT).drop(f"{POINT}_right")
    numbers = {one.column: _number(joined[one.column], one, events) for one in quantities}
    return store(connection, unique_name(), joined.select(*points.columns, **numbers))


def _number(values: ir.Value, one: Quantity, events: ir.Table) -> ir.Value:
    """As it goes into formulas."""
    if one.measure is Measure.SUM:
        # Another engine would round on the way back; see `of_other_engine`.
        return values if exact_name(one.of) in events.columns else from_exact(values, events[one.of])
    return values if one.measure in (Measure.MINIMUM, Measure.MAXIMUM) else whole(values)
