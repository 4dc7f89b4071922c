"""Recall, NDCG and MRR at a cutoff: how many relevant candidates of a query are among its best k, and how high up.

Source of NDCG: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (2002); relevance is 0 or 1.
"""

import numpy as np

from recsys.all_segments import ALL
from recsys.metrics.columns import Floats
from recsys.metrics.metric import Metric, RankedCandidates

SHORT_CUTOFF = 10
"""Longer lists are judged at this cutoff too, at which much of the literature compares."""
TOWER, COVERAGE, CANDIDATES_RECALL = "tower", "coverage", "candidates_recall"
"""Goes before the names of metrics of a ranking by the tower alone; the share of the catalogue on some list;
the mean over queries of the share of their relevant items that the first of two stages retrieved."""
SCOPES = (ALL, "new_to_user")
"""All candidates, and those that the user has never bought: bought ones leave candidates and relevant alike."""
_SUFFIXES = dict(zip(SCOPES, ("", "_new"), strict=True))


def name_at(metric: str, cutoff: int, scope: str = ALL) -> str:
    """The name of a metric of candidate lists with its cutoff and scope.

    >>> name_at("recall", 20), name_at("ndcg", 20, "new_to_user")
    ('recall_20', 'ndcg_20_new')
    """
    return f"{metric}_{cutoff}{_SUFFIXES[scope]}"


def recall(ranked: RankedCandidates) -> Floats:
    """Share of each query's relevant candidates that are among its best k, (Q,) in [0, 1]."""
    hits = np.bincount(ranked.hit_query, minlength=len(ranked.relevant))
    share: Floats = hits / ranked.relevant
    return share


def ndcg(ranked: RankedCandidates) -> Floats:
    """Sum over a query's hits of 1 / log2(place + 2) over the same sum for the best order, (Q,) in [0, 1]."""
    discount = 1 / np.log2(np.arange(2, ranked.cutoff + 2))
    gains = np.bincount(ranked.hit_query, weights=discount[ranked.hit_place], minlength=len(ranked.relevant))
    best = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(ranked.relevant, ranked.cutoff)]
    share: Floats = gains / best
    return share


def reciprocal_rank(ranked: RankedCandidates) -> Floats:
    """1 / (place + 1) of each query's first hit, 0 without one, (Q,) in [0, 1]; its mean is the MRR."""
    first = np.zeros(len(ranked.relevant))
    np.maximum.at(first, ranked.hit_query, 1 / (ranked.hit_place + 1.0))
    return first


RECALL = Metric("recall", "recall", of_queries=recall)
NDCG = Metric("ndcg", "NDCG", of_queries=ndcg)
MRR = Metric("mrr", "MRR", of_queries=reciprocal_rank, is_in_study=False)
