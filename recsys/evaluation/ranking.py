"""Recall, NDCG and MRR at a cutoff, by which whole candidate lists are judged, in one pass over rows in any order.

Every row is one candidate of one query (an invoice); its label says whether it is relevant. A query's relevant products
that are no candidates have no row and so count nowhere, as in the protocol. Queries without a relevant candidate are
left out of the means and counted.

Memory holds the best k rows of each query and scope, never all candidates: 7 million rows of 2,400 queries keep at most
96,000 rows. Rows of a query may come in several batches and from several processes.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from recsys.all_segments import ALL
from recsys.errors import DataError
from recsys.evaluation import ranks
from recsys.evaluation.query_tops import QueryTops, TopRows, query_columns
from recsys.evaluation.scores import Score
from recsys.features.batch import Batch
from recsys.files import published_directory
from recsys.metrics.columns import Column, Floats
from recsys.metrics.metric import RankedCandidates
from recsys.metrics.predictions import QueryValues
from recsys.metrics.ranked_lists import COVERAGE, SCOPES, SHORT_CUTOFF, name_at
from recsys.metrics.registry import ranking_metrics
from recsys.progress import Progress, silent

_FILE = "ranking.safetensors"
_COLUMNS = ("query", "user", "segment", "queries_left_out")


@dataclass(frozen=True)
class QueryScores:
    """Queries that have a relevant candidate in one scope, in rising order of their number.

    Attributes:
        query: (Q,) int64.
        user: (Q,) int64 `user_key`, -1 where the data has none.
        segment: (Q,) int64, each in [0, S).
        values: ranking metric -> its value for each query, (Q,) float64.
        queries_left_out: queries of this scope without a relevant candidate.
    """

    query: Column
    user: Column
    segment: Column
    values: Mapping[str, Floats]
    queries_left_out: int


@dataclass(frozen=True)
class RankingEvaluation:
    """How well one score ranks: the queries' values for each of `SCOPES`, and the means that are reported.

    Attributes:
        coverage: share of the catalogue, all queries' candidates together, that stands among some query's best k; None
            where the rows do not tell the items.
        shorter: the same at `SHORT_CUTOFF`; None where that is no shorter, and for what was read from a file.
    """

    cutoff: int
    segments: tuple[str, ...]
    by_scope: Mapping[str, QueryScores]
    coverage: float | None = None
    shorter: "RankingEvaluation | None" = None

    def mean(self, metric: str, scope: str, segment: str = ALL) -> float | None:
        """Mean of "recall" or "ndcg" over the queries of a segment; None where it has none."""
        scores = self.by_scope[scope]
        values = scores.values[metric]
        if segment != ALL:
            values = values[scores.segment == self.segments.index(segment)]
        return float(values.mean()) if len(values) else None

    def flat_metrics(self, prefix: str) -> dict[str, float]:
        """Names to values for a tracking store: "<prefix>_recall_20/all", "<prefix>_ndcg_20_new/<segment>", ...

        Absent where undefined; "<prefix>_queries/<segment>" counts the queries behind the means over all candidates.
        """
        start = f"{prefix}_" if prefix else ""
        means = {
            f"{start}{name}/{segment}": self.mean(metric, scope, segment)
            for name, (scope, metric) in self._names().items()
            for segment in (ALL, *self.segments)
        }
        counts = np.bincount(self.by_scope[ALL].segment, minlength=len(self.segments))
        support = dict(zip((ALL, *self.segments), (counts.sum(), *counts), strict=True))
        means[f"{start}{name_at(COVERAGE, self.cutoff)}/{ALL}"] = self.coverage
        flat = {name: value for name, value in means.items() if value is not None}
        flat |= self.shorter.flat_metrics(prefix) if self.shorter else {}
        return flat | {f"{start}queries/{segment}": float(count) for segment, count in support.items()}

    def by_query(self) -> dict[str, QueryValues]:
        """Metric as in `flat_metrics` ("recall_20", "ndcg_20_new") -> its value for each query."""
        return {
            name: QueryValues(scores.user, scores.segment, scores.values[metric])
            for name, (scope, metric) in self._names().items()
            for scores in [self.by_scope[scope]]
        }

    def _names(self) -> dict[str, tuple[str, str]]:
        return {
            name_at(metric, self.cutoff, scope): (scope, metric)
            for scope, scores in self.by_scope.items()
            for metric in scores.values
        }


def evaluate_ranking(
    scores: Mapping[str, Score],
    stream: Iterable[Batch],
    segments: tuple[str, ...],
    cutoff: int,
    progress: Progress = silent,
    item: str = "",
) -> dict[str, RankingEvaluation]:
    """Rank every query's candidates by each of `scores` in one pass, so that a ranker stands beside its baselines.

    The batches carry the extra columns `query`; `is_new_to_user` where the second scope is wanted; `user_key` where the
    queries are to be bootstrapped by user. Candidates of one score are ordered by a fixed shuffle of their positions in
    the stream: neither arbitrary nor in favour of rows that happen to come first, such as relevant ones.

    Args:
        item: the sparse feature that names the item; without it no coverage is told.

    Raises:
        DataError: a column is missing, or one query has rows of two segments or users.
        TrainingError: a score is NaN.
    """
    tops = {name: TopRows(cutoff) for name in scores}
    # Processes number their rows far apart, so that no two rows are shuffled to the same place.
    position = ranks.rank() << 40
    total = getattr(stream, "num_batches", 0)
    for done, (batch, is_own) in enumerate(ranks.in_step(stream), start=1):
        values = {name: score(batch) for name, score in scores.items()}
        if is_own:
            columns = query_columns(batch, position, item)
            for name, value in values.items():
                tops[name].add(value.detach().cpu().numpy().astype(np.float64), columns)
            position += len(batch)
        progress("ranking", done, total)
    return {name: summarise(top.gathered(), segments, cutoff) for name, top in tops.items()}


def save_ranking(ranking: RankingEvaluation, folder: Path) -> None:
    """Write every query's values to `folder`, which is published whole or not at all.

    Raises:
        CannotWriteError: the place cannot be written.
    """
    columns = {
        f"{scope}.{name}": np.atleast_1d(np.asarray(value))
        for scope, scores in ranking.by_scope.items()
        for name, value in {**{name: getattr(scores, name) for name in _COLUMNS}, **scores.values}.items()
    }
    facts = {"cutoff": str(ranking.cutoff), "segments": json.dumps(ranking.segments)}
    with published_directory(folder) as work:
        save_file(columns, work / _FILE, metadata=facts)


def load_ranking(folder: Path) -> RankingEvaluation:
    """Read what `save_ranking` wrote.

    Raises:
        DataError: the file is absent or damaged.
    """
    path = folder / _FILE
    if not path.is_file():
        raise DataError(f"No ranking at {path}. Run the arm again, or point to the folder that it wrote.")
    try:
        with safe_open(path, framework="numpy") as stored:
            facts, columns = stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        scopes = dict.fromkeys(name.split(".")[0] for name in columns)
        by_scope = {scope: _stored_scores(columns, scope) for scope in SCOPES if scope in scopes}
        return RankingEvaluation(int(facts["cutoff"]), tuple(json.loads(facts["segments"])), by_scope)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"The ranking in {path} cannot be read: {error}. Delete it and run the arm again.") from error


def _stored_scores(columns: Mapping[str, Column], scope: str) -> QueryScores:
    own = {name.removeprefix(f"{scope}."): column for name, column in columns.items() if name.startswith(f"{scope}.")}
    query, user, segment, left_out = (own.pop(name) for name in _COLUMNS)
    values = {metric.name: own[metric.name] for metric in ranking_metrics()}
    return QueryScores(query, user, segment, values, int(left_out[0]))


def summarise(top: QueryTops, segments: tuple[str, ...], cutoff: int) -> RankingEvaluation:
    """Judge the best rows of all queries, of which at least the best `cutoff` are kept."""
    by_scope = {
        scope: _query_scores(top, index, cutoff) for index, scope in enumerate(SCOPES) if index in top.relevant_in_scope
    }
    coverage = None
    if top.item is not None and top.catalogue:
        shown = top.item[(top.scope == 0) & (top.place < cutoff)]
        coverage = len(np.unique(shown)) / top.catalogue
    shorter = summarise(top, segments, SHORT_CUTOFF) if cutoff > SHORT_CUTOFF else None
    return RankingEvaluation(cutoff, segments, by_scope, coverage, shorter)


def _query_scores(top: QueryTops, scope: int, cutoff: int) -> QueryScores:
    relevant = top.relevant_in_scope[scope]
    counts = relevant > 0
    is_hit = (top.scope == scope) & top.is_relevant & (top.place < cutoff)
    # A hit's query has a relevant candidate, so it is among those that count, at a place of its own.
    place_of_query = np.cumsum(counts) - 1
    ranked = RankedCandidates(
        cutoff, relevant[counts], place_of_query[top.query_index[is_hit]], hit_place=top.place[is_hit]
    )
    return QueryScores(
        query=top.query[counts],
        user=top.user[counts],
        segment=top.segment[counts],
        values={metric.name: metric.of_queries(ranked) for metric in ranking_metrics() if metric.of_queries},
        queries_left_out=int((~counts).sum()),
    )
