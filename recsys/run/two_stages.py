"""Two stages: the tower finds the nearest of many candidates, the ranker orders them.

Between them users x candidates never stands in memory as rows: vectors are one per user and one per item, and rows are
made of the pairs that the first stage leaves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recsys.datasets.candidate_lists import Ints
from recsys.datasets.column_levels import Level
from recsys.datasets.pair_batches import EncodedColumns, PairBatches
from recsys.errors import TrainingError, UsageError
from recsys.evaluation.scores import Score
from recsys.evaluation.split_evaluation import evaluation_mode
from recsys.features.batch import Batch
from recsys.sharding.inventory import unwrapped
from recsys.towers.nearest import nearest
from recsys.towers.two_sided import TwoSidedTower

_NONE = np.empty(0, dtype=np.int64)
_QUERY_PLACE, _ITEM_PLACE = "query_place", "item_place"


@dataclass(frozen=True)
class Side:
    """Queries, or items as of some queries: numbers (n,), own columns, segments (n,), vectors (n, D) or None."""

    numbers: Ints
    table: EncodedColumns
    segment: Ints
    vectors: Tensor | None

    def part(self, start: int, stop: int) -> "Side":
        """Some of them, with their vectors alone."""
        vectors = None if self.vectors is None else self.vectors[start:stop]
        return Side(self.numbers[start:stop], EncodedColumns({}), self.segment[start:stop], vectors)


@dataclass(frozen=True)
class TwoStages:
    """A ranker over pairs of queries and items.

    Attributes:
        has_retrieval: whether the vectors of both sides are wanted.
    """

    pairs: PairBatches
    ranker: nn.Module
    device: torch.device
    has_retrieval: bool

    def __post_init__(self) -> None:
        """Refuse to retrieve without vectors of both sides."""
        if not self.has_retrieval:
            return
        tower = unwrapped(self.ranker).embedding_tower
        if not isinstance(tower, TwoSidedTower) or not (spec := tower.spec).user_features:
            found = "has no user side" if isinstance(tower, TwoSidedTower) else "has no vectors without a candidate"
            raise UsageError(
                f"The run's tower {found}, so it cannot say which items are nearest to a user. Rank every candidate "
                "(`--retrieve 0`, no `table.candidates.nearest`), or train with tower=two_tower or tower=sequence."
            )
        self.pairs.require_sides(spec.user_features, spec.item_features)

    def queries(self, queries: Ints, items: Ints) -> Side:
        """Read the queries' side; `items` names any item for each of them, (Q,)."""
        return self._side(queries, items, Level.QUERY)

    def items(self, queries: Ints, items: Ints) -> Side:
        """Read the items' side, each as it is when the query beside it begins, (R,)."""
        return self._side(queries, items, Level.ITEM)

    def retrieved(
        self, queries: Side, items: Side, number: int, left_out: tuple[Ints, Ints] | None = None
    ) -> tuple[npt.NDArray[np.float64], Ints]:
        """Return each query's nearest items, best first: inner products and places in `items`, (Q, min(number, I)).

        Args:
            left_out: places of queries and items that are not to be found; their product is -inf.
        """
        assert queries.vectors is not None
        assert items.vectors is not None
        query, item = (torch.from_numpy(each).to(self.device) for each in left_out or (_NONE, _NONE))
        scores, places = nearest(queries.vectors, items.vectors, number, (query, item) if left_out else None)
        return scores.double().cpu().numpy(), places.cpu().numpy()

    def logits(
        self, queries: Side, query_places: Ints, items: Side, item_places: Ints
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Return the ranker's logit of each pair, and whether the user had the item before: (P,) each.

        Raises:
            TrainingError: a logit is NaN.
        """
        of_pairs = self.pairs.of_pairs(queries.numbers[query_places], items.numbers[item_places])
        places = np.arange(len(query_places))
        parts = [(queries.table, query_places), (items.table, item_places), (of_pairs, places)]
        found, start = [np.empty(0)], 0
        with evaluation_mode(self.ranker), self._known_vectors(queries, items):
            for batch in self.pairs.batches(parts):
                here = slice(start, start + len(batch))
                batch.extra = {
                    _QUERY_PLACE: torch.from_numpy(query_places[here]),
                    _ITEM_PLACE: torch.from_numpy(item_places[here]),
                }
                found.append(self.ranker(batch.to(self.device)).double().cpu().numpy())
                start += len(batch)
        logits, had = np.concatenate(found), of_pairs.had_before
        if np.isnan(logits).any():
            raise TrainingError(f"{int(np.isnan(logits).sum()):,} scores are NaN: they cannot be ranked.")
        return logits, np.zeros(len(places), dtype=bool) if had is None else had

    @property
    def _tower(self) -> TwoSidedTower:
        tower = unwrapped(self.ranker).embedding_tower
        assert isinstance(tower, TwoSidedTower)
        return tower

    @contextmanager
    def _known_vectors(self, queries: Side, items: Side) -> Iterator[None]:
        """Within it the ranker's tower takes the sides' vectors where they are what it would compute for each pair."""
        user, item = queries.vectors, items.vectors
        if user is None or item is None or not self.pairs.has_fixed(self._tower.spec.item_features):
            yield
            return
        tower, before = self._tower, (self._tower.is_frozen, self._tower.cache)
        # A tower with a cache is one that does not learn; here nothing does.
        tower.is_frozen = True
        tower.cache = lambda batch: [user[batch.extra[_QUERY_PLACE]], item[batch.extra[_ITEM_PLACE]]]
        try:
            yield
        finally:
            tower.is_frozen, tower.cache = before

    def _side(self, queries: Ints, items: Ints, level: Level) -> Side:
        table = self.pairs.side(level, queries, items)
        vectors = None
        if self.has_retrieval:
            found = [torch.empty(0, self._tower.spec.width, device=self.device)]
            with evaluation_mode(self.ranker):
                for batch in self.pairs.side_batches(table):
                    sides = self._tower.side_vectors(batch.to(self.device))
                    found.append(sides[0 if level is Level.QUERY else 1])
            vectors = torch.cat(found)
        return Side(
            queries if level is Level.QUERY else items, self.pairs.of(level, table), self.pairs.segment(table), vectors
        )


def tower_score(tower: TwoSidedTower) -> Score:
    """The inner product of the user's vector and the item's, by which the first of two stages retrieves."""

    def score(batch: Batch) -> Tensor:
        with evaluation_mode(tower):
            user, item = tower.side_vectors(batch)
        return (user * item).sum(dim=1).double()

    return score


def in_blocks(total: int, size: int) -> Iterator[slice]:
    """Cut `total` into runs of `size`, the last one shorter."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
