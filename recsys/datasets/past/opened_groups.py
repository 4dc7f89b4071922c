"""What co-occurrence knows of the groups before an opening: how often values met, and who is in the groups of late."""

from dataclasses import dataclass

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from ibis.backends.duckdb import Backend

from recsys.datasets.database import fetch, fetch_one, load, store
from recsys.datasets.past.opening import Opening, OpeningOutgrownError, mark_of, opening_name
from recsys.datasets.past.past_feature import PastFeature
from recsys.datasets.past.points import unique_name

Ints = npt.NDArray[np.int64]

# A group to which nothing came for so long is taken for complete; one that goes on all the same is noticed.
_OPEN_DAYS = 14
MEMBERS = ("together", "value", "day", "last", "is_carried")
"""Columns of a group's members: since which day they are in it, and the last day on which it grew."""


@dataclass(frozen=True)
class Counted:
    """Pairs of values that met, the smaller code first, and how often: (P,) each; the groups of each value: (V,)."""

    first: Ints
    second: Ints
    together: npt.NDArray[np.int32]
    groups: Ints


class OpenedGroups:
    """One feature's part of an opening."""

    def __init__(self, connection: Backend, opening: Opening, feature: PastFeature) -> None:
        self._connection, self._opening = connection, opening
        self._names = {
            kind: opening_name(kind, feature.of, feature.together) for kind in ("values", "pairs", "members", "groups")
        }

    def all_values(self, values: ir.Table) -> ir.Table:
        """The column `value`, with those of before."""
        known = self._known("values")
        return values if known is None else ibis.union(values, known.select("value"), distinct=True)

    def counted(self, codes: ir.Table) -> tuple[Counted, Ints] | None:
        """What was counted before, and the places of its values in `codes`: `value` and `code`."""
        known = self._known("values")
        if known is None:
            return None
        joined = known.select("value", "groups", place="code").inner_join(codes, "value").order_by("place")
        values = fetch(self._connection, joined.select("place", "groups", "code").order_by("place"))
        pairs = fetch(self._connection, self._opening.known[self._names["pairs"]])
        first, second, together = (pairs[name].to_numpy() for name in ("first", "second", "together"))
        return Counted(first, second, together, values["groups"].to_numpy()), values["code"].to_numpy()

    def all_members(self, members: ir.Table) -> ir.Table:
        """`MEMBERS`, with those of the groups that may go on.

        Raises:
            OpeningOutgrownError: one of the events' groups was taken for complete.
        """
        known = self._known("members")
        new = members.select("together").distinct()
        marks = new.mutate(mark=mark_of(new.together))
        if known is not None:
            closed = marks.anti_join(known.select("together").distinct(), "together")
            again = closed.semi_join(self._opening.known[self._names["groups"]], "mark")
            if fetch_one(self._connection, again.aggregate(rows=again.count()))["rows"]:
                raise OpeningOutgrownError("what occurs together came to a group of long ago")
        every = self._opening.taken_up(self._connection, self._names["groups"], marks.select("mark")).distinct()
        self._opening.keep(self._connection, self._names["groups"], every)
        return self._opening.taken_up(self._connection, self._names["members"], members.select(*MEMBERS))

    def keep(self, codes: ir.Table, members: ir.Table, counted: Counted) -> None:
        """Keep all of it for the next opening.

        Args:
            members: at least `MEMBERS`, each value of a group once.
        """
        # Typed, since of a past without events there are none.
        code = pa.array(range(len(counted.groups)), pa.int64())
        groups = load(self._connection, unique_name(), pa.table({"code": code, "groups": counted.groups}))
        values = store(self._connection, unique_name(), codes.inner_join(groups, "code"))
        pairs = pa.table({"first": counted.first, "second": counted.second, "together": counted.together})
        last = members.group_by("together").aggregate(until=members["last"].max())
        joined = members.inner_join(last, "together")
        lately = joined.filter(joined.until > joined.until.max() - _OPEN_DAYS)
        self._opening.keep(self._connection, self._names["values"], values.select("value", "code", "groups"))
        self._opening.keep(self._connection, self._names["pairs"], load(self._connection, unique_name(), pairs))
        self._opening.keep(
            self._connection,
            self._names["members"],
            lately.mutate(is_carried=ibis.literal(True)).select(*MEMBERS),
        )

    def _known(self, kind: str) -> ir.Table | None:
        return self._opening.known.get(self._names[kind])
