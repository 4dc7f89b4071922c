"""Ranking of lists that are not prepared: those of labelled events, and the nearest by the tower, in two stages.

Every query of a split looks for its nearest candidates, the ranker orders those, and the lists are judged against all
of the query's relevant items: one that was not retrieved counts as not found.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
from torch import nn

from recsys.all_segments import ALL
from recsys.config import RunConfig
from recsys.datasets.candidate_lists import CandidateLists, GroupedValues, Ints
from recsys.datasets.computed_features import own_name
from recsys.datasets.database import Backend, temporary_database
from recsys.datasets.declared_examples import RankingRule
from recsys.datasets.encoded import EncodedDataset
from recsys.datasets.event_log import TIME
from recsys.datasets.event_tables import read_events
from recsys.datasets.labelled_queries import labelled_choices
from recsys.datasets.negatives import hashed_uniforms, text_keys
from recsys.datasets.pair_batches import PairBatches
from recsys.datasets.pair_rows import PairRows
from recsys.datasets.past import CONTRIBUTES, MOMENT, UNIT
from recsys.datasets.query_tables import ID, ITEM, QUERY, QueryLog, read_queries
from recsys.datasets.sampled_examples import day_of, item_days, number_columns
from recsys.datasets.source import SPLIT
from recsys.datasets.table_layout import TableLayout, load_table_layout
from recsys.evaluation.query_tops import QueryTops
from recsys.evaluation.ranking import RankingEvaluation, summarise
from recsys.metrics.ranked_lists import CANDIDATES_RECALL, SCOPES, TOWER
from recsys.progress import Progress
from recsys.run.prepare import raw_folder
from recsys.run.serving import prepared_schema_file
from recsys.run.streams import own_share
from recsys.run.two_stages import Side, TwoStages, in_blocks
from recsys.sharding.processes import ProcessContext

_PAIRS_AT_ONCE = 500_000


@dataclass(frozen=True)
class RankedNearest:
    """How well both stages rank, and the first one alone.

    Attributes:
        tower: None where every candidate was ranked, and the tower chose none.
        candidates_recall: the mean over the queries of the share of their relevant items that were retrieved.
    """

    ranker: RankingEvaluation
    tower: RankingEvaluation | None
    candidates_recall: float

    def flat_metrics(self) -> dict[str, float]:
        """Names to values: "recall_20/all", "tower_recall_20/all", "candidates_recall/all", ..."""
        both = self.ranker.flat_metrics("") | (self.tower.flat_metrics(TOWER) if self.tower else {})
        return both | {f"{CANDIDATES_RECALL}/{ALL}": self.candidates_recall}


def nearest_layout(encoded: EncodedDataset) -> TableLayout | None:
    """The layout of data that are ranked here; None for all others."""
    with prepared_schema_file(encoded) as path:
        layout = load_table_layout(path, encoded.contract.schema) if path else None
    if layout is None or layout.candidates is None:
        return None
    # Lists of events without labels are prepared, unless the tower is to find them.
    return layout if layout.candidates.nearest or layout.label else None


def rank_nearest(
    config: RunConfig,
    encoded: EncodedDataset,
    layout: TableLayout,
    ranker: nn.Module,
    context: ProcessContext,
    split: str,
    cutoff: int,
    progress: Progress,
) -> RankedNearest:
    """Rank the queries of a split. Several processes that share a ranker's tables all rank all of them, in step.

    Raises:
        UsageError: the tower has no user side, or a side of it reads what is not its own.
    """
    rule = layout.candidates
    assert rule is not None
    raw, contract = raw_folder(config, progress), encoded.contract
    vocabularies = {table: encoded.vocabulary(table) for table in contract.table_rows}
    with (
        TemporaryDirectory(dir=config.runtime.encoded, prefix=".ranking.") as folder,
        temporary_database(Path(folder), *own_share(config)) as connection,
    ):
        read = labelled_choices if layout.label else read_queries
        log = read(connection, read_events(connection, raw, layout, contract.schema, progress), progress)
        pairs = PairBatches(
            connection, PairRows(log, log.queries), contract, vocabularies, progress, is_one_moment=False
        )
        stages = TwoStages(pairs, ranker, context.device, has_retrieval=rule.nearest > 0)
        asked = _asked(connection, log, layout, split)
        lists = CandidateLists(rule, item_days(connection, log))
        found = _Found.empty(asked, cutoff)
        for done, (days, here) in enumerate(_blocks(asked, lists)):
            _rank_block(stages, asked, layout, days, here, found)
            progress("ranking", done + 1, 0)
    return found.summary(contract.schema.segments, has_tower=stages.has_retrieval)


@dataclass(frozen=True)
class _Asked:
    """The queries of a split, in the order of their days, (Q,) each.

    Attributes:
        relevant: query number -> the items that it chose, rising; new: those that the user had not had before.
    """

    number: Ints
    day: Ints
    user: Ints
    relevant: GroupedValues
    new: GroupedValues


def _asked(connection: Backend, log: QueryLog, layout: TableLayout, split: str) -> _Asked:
    queries = log.queries.filter(log.queries[SPLIT] == split)
    named = queries.select(number=QUERY, day=day_of(queries[TIME]), user=UNIT, id=queries[ID].cast("string"))
    columns = number_columns(connection, named.order_by(["day", "number"]))
    rule, numbers = layout.ranking or RankingRule(), columns["number"]
    if (most := getattr(rule, f"{split}_queries", 0)) and most < len(numbers):
        seed = layout.negatives.seed if layout.negatives else 0
        draw = hashed_uniforms(seed, text_keys(columns["id"]), np.zeros(len(numbers), np.int64), 0)
        kept = np.sort(np.argsort(draw, kind="stable")[:most])
        columns = {name: values[kept] for name, values in columns.items()}
    events = log.log.rows
    chosen = log.choices.select(number=QUERY, item=ITEM, user=log.choices[own_name(log.raw.schema.user)]).distinct()
    chosen = chosen.join(queries.select(number=QUERY, moment=MOMENT), "number")
    # The log's own columns of user and item, so that what was had before is what the rows say it is.
    known = events.filter(events[CONTRIBUTES])
    first = known.group_by(user=own_name(log.raw.schema.user), item=ITEM).aggregate(first=known[MOMENT].min())
    chosen = chosen.left_join(first, ["user", "item"])
    is_new = (chosen["first"].isnull() | chosen["moment"].isnull() | (chosen["first"] >= chosen["moment"])).cast("int8")
    found = number_columns(connection, chosen.select("number", "item", is_new=is_new).order_by(["number", "item"]))
    new = found["is_new"] == 1
    return _Asked(
        columns["number"],
        columns["day"],
        columns["user"],
        GroupedValues(found["number"], found["item"]),
        GroupedValues(found["number"][new], found["item"][new]),
    )


def _blocks(asked: _Asked, lists: CandidateLists) -> Iterator[tuple[list[tuple[slice, Ints, Ints]], slice]]:
    """Yield days in rising order, as many as there is room for: their queries, candidates and counts; all queries."""
    waiting, rows = list[tuple[slice, Ints, Ints]](), 0
    days, starts = np.unique(asked.day, return_index=True)
    for day, start, stop in zip(days.tolist(), starts, [*starts[1:], len(asked.day)], strict=True):
        items, counts = lists.of_day(day)
        if waiting and rows + len(items) > _PAIRS_AT_ONCE:
            yield waiting, slice(waiting[0][0].start, waiting[-1][0].stop)
            waiting, rows = [], 0
        waiting.append((slice(int(start), int(stop)), items, counts.copy()))
        rows += len(items)
    if waiting:
        yield waiting, slice(waiting[0][0].start, waiting[-1][0].stop)


def _rank_block(
    stages: TwoStages,
    asked: _Asked,
    layout: TableLayout,
    days: list[tuple[slice, Ints, Ints]],
    here: slice,
    found: "_Found",
) -> None:
    assert layout.candidates is not None
    nearest = layout.candidates.nearest or max(len(items) for _, items, _ in days)
    power = layout.negatives.power if layout.negatives else 0.0
    sizes = [len(items) for _, items, _ in days]
    starts = np.cumsum([0, *sizes])
    # Items as they were when the day's first query began.
    references = np.repeat([asked.number[of_day.start] for of_day, _, _ in days], sizes)
    items = stages.items(references, np.concatenate([items for _, items, _ in days]))
    log_rate = power * np.log(np.maximum(np.concatenate([counts for _, _, counts in days]), 1))
    found.catalogue.update(items.numbers.tolist())
    for part in in_blocks(here.stop - here.start, max(1, _PAIRS_AT_ONCE // nearest)):
        inside = slice(here.start + part.start, here.start + part.stop)
        queries = stages.queries(
            asked.number[inside], np.array([asked.relevant[number][0] for number in asked.number[inside].tolist()])
        )
        query, item, product = _retrieved(stages, queries, items, days, starts, inside, nearest)
        logits, had = stages.logits(queries, query, items, item)
        found.add(asked, inside, queries, query, items.numbers[item], had, product, logits + log_rate[item])


def _retrieved(
    stages: TwoStages,
    queries: Side,
    items: Side,
    days: list[tuple[slice, Ints, Ints]],
    starts: Ints,
    inside: slice,
    nearest: int,
) -> tuple[Ints, Ints, npt.NDArray[np.float64]]:
    """The nearest candidates of each query: its place, the item's place, and their inner product, (P,) each."""
    parts = []
    for (of_day, _, _), start, stop in zip(days, starts[:-1], starts[1:], strict=True):
        low, high = max(of_day.start, inside.start) - inside.start, min(of_day.stop, inside.stop) - inside.start
        if low < high and start < stop:
            if stages.has_retrieval:
                products, places = stages.retrieved(queries.part(low, high), items.part(int(start), int(stop)), nearest)
            else:
                places = np.tile(np.arange(stop - start), (high - low, 1))
                products = np.zeros(places.shape)
            query = np.repeat(np.arange(low, high), products.shape[1])
            parts.append((query, places.ravel() + start, products.ravel()))
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    query, item, product = (np.concatenate(each) for each in zip(*parts, strict=True))
    return query, item, product


