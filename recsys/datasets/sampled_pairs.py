"""Which items each query is asked about, with the label: positives and sampled negatives, or every candidate.

Works day by day in numpy: the candidates of a day are the same for all its queries.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.datasets.candidate_lists import CandidateLists, GroupedValues, Ints
from recsys.datasets.declared_examples import NegativeRule, RankingRule
from recsys.datasets.negatives import draw_negatives, hashed_uniforms
from recsys.datasets.query_tables import ITEM, QUERY
from recsys.datasets.source import TEST, VALIDATION
from recsys.errors import DataError
from recsys.features.column_names import OWN_PREFIX
from recsys.progress import Progress

RANKING = {VALIDATION: "ranking_validation", TEST: "ranking_test"}
"""Split -> the split in which its queries rank all their candidates."""

IS_POSITIVE, IS_RANKING, COUNT = (f"{OWN_PREFIX}{name}" for name in ("is_positive", "is_ranking", "candidate_count"))
PAIRS = pa.schema(
    {QUERY: pa.int32(), ITEM: pa.int32(), IS_POSITIVE: pa.int8(), IS_RANKING: pa.bool_(), COUNT: pa.int32()}
)
"""A query and an item, whether it was chosen, whether the row is one of a list to rank, and how many events made the
item a candidate (0 where it was none)."""
_QUERY_SAMPLING_STREAM = 1
_MOST_RANKED_ROWS = 60_000_000
_ROWS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Queries:
    """Queries of the splits, in the order of their numbers: (Q,) each.

    Attributes:
        number: of the query among all.
        day: days since 1970, by UTC.
        key: 64 bits that follow from nothing but the query's own id.
        split: its name.
    """

    number: Ints
    day: Ints
    key: npt.NDArray[np.uint64]
    split: npt.NDArray[np.object_]


@dataclass(frozen=True)
class PairSampler:
    """Lists the items of each query.

    Attributes:
        positives: query number -> items, in rising order.
        shown: query number -> the candidates of the query's own; None where they follow from the day.
        ranking: None: no query ranks its candidates here.
    """

    queries: Queries
    positives: GroupedValues
    candidates: CandidateLists
    shown: GroupedValues | None
    negatives: NegativeRule
    ranking: RankingRule | None

    def batches(self, progress: Progress) -> Iterator[pa.RecordBatch]:
        """Yield the pairs of one day after the other, under `PAIRS`.

        Raises:
            DataError: the lists to rank would be too long.
        """
        ranked, rows = self._ranked(), 0
        days = np.unique(self.queries.day)
        for number, day in enumerate(days.tolist()):
            here = np.flatnonzero(self.queries.day == day)
            for batch in self._of_day(day, here, ranked):
                rows += batch.num_rows
                yield batch
            if rows > _MOST_RANKED_ROWS and self.ranking:
                raise DataError(
                    f"{rows:,} pairs of queries and candidates after {number + 1} of {len(days)} days; at most "
                    f"{_MOST_RANKED_ROWS:,} are prepared. Rank fewer queries (`table.ranking: {{test_queries: 100}}`), "
                    "or the nearest items alone (`table.candidates: {nearest: 200}`)."
                )
            progress("examples", number + 1, len(days))

    def _ranked(self) -> Ints:
        """The numbers of the queries that rank their candidates: those of a split with the smallest hashes, or all."""
        chosen = [np.empty(0, dtype=np.int64)]
        for split in RANKING if self.ranking else ():
            inside = np.flatnonzero(self.queries.split == split)
            most = getattr(self.ranking, f"{split}_queries") or len(inside)
            numbers = np.full(len(inside), _QUERY_SAMPLING_STREAM)
            draw = hashed_uniforms(self.negatives.seed, self.queries.key[inside], numbers, _QUERY_SAMPLING_STREAM)
            chosen.append(self.queries.number[inside[np.argsort(draw, kind="stable")[:most]]])
        return np.concatenate(chosen)

    def _of_day(self, day: int, here: Ints, ranked: Ints) -> Iterator[pa.RecordBatch]:
        items, counts = self.candidates.of_day(day)
        of_item = self.candidates.counts(day)
        numbers = self.queries.number[here]
        lists = [self.positives[number] for number in numbers.tolist()]
        lengths, chosen = [len(each) for each in lists], np.concatenate(lists)
        places, drawn = self._drawn(here, lists, items, counts)
        yield _batch(np.repeat(numbers, lengths), chosen, np.ones(len(chosen)), of_item, is_ranking=False)
        if len(drawn):
            yield _batch(numbers[places], drawn, np.zeros(len(drawn)), of_item, is_ranking=False)
        taken = np.repeat(numbers, lengths) * len(of_item) + chosen
        for number, listed in self._lists(np.intersect1d(numbers, ranked), items):
            label = np.isin(number * len(of_item) + listed, taken)
            yield _batch(number, listed, label, of_item, is_ranking=True)

    def _lists(self, numbers: Ints, items: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Queries and the candidates that each ranks, some queries at a time."""
        if self.shown is not None:
            for number in numbers.tolist():
                listed = np.unique(self.shown[number])
                yield np.full(len(listed), number), listed
            return
        at_once = max(1, _ROWS_AT_ONCE // max(1, len(items)))
        for start in range(0, len(numbers) if len(items) else 0, at_once):
            some = numbers[start : start + at_once]
            yield np.repeat(some, len(items)), np.tile(items, len(some))

    def _drawn(self, here: Ints, lists: list[Ints], items: Ints, counts: Ints) -> tuple[Ints, Ints]:
        """The negatives of the queries: the place of each one's query in `here`, and its item."""
        if self.shown is None:
            position = np.repeat(np.arange(len(lists)), [len(each) for each in lists])
            weights = counts.astype(np.float64) ** self.negatives.power
            return self._draw(position, np.concatenate(lists), self.queries.key[here], items, weights)
        parts = []
        for place, number in enumerate(self.queries.number[here].tolist()):
            own = np.unique(self.shown[number])
            alone, key = np.zeros(len(lists[place]), dtype=np.int64), self.queries.key[here[place : place + 1]]
            _, found = self._draw(alone, lists[place], key, own, np.ones(len(own)))
            parts.append((np.full(len(found), place), found))
        places, found = (np.concatenate(each) for each in zip(*parts, strict=True))
        return places, found

    def _draw(
        self,
        position: Ints,
        items: Ints,
        keys: npt.NDArray[np.uint64],
        candidates: Ints,
        weights: npt.NDArray[np.float64],
    ) -> tuple[Ints, Ints]:
        rule = self.negatives
        return draw_negatives(position, items, keys, candidates, weights, rule.per_positive, rule.seed)


def _batch(queries: Ints, items: Ints, label: npt.NDArray, counts: Ints, *, is_ranking: bool) -> pa.RecordBatch:
    columns = [queries, items, label, np.full(len(items), is_ranking), counts[items]]
    arrays = [pa.array(column).cast(field.type) for column, field in zip(columns, PAIRS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=PAIRS)
