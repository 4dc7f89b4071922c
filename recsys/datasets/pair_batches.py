"""Pairs of queries and items as batches of a ranker, read and encoded once for each query and item where possible.

A list of recommendations asks about one user and thousands of items: what is told of the user alone, or of the item
alone, is looked up once for each of them, and what is told of both together pair by pair. The rows are the same, to the
bit, as those that a scorer is given one by one.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from ibis.backends.duckdb import Backend

from recsys.datasets.candidate_lists import Ints
from recsys.datasets.column_levels import Level
from recsys.datasets.database import fetch, load, scratch
from recsys.datasets.pair_rows import HAD_BEFORE, PairRows
from recsys.datasets.query_tables import ITEM, QUERY
from recsys.errors import DataError, UsageError
from recsys.features.account import Account
from recsys.features.batch import Batch
from recsys.features.column_names import OWN_PREFIX
from recsys.features.contract import FeatureContract
from recsys.features.encoding import encode_feature, encode_segment
from recsys.features.raw import encoded_batch
from recsys.features.schema import FeatureKind
from recsys.features.vocabulary import Vocabulary
from recsys.progress import Progress

_PLACE, _SEGMENT = f"{OWN_PREFIX}place", f"{OWN_PREFIX}segment"
_ROWS_PER_BATCH = 8192


@dataclass(frozen=True)
class EncodedColumns:
    """Encoded features, and the segment, by name; all of one length.

    Attributes:
        had_before: whether the user had the item before; None where it was not asked for.
    """

    columns: Mapping[str, pa.Array]
    had_before: npt.NDArray[np.bool_] | None = None

    def take(self, places: Ints) -> dict[str, pa.Array]:
        """The columns at these places."""
        index = pa.array(places)
        return {name: column.take(index) for name, column in self.columns.items()}


@dataclass(frozen=True)
class PairBatches:
    """Reads and encodes what is known of queries, of items and of both.

    Attributes:
        is_one_moment: whether all queries begin at the same time, so that an item's past is the same for all of them.
    """

    connection: Backend
    rows: PairRows
    contract: FeatureContract
    vocabularies: Mapping[str, Vocabulary]
    progress: Progress
    is_one_moment: bool

    def side(self, level: Level, queries: Ints, items: Ints) -> EncodedColumns:
        """What is of the queries alone, or of the items alone as they are when the query begins; and the segment.

        Args:
            queries, items: (n,) each; of the other level any one will do.
        """
        return self._read(queries, items, dict.fromkeys([*self._names[level], _SEGMENT]))

    def segment(self, table: EncodedColumns) -> Ints:
        """Of what `side` gave, the segments' places, (n,)."""
        return np.asarray(table.columns[_SEGMENT].to_numpy()).astype(np.int64)

    def of(self, level: Level, table: EncodedColumns) -> EncodedColumns:
        """Of what `side` gave, the columns of the query alone, or of the item alone."""
        return EncodedColumns({name: table.columns[name] for name in self._names[level]})

    def side_batches(self, table: EncodedColumns) -> Iterator[Batch]:
        """Yield what `side` gave as rows in which all else is 0 or empty: a side of a tower reads no more."""
        rows = len(table.columns[_SEGMENT])
        columns = dict(table.columns)
        for feature in self.contract.schema.features:
            if feature.name not in columns:
                columns[feature.name] = _nothing(feature.kind, rows)
        yield from self.batches([(EncodedColumns(columns), np.arange(rows))])

    def of_pairs(self, queries: Ints, items: Ints) -> EncodedColumns:
        """What is told of both together, and whether the user had the item before. All (P,)."""
        names = self._names[Level.PAIR]
        if not self.is_one_moment:
            names = [*names, *(name for name in self._names[Level.ITEM] if self._is_counted(name))]
        return self._read(queries, items, names, with_past=self.rows.raw.layout.order != "none")

    def batches(self, parts: Sequence[tuple[EncodedColumns, Ints]]) -> Iterator[Batch]:
        """Yield the rows that several tables make together.

        Args:
            parts: a table, and the place in it for each of the rows, (P,); a later table's columns go before an earlier
                one's.
        """
        total = len(parts[0][1])
        for start in range(0, total, _ROWS_PER_BATCH):
            here = slice(start, start + _ROWS_PER_BATCH)
            columns: dict[str, pa.Array] = {}
            for table, places in parts:
                columns |= table.take(places[here])
            segment = columns.pop(_SEGMENT)
            yield encoded_batch(columns, segment, self.contract.schema)

    def has_fixed(self, item_features: Sequence[str]) -> bool:
        """Whether these features of an item are the same for every query that may be asked about it."""
        return self.is_one_moment or not any(map(self._is_counted, item_features))

    def require_sides(self, user_features: Sequence[str], item_features: Sequence[str]) -> None:
        """Refuse to retrieve where a side of the tower reads what is told of a user and an item together.

        Raises:
            UsageError: names the feature.
        """
        levels = self.rows.levels
        for side, names, own in (("user", user_features, Level.QUERY), ("item", item_features, Level.ITEM)):
            for name in names:
                if levels.of_feature(name) is not own:
                    raise UsageError(
                        f"Schema `{self.contract.schema.name}`: the {side} tower reads `{name}`, which is not the "
                        f"{side}'s alone, so the nearest items cannot be looked for with one vector each. Take it out "
                        f"of the tower (`used_by`), or rank every candidate (`--retrieve 0`)."
                    )

    @cached_property
    def _names(self) -> dict[Level, list[str]]:
        levels, schema, layout = self.rows.levels, self.contract.schema, self.rows.raw.layout
        of = {feature.name: levels.of_feature(feature.name) for feature in schema.features}
        of[_SEGMENT] = levels.of_feature(
            layout.segment.column if layout.segment.column in layout.counted else "segment"
        )
        return {level: [name for name, own in of.items() if own is level] for level in Level}

    def _is_counted(self, name: str) -> bool:
        layout = self.rows.raw.layout
        return (layout.segment.column if name == _SEGMENT else name) in layout.counted

    def _read(self, queries: Ints, items: Ints, names: Collection[str], *, with_past: bool = False) -> EncodedColumns:
        if not names and not with_past:
            return EncodedColumns({})
        schema = self.contract.schema
        columns = {name: schema.segment if name == _SEGMENT else name for name in names}
        numbers = {QUERY: queries, ITEM: items, _PLACE: np.arange(len(queries))}
        types = {QUERY: pa.int32(), ITEM: pa.int32(), _PLACE: pa.int64()}
        asked = pa.table({name: pa.array(numbers[name]).cast(form) for name, form in types.items()})
        with scratch(self.connection) as name:
            asked_pairs = load(self.connection, name, asked)
            rows = self.rows.of_counted(names).rows(self.connection, asked_pairs, self.progress, f"{name}_rows")
            more = [HAD_BEFORE] if with_past else []
            found = fetch(
                self.connection, rows.select(_PLACE, *dict.fromkeys(columns.values()), *more).order_by(_PLACE)
            )
        if found.num_rows != len(queries):
            raise AssertionError(f"{len(queries)} pairs became {found.num_rows} rows")
        encoded = self._encoded(found, columns)
        return EncodedColumns(encoded, found[HAD_BEFORE].to_numpy() > 0 if with_past else None)

    def _encoded(self, found: pa.Table, columns: Mapping[str, str]) -> dict[str, pa.Array]:
        schema = self.contract.schema
        account = Account("Pairs of queries and items, ", schema.invalid, found.num_rows)
        encoded = {}
        for name, source in columns.items():
            values = found[source].combine_chunks()
            encoded[name] = (
                encode_segment(values, source, schema.segments, account)
                if name == _SEGMENT
                else encode_feature(values, schema.feature(name), self.contract, self.vocabularies, account)
            )
        if account.dropped is not None:
            raise DataError(
                f"A user or an item has a value for which the schema drops the row ({', '.join(account.counts)}), but "
                "what is to be ranked cannot be left out. Mend the data, or say under `invalid:` what becomes of it."
            )
        return encoded


def _nothing(kind: FeatureKind, rows: int) -> pa.Array:
    if kind is FeatureKind.DENSE:
        return pa.array(np.zeros(rows, np.float32))
    if kind is FeatureKind.SPARSE:
        return pa.array(np.zeros(rows, np.int32))
    values = pa.array([], pa.float32() if kind is FeatureKind.DENSE_LIST else pa.int32())
    return pa.ListArray.from_arrays(pa.array(np.zeros(rows + 1, np.int32)), values)