@dataclass
class _Found:
    """What the blocks found so far, by score."""

    cutoff: int
    asked: _Asked
    segment: Ints
    relevant: dict[int, Ints]
    retrieved: Ints
    catalogue: set[int]
    tops: dict[str, list[tuple[Ints, ...]]]

    @classmethod
    def empty(cls, asked: _Asked, cutoff: int) -> "_Found":
        """Nothing found yet."""
        sizes = {
            scope: np.array([len(items[number]) for number in asked.number.tolist()], dtype=np.int64)
            for scope, items in enumerate((asked.relevant, asked.new))
        }
        zeros = np.zeros(len(asked.number), dtype=np.int64)
        return cls(cutoff, asked, zeros, sizes, zeros.copy(), set(), {"ranker": [], TOWER: []})

    def add(
        self,
        asked: _Asked,
        inside: slice,
        queries: Side,
        query: Ints,
        item: Ints,
        had: npt.NDArray[np.bool_],
        product: npt.NDArray[np.float64],
        score: npt.NDArray[np.float64],
    ) -> None:
        """Keep the best pairs of some queries; `query` counts from the first of them."""
        self.segment[inside] = queries.segment
        size = int(item.max(initial=0)) + 2
        chosen = [asked.relevant[number] for number in asked.number[inside].tolist()]
        codes = np.concatenate([place * size + items[items < size - 1] for place, items in enumerate(chosen)])
        is_relevant = np.isin(query * size + item, codes)
        self.retrieved[inside] = np.bincount(query[is_relevant], minlength=inside.stop - inside.start)
        for name, values in ((TOWER, product), ("ranker", score)):
            for scope, kept in enumerate((np.ones(len(query), dtype=bool), ~had)):
                of = query[kept]
                order = np.lexsort((item[kept], -values[kept], of))
                place = np.arange(len(of)) - np.searchsorted(of[order], of[order])
                best = order[place < self.cutoff]
                of_query, of_place = query[kept][best] + inside.start, place[place < self.cutoff]
                facts = (np.full(len(best), scope), of_query, of_place, is_relevant[kept][best], item[kept][best])
                self.tops[name].append(facts)

    def summary(self, segments: tuple[str, ...], *, has_tower: bool) -> RankedNearest:
        """Judge all that was found."""
        names = ("ranker", TOWER) if has_tower else ("ranker",)
        ranked = {name: summarise(self._tops(self.tops[name]), segments, self.cutoff) for name in names}
        recall = float((self.retrieved / self.relevant[0]).mean()) if len(self.retrieved) else 0.0
        return RankedNearest(ranked["ranker"], ranked.get(TOWER), recall)

    def _tops(self, parts: list[tuple[Ints, ...]]) -> QueryTops:
        scope, query, place, is_relevant, item = (np.concatenate(each) for each in zip(*parts, strict=True))
        return QueryTops(
            query=self.asked.number,
            user=self.asked.user,
            segment=self.segment,
            relevant_in_scope={scope: self.relevant[scope] for scope in range(len(SCOPES))},
            scope=scope,
            query_index=query,
            place=place,
            is_relevant=is_relevant,
            item=item,
            catalogue=len(self.catalogue),
        )
