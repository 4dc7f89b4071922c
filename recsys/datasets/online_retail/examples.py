"""Which products each invoice is asked about, with the label: positives and sampled negatives, or every candidate.

Works day by day in numpy: the candidates of a day are the same for all its invoices, and what goes with what is counted
up to the day before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from ibis.backends.duckdb import Backend

from recsys.datasets.database import fetch, load_batches
from recsys.datasets.negatives import draw_negatives, hashed_uniforms
from recsys.datasets.online_retail.co_purchases import CoPurchases
from recsys.datasets.online_retail.events import Events
from recsys.datasets.online_retail.features import RECENT_ITEMS
from recsys.datasets.source import TEST, VALIDATION
from recsys.progress import Progress

RANKING = {VALIDATION: "ranking_validation", TEST: "ranking_test"}
"""Split -> the split in which its invoices rank all their candidates."""

Ints = npt.NDArray[np.int64]
Value = TypeVar("Value", bound=np.generic)

_SCHEMA = pa.schema(
    {"query": pa.int32(), "item": pa.int32(), "label": pa.int8(), "is_ranking": pa.bool_(), "affinity": pa.float32()}
)
_INVOICE_SAMPLING_STREAM = 1


@dataclass(frozen=True)
class Sampling:
    """How negatives and ranked invoices are drawn.

    Attributes:
        negatives_per_positive: sampled negatives for each product on an invoice.
        ranking_validation_invoices: invoices of the validation split that rank all their candidates, at most; the test
            split's all do.
    """

    negatives_per_positive: int
    ranking_validation_invoices: int
    seed: int


class _Groups(Generic[Value]):
    """Values grouped by an integer key: `groups[key]` is an array, empty for keys without values."""

    def __init__(self, keys: Ints, values: npt.NDArray[Value]) -> None:
        order = np.argsort(keys, kind="stable")
        self._keys, self._values = keys[order], values[order]

    def __getitem__(self, key: int) -> npt.NDArray[Value]:
        low, high = np.searchsorted(self._keys, [key, key + 1])
        return self._values[low:high]


def list_examples(
    connection: Backend,
    events: Events,
    customers: ir.Table,
    products: ir.Table,
    pairs: ir.Table,
    sampling: Sampling,
    progress: Progress,
) -> ir.Table:
    """Return query, item, label, is_ranking and affinity (to what the customer bought last, days before this one)."""
    maker = _ExampleMaker(connection, events, customers, products, pairs, sampling)
    return load_batches(connection, "examples", _SCHEMA, maker.days(progress))


class _ExampleMaker:
    def __init__(
        self,
        connection: Backend,
        events: Events,
        customers: ir.Table,
        products: ir.Table,
        pairs: ir.Table,
        sampling: Sampling,
    ) -> None:
        self._sampling = sampling
        lines = _columns(connection, events.events.select("query", "item").distinct().order_by(["query", "item"]))
        self._items = _Groups(lines["query"], lines["item"])
        invoices = _columns(connection, events.queries.select("query", "day_number").order_by("query"))
        self._queries = _Groups(invoices["day_number"], invoices["query"])
        self._days = np.unique(invoices["day_number"])
        asked = _columns(connection, customers.select("query", "invoice", "split").order_by("query"))
        self._asked = set(asked["query"].tolist())
        self._keys = dict(zip(asked["query"].tolist(), pd.util.hash_array(asked["invoice"]), strict=True))
        self._ranked = self._choose_ranked(asked)
        sold = products.filter(products.sold_90d > 0).select("day_number", "item", "sold_90d")
        candidates = _columns(connection, sold.order_by(["day_number", "item"]))
        self._candidates = _Groups(candidates["day_number"], candidates["item"])
        self._weights = _Groups(candidates["day_number"], np.sqrt(candidates["sold_90d"]))
        recent = pairs.filter(pairs.recency < RECENT_ITEMS).select("query", "item", "recency")
        last = _columns(connection, recent.order_by(["query", ibis.desc("recency")]))
        self._recent = _Groups(last["query"], last["item"])
        self._together = CoPurchases(int(lines["item"].max(initial=-1)) + 1)

    def days(self, progress: Progress) -> Iterator[pa.RecordBatch]:
        """Yield the examples of one day after the other; co-purchases of a day count from the next day on."""
        for number, day in enumerate(self._days):
            queries = self._queries[day]
            asked = np.array([query for query in queries if int(query) in self._asked], dtype=np.int64)
            if len(asked):
                yield from self._examples_of_day(int(day), asked)
            self._together.add_all([self._items[query] for query in queries])
            progress("examples", number + 1, len(self._days))

    def _choose_ranked(self, asked: dict[str, npt.NDArray]) -> set[int]:
        """All test invoices, and the validation invoices with the smallest hashes."""
        test = asked["query"][asked["split"] == TEST]
        validation = asked["query"][asked["split"] == VALIDATION]
        keys = np.array([self._keys[query] for query in validation.tolist()], dtype=np.uint64)
        numbers = np.full(len(keys), _INVOICE_SAMPLING_STREAM)
        draw = hashed_uniforms(self._sampling.seed, keys, numbers, _INVOICE_SAMPLING_STREAM)
        chosen = validation[np.argsort(draw, kind="stable")[: self._sampling.ranking_validation_invoices]]
        return {*test.tolist(), *chosen.tolist()}

    def _examples_of_day(self, day: int, queries: Ints) -> Iterator[pa.RecordBatch]:
        candidates, weights = self._candidates[day], self._weights[day]
        lists = [self._items[query] for query in queries]
        position = np.repeat(np.arange(len(queries)), [len(items) for items in lists])
        positives = np.concatenate(lists)
        keys = np.array([self._keys[int(query)] for query in queries], dtype=np.uint64)
        negative_position, negatives = draw_negatives(
            position, positives, keys, candidates, weights, self._sampling.negatives_per_positive, self._sampling.seed
        )
        negative_of = _Groups(negative_position, negatives)
        for number, query in enumerate(queries):
            drawn = negative_of[number]
            items = np.concatenate([lists[number], drawn])
            label = np.repeat([1, 0], [len(lists[number]), len(drawn)])
            yield self._batch(int(query), items, label, is_ranking=False)
            if int(query) in self._ranked and len(candidates):
                yield self._batch(int(query), candidates, np.isin(candidates, lists[number]), is_ranking=True)

    def _batch(self, query: int, items: Ints, label: npt.NDArray, is_ranking: bool) -> pa.RecordBatch:
        affinity = self._together.affinity(self._recent[query], items)
        columns = [np.full(len(items), query), items, label, np.full(len(items), is_ranking), affinity]
        arrays = [pa.array(column).cast(field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _columns(connection: Backend, rows: ir.Table) -> dict[str, npt.NDArray]:
    table = fetch(connection, rows)
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    return {
        name: values.cast(pa.int64()).to_numpy() if pa.types.is_integer(values.type) else _texts(values)
        for name, values in columns.items()
    }


def _texts(values: pa.Array) -> npt.NDArray:
    return np.array(values.to_pylist(), dtype=object)
