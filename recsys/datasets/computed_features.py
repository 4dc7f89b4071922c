"""Features of the past and columns derived from them, in an order in which each has what it is made of.

A feature of the past may be counted of another one (how often a user bought again what they had): then the inner one
is counted for every event first, by the same rule, strictly before the event.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import store
from recsys.datasets.past import AGE, AGE_DAYS, NOTHING_BEFORE, Opening, PastCounter, PastFeature, add_past
from recsys.datasets.table_layout import TableLayout
from recsys.errors import UsageError
from recsys.features.column_names import OWN_PREFIX
from recsys.features.schema import FeatureKind, FeatureSchema
from recsys.progress import Progress


def own_name(column: str) -> str:
    """A column's name among those of our own, so that a user's column may be called anything."""
    # By their bytes, as the data base would hold names that differ only in small and large letters for one.
    return f"{OWN_PREFIX}of_{column.encode().hex()}" if column else ""


def name_of_own(name: str) -> str:
    """The column of which `own_name` made a name; any other name as it is."""
    begin = f"{OWN_PREFIX}of_"
    return bytes.fromhex(name.removeprefix(begin)).decode() if name.startswith(begin) else name


@dataclass(frozen=True)
class ComputedFeatures:
    """What a layout computes, by `own_name`.

    Attributes:
        add_past: what counts the past, on DuckDB unless another engine was asked for.
    """

    layout: TableLayout
    schema: FeatureSchema
    opening: Opening = NOTHING_BEFORE
    add_past: PastCounter = add_past

    @cached_property
    def asked(self) -> list[str]:
        """The counted features and columns that a row needs, each after those it is made of."""
        names = [feature.name for feature in self.schema.features]
        return self._with_parts([name for name in (*names, self.layout.segment.column) if name in self._counted])

    @cached_property
    def of_events(self) -> list[str]:
        """Those that every event needs, as others are counted by or of them."""
        past = self.layout.history.features
        inner = [name for one in past.values() for name in one.columns if name in self._counted]
        return self._with_parts(inner)

    @cached_property
    def read(self) -> list[str]:
        """Columns that are not counted, and that counting or deriving reads."""
        past = [self.layout.history.features[name] for name in self._counted if name in self.layout.history.features]
        of_past = [name for one in past for name in one.columns]
        return self._plain([*of_past, *self.read_by_expressions])

    @cached_property
    def keys(self) -> list[str]:
        """Columns that are not counted, and that a row's past is chosen by."""
        past = (self.layout.history.features[name] for name in self.asked if name in self.layout.history.features)
        return self._plain(name for one in past for name in one.keyed_by)

    @cached_property
    def read_by_expressions(self) -> list[str]:
        """Columns that are not counted, and that derived ones read beside features of the past."""
        derived = (self.layout.expressions[name] for name in self._counted if name in self.layout.expressions)
        return self._plain(name for expression in derived for name in expression.columns)

    def on_events(self, connection: Backend, events: ir.Table, progress: Progress) -> ir.Table:
        """Return the events with those of `of_events`, stored."""
        return self._computed(connection, events, events, self.of_events, progress, is_final=False)

    def on_rows(
        self,
        connection: Backend,
        rows: ir.Table,
        events: ir.Table,
        progress: Progress,
        more: Sequence[PastFeature] = (),
    ) -> ir.Table:
        """Return `rows`, a stored table, with those of `asked` that they do not have; the last step is not run yet.

        Args:
            more: features beside the declared ones, over columns by their own names.
        """
        return self._computed(connection, rows, events, self.asked, progress, is_final=True, more=more)

    def derived(self, rows: ir.Table, names: Iterable[str]) -> ir.Table:
        """Return `rows` with derived columns, in the order of `names`; what they read stands there by `own_name`."""
        for name in names:
            if name in self.layout.expressions and own_name(name) not in rows.columns:
                expression = self.layout.expressions[name]
                parts = {part: rows[own_name(part)] for part in expression.columns}
                rows = rows.mutate(**{own_name(name): expression.to_ibis(parts)})
        return rows

    @property
    def _counted(self) -> frozenset[str]:
        return self.layout.counted

    def _plain(self, names: Iterable[str]) -> list[str]:
        return [name for name in dict.fromkeys(names) if name and name not in self._counted]

    def _parts(self, name: str) -> list[str]:
        """The counted columns that one is made of directly."""
        if name in self.layout.expressions:
            parts: Iterable[str] = self.layout.expressions[name].columns
        else:
            one = self.layout.history.features[name]
            parts = (*one.columns, one.to)
        return [part for part in parts if part in self._counted]

    def _with_parts(self, names: Iterable[str]) -> list[str]:
        found: dict[str, None] = {}

        def visit(name: str, above: tuple[str, ...]) -> None:
            if name in above:
                raise UsageError(
                    f"Schema `{self.schema.name}`: `{name}` is made of itself, by way of {', '.join(above)}. Leave one "
                    "of them out."
                )
            for part in self._parts(name):
                visit(part, (*above, name))
            found.setdefault(name)

        for name in names:
            visit(name, ())
        return list(found)

    def _computed(
        self,
        connection: Backend,
        rows: ir.Table,
        events: ir.Table,
        names: Sequence[str],
        progress: Progress,
        *,
        is_final: bool,
        more: Sequence[PastFeature] = (),
    ) -> ir.Table:
        """Count as many as possible at once, derive, and go on with what needs those."""
        waiting = [name for name in names if own_name(name) not in rows.columns]
        done = {name for name in names if name not in waiting}
        past = self.layout.history.features
        # On rows, an inner feature is known once the events have it; on events, when it was counted for them.
        known = set(self.of_events) if is_final else done
        extra = list(more)
        while waiting or extra:
            ready = [name for name in waiting if name in past and self._is_ready(name, known, done)]
            counted = [*(self._feature(name) for name in ready), *extra]
            if counted:
                happened = rows if not is_final else events
                rows = self.add_past(connection, rows, happened, counted, progress, self.opening)
            done |= {*ready}
            derived = [name for name in waiting if name not in past and {*self._parts(name)} <= done]
            while derived:
                rows = self.derived(rows, derived)
                done |= {*derived}
                derived = [
                    name for name in waiting if name not in done and name not in past and {*self._parts(name)} <= done
                ]
            waiting = [name for name in waiting if name not in done]
            extra = []
            if waiting or not is_final:
                rows = store(connection, str(ibis.util.gen_name("counted")), rows)
        return rows

    def _is_ready(self, name: str, known: set[str], done: set[str]) -> bool:
        one = self.layout.history.features[name]
        inner = {part for part in one.columns if part in self._counted}
        keys = {part for part in one.keyed_by if part in self._counted}
        return inner <= (known | done) and keys <= done

    def _feature(self, name: str) -> PastFeature:
        kinds = {feature.name: feature.kind for feature in self.schema.features}
        # An id is a whole number, and a number of its own may have parts.
        age = AGE if kinds.get(name) is FeatureKind.DENSE_LIST else AGE_DAYS
        one = self.layout.history.features[name].counted_as(own_name(name), age=age)
        return replace(
            one,
            by=tuple(map(own_name, one.by)),
            within=tuple(map(own_name, one.within)),
            of=one.of if one.of in (AGE, AGE_DAYS) else own_name(one.of),
            beside=own_name(one.beside),
            to=own_name(one.to),
            together=own_name(one.together),
        )
