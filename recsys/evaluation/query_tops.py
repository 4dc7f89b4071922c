"""The best k candidates of each query, kept while rows stream past in any order, in pieces, from several processes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.errors import DataError, TrainingError
from recsys.evaluation import ranks
from recsys.features.batch import Batch
from recsys.metrics.columns import Column, Floats

_ROWS_BEFORE_A_CUT = 100_000


@dataclass(frozen=True)
class QueryTops:
    """Q queries in rising order, and R kept rows of theirs.

    Scope 0 is all candidates, scope 1 those that are new to the user.

    Attributes:
        query, user, segment: (Q,).
        relevant_in_scope: scope -> (Q,) relevant rows among all candidates of the scope, kept or not.
        scope: (R,), the scope that a row was kept in; a row may be kept in both.
        query_index: (R,) in [0, Q).
        place: (R,) in [0, k), 0 for the best.
        is_relevant: (R,) bool.
        item: (R,) a number per item; None where the rows do not tell.
        catalogue: how many items stand among the candidates of all queries.
    """

    query: Column
    user: Column
    segment: Column
    relevant_in_scope: Mapping[int, Column]
    scope: Column
    query_index: Column
    place: Column
    is_relevant: Column
    item: Column | None = None
    catalogue: int = 0


class TopRows:
    """The best k rows of each query and scope so far, with how many relevant rows the query has in all."""

    def __init__(self, cutoff: int) -> None:
        self.cutoff = cutoff
        self._kept: list[dict[str, Column]] = []
        self._num_kept = self._num_after_last_cut = 0
        self._facts: list[dict[str, Column]] = []
        self._items: Column = np.empty(0, np.int64)

    def add(self, score: Floats, columns: dict[str, Column]) -> None:
        """Take in a batch of candidates; what cannot be among the best k any more is dropped from time to time.

        Args:
            score: (B,).
            columns: as `query_columns` makes them, each (B,).

        Raises:
            TrainingError: a score is NaN.
        """
        if np.isnan(score).any():
            raise TrainingError(f"{int(np.isnan(score).sum()):,} scores of a batch are NaN: they cannot be ranked.")
        self._facts.append(_facts(columns))
        rows = {"score": score} | {
            name: columns[name] for name in ("query", "tie", "relevant", "item") if name in columns
        }
        if "item" in columns:
            self._items = np.union1d(self._items, columns["item"])
        self._keep(rows, scope=0)
        if "is_new" in columns:
            self._keep({name: column[columns["is_new"]] for name, column in rows.items()}, scope=1)
        if self._num_kept > 2 * self._num_after_last_cut + _ROWS_BEFORE_A_CUT:
            self._compact()

    def _keep(self, rows: dict[str, Column], scope: int) -> None:
        rows["scope"] = np.full(len(rows["query"]), scope, np.int8)
        self._kept.append(_cut(rows, self.cutoff))
        self._num_kept += len(self._kept[-1]["query"])

    def _compact(self) -> None:
        self._kept = [_cut(_concatenated(self._kept), self.cutoff)]
        self._facts = [_merged(_concatenated(self._facts))]
        self._num_kept = self._num_after_last_cut = len(self._kept[0]["query"])

    def gathered(self) -> QueryTops:
        """Everything so far, over all processes.

        Raises:
            DataError: there are no rows, or one query has rows of two segments or two users.
        """
        if not self._kept:
            raise DataError("There are 0 rows to rank. Prepare the data with a ranking split for these days.")
        self._compact()
        kept = _cut({name: ranks.gather(column) for name, column in self._kept[0].items()}, self.cutoff)
        facts = _merged({name: ranks.gather(column) for name, column in self._facts[0].items()})
        _refuse_mixed_queries(facts)
        scopes = range(2 if facts["has_second_scope"].any() else 1)
        return QueryTops(
            query=facts["query"],
            user=facts["user_low"],
            segment=facts["segment_low"],
            relevant_in_scope={scope: facts[f"relevant_{scope}"] for scope in scopes},
            scope=kept["scope"],
            query_index=np.searchsorted(facts["query"], kept["query"]),
            place=_places(kept),
            is_relevant=kept["relevant"],
            item=kept.get("item"),
            catalogue=len(np.unique(ranks.gather(self._items))),
        )


def query_columns(batch: Batch, position: int, item: str = "") -> dict[str, Column]:
    """Return what ranking reads of a batch besides its scores, on the host, each (B,).

    Args:
        position: of the batch's first row among all rows of this process; ties are broken by a shuffle of positions.
        item: the sparse feature that names the item, so that the lists' coverage can be told.

    Raises:
        DataError: the batch has no column `query`.
    """
    if "query" not in batch.extra:
        raise DataError(
            "Ranking needs the column `query`, which says in which list a row is ranked; the batch has "
            f"{', '.join(batch.extra) or 'no extra columns'}. Prepare the data with a ranking split, and stream it "
            'with extras=("query", ...).'
        )
    host = {name: column.cpu().numpy() for name, column in batch.extra.items()}
    columns: dict[str, Column] = {
        "query": host["query"].astype(np.int64),
        "user": host.get("user_key", np.full(len(batch), -1)).astype(np.int64),
        "segment": batch.segment.cpu().numpy(),
        "relevant": batch.label.cpu().numpy() == 1,
        "tie": _shuffled_positions(position, len(batch)),
    }
    if item:
        columns["item"] = batch.sparse[item].values().cpu().numpy()
    return columns | ({"is_new": host["is_new_to_user"] == 1} if "is_new_to_user" in host else {})


def _facts(columns: dict[str, Column]) -> dict[str, Column]:
    relevant = columns["relevant"].astype(np.int64)
    has_second_scope = "is_new" in columns
    return _merged(
        {
            "query": columns["query"],
            "user_low": columns["user"],
            "user_high": columns["user"],
            "segment_low": columns["segment"],
            "segment_high": columns["segment"],
            "relevant_0": relevant,
            "relevant_1": relevant * columns["is_new"] if has_second_scope else 0 * relevant,
            "has_second_scope": np.full(len(relevant), has_second_scope, np.int64),
        }
    )


def _merged(facts: dict[str, Column]) -> dict[str, Column]:
    """One entry per query, in rising order: lowest user and segment, highest ones, relevant rows summed."""
    order = np.argsort(facts["query"], kind="stable")
    facts = {name: column[order] for name, column in facts.items()}
    query, starts = np.unique(facts["query"], return_index=True)
    if not len(query):
        return facts
    how = {"low": np.minimum, "high": np.maximum, "scope": np.maximum}
    merged = {
        name: how.get(name.rsplit("_", 1)[-1], np.add).reduceat(column, starts)
        for name, column in facts.items()
        if name != "query"
    }
    return {"query": query} | merged


def _refuse_mixed_queries(facts: dict[str, Column]) -> None:
    for what in ("segment", "user"):
        mixed = np.flatnonzero(facts[f"{what}_low"] != facts[f"{what}_high"])
        if len(mixed):
            raise DataError(
                f"{len(mixed):,} queries have rows of more than one {what}, the first is query "
                f"{facts['query'][mixed[0]]}: a query is one user's list at one time. Prepare the ranking split again."
            )


def _concatenated(parts: list[dict[str, Column]]) -> dict[str, Column]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _shuffled_positions(start: int, count: int) -> NDArray[np.int64]:
    """SplitMix64 (Steele et al. 2014) of the positions: equal for equal positions, and in no order."""
    mixed = np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    # Signed, because processes cannot exchange unsigned columns.
    return (mixed ^ (mixed >> np.uint64(31))).view(np.int64)


def _cut(rows: dict[str, Column], cutoff: int) -> dict[str, Column]:
    """The best `cutoff` rows of each (scope, query), best first, in rising order of scope and query."""
    order = np.lexsort((rows["tie"], -rows["score"], rows["query"], rows["scope"]))
    rows = {name: column[order] for name, column in rows.items()}
    return {name: column[_places(rows) < cutoff] for name, column in rows.items()}


def _places(rows: dict[str, Column]) -> NDArray[np.int64]:
    """Each row's place in its list from 0, for rows that `_cut` has sorted."""
    count = len(rows["query"])
    is_first = np.ones(count, bool)
    is_first[1:] = (rows["query"][1:] != rows["query"][:-1]) | (rows["scope"][1:] != rows["scope"][:-1])
    places = np.arange(count)
    return places - np.maximum.accumulate(np.where(is_first, places, 0))
