"""How far training moved vectors from where they began: each by its angle and length, and all by who is near whom.

The two say different things. A rotation of the whole space turns every vector and leaves every neighbour: whoever reads
the numbers can use them no more, whoever ranks by nearness does not notice. So both are measured.

Vectors come in blocks and are not kept, but for those that neighbours are looked for among.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize

from recsys.towers.nearest import nearest

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NeighbourRule:
    """How neighbours are found.

    Attributes:
        count: k, how many nearest neighbours by cosine a vector has.
        queries: vectors whose neighbours are looked for, at most; pool: those that they are looked for among.
        seed: of both samples.
    """

    count: int
    queries: int
    pool: int
    seed: int


@dataclass(frozen=True)
class VectorDrift:
    """What became of N vectors.

    Attributes:
        cosine: (N,) of each vector with its original; exactly 1 where no bit changed, 0 where one of the two is zero.
        norm_change: (N,) by how much longer it became, as a share of the longer of the two: from -1 to 1.
        queries: (Q,) places of the vectors whose neighbours were looked for.
        overlap: (Q,) share of the k nearest neighbours that are the same before and after.
        stands_for: (Q,) how many vectors each query stands for.
        neighbours: k; less than was asked for among few vectors.
        pool: how many vectors they were looked for among.
    """

    cosine: Floats
    norm_change: Floats
    queries: Ints
    overlap: Floats
    stands_for: Floats
    neighbours: int
    pool: int


@dataclass(frozen=True)
class DriftSummary:
    """Weighted means over some vectors; every figure is 0 where nothing moved.

    Attributes:
        vectors: those with a weight above 0.
        cosine_distance: 1 - cosine, from 0 to 2.
        neighbours_lost: 1 - overlap, from 0 to 1; None where none of the queries has a weight.
        norm_change: the absolute one, from 0 to 1.
    """

    vectors: int
    cosine_distance: float
    neighbours_lost: float | None
    norm_change: float


def measure_drift(pairs: Iterable[tuple[Tensor, Tensor]], strata: Ints, rule: NeighbourRule) -> VectorDrift:
    """Compare vectors before and after, block by block.

    Args:
        pairs: (n, D) before and (n, D) after, block after block, N vectors in all.
        strata: (N,) from 0; queries and pool are drawn alike from each, so that a few popular items are among them.

    Raises:
        ValueError: the blocks do not hold N vectors.
    """
    pool, _ = stratified_sample(strata, rule.pool, rule.seed)
    asked, _ = stratified_sample(strata[pool], rule.queries, rule.seed)
    queries, in_pool = pool[asked], np.zeros(len(strata), np.bool_)
    in_pool[pool] = True
    cosine, norm_change = np.empty(len(strata)), np.empty(len(strata))
    kept: tuple[list[Tensor], list[Tensor]] = ([], [])
    start = 0
    for before, after in pairs:
        stop = start + len(before)
        if before.shape != after.shape or stop > len(strata):
            raise ValueError(f"a block holds {tuple(before.shape)} and {tuple(after.shape)} of {len(strata)} vectors")
        cosine[start:stop], norm_change[start:stop] = _moved(before, after)
        here = torch.from_numpy(np.flatnonzero(in_pool[start:stop])).to(before.device)
        for vectors, side in zip((before, after), kept, strict=True):
            side.append(vectors.index_select(0, here).float())
        start = stop
    if start != len(strata):
        raise ValueError(f"the blocks hold {start} vectors; expected {len(strata)}")
    neighbours = min(rule.count, len(pool) - 1)
    overlap = np.ones(len(queries))
    if neighbours > 0:
        overlap = _overlap(*(_neighbours(torch.cat(side), asked, neighbours) for side in kept))
    counts, taken = np.bincount(strata), np.bincount(strata[queries], minlength=int(strata.max(initial=0)) + 1)
    stands_for = counts[strata[queries]] / taken[strata[queries]]
    return VectorDrift(cosine, norm_change, queries, overlap, stands_for, max(neighbours, 0), len(pool))


def summarise(drift: VectorDrift, weight: Floats) -> DriftSummary | None:
    """Return the weighted means over the vectors; None where no vector has a weight.

    Args:
        weight: (N,), 0 for vectors that do not count, such as those of another group.
    """
    if not weight.any():
        return None
    of_queries = weight[drift.queries] * drift.stands_for
    lost = float(np.average(1 - drift.overlap, weights=of_queries)) if of_queries.any() else None
    return DriftSummary(
        vectors=int((weight > 0).sum()),
        cosine_distance=float(np.average(1 - drift.cosine, weights=weight)),
        neighbours_lost=lost,
        norm_change=float(np.average(np.abs(drift.norm_change), weights=weight)),
    )


def worst_movers(drift: VectorDrift, count: int) -> Ints:
    """Return the places of the vectors that turned furthest, (count,), the worst first; those that moved at all."""
    order = np.lexsort((-np.abs(drift.norm_change), drift.cosine))[:count]
    moved = (drift.cosine[order] < 1) | (drift.norm_change[order] != 0)
    return order[moved].astype(np.int64)


def stratified_sample(strata: Ints, most: int, seed: int) -> tuple[Ints, Floats]:
    """Draw at most so many of N places, alike from each stratum as far as it has them; all where N is not more.

    Args:
        strata: (N,) from 0.

    Returns:
        The places, rising, and how many places of its stratum each stands for.
    """
    if len(strata) <= most:
        return np.arange(len(strata)), np.ones(len(strata))
    sizes = np.bincount(strata)
    shares, left = np.zeros_like(sizes), most
    for done, stratum in enumerate(np.argsort(sizes, kind="stable")):
        # What a small stratum leaves goes to the larger ones after it.
        shares[stratum] = min(int(sizes[stratum]), left // (len(sizes) - done))
        left -= int(shares[stratum])
    shuffled = np.random.default_rng(seed).permutation(len(strata))
    shuffled = shuffled[np.argsort(strata[shuffled], kind="stable")]
    rank = np.arange(len(strata)) - (np.cumsum(sizes) - sizes)[strata[shuffled]]
    places = np.sort(shuffled[rank < shares[strata[shuffled]]])
    return places, sizes[strata[places]] / shares[strata[places]]


def _moved(before: Tensor, after: Tensor) -> tuple[Floats, Floats]:
    """The cosine and the change of length of each pair of vectors (n, D); doubles, as most angles are tiny."""
    one, other = before.double(), after.double()
    norms = one.norm(dim=1), other.norm(dim=1)
    longer = torch.maximum(*norms).clamp_min(torch.finfo(torch.float64).tiny)
    products = norms[0] * norms[1]
    cosine = (one * other).sum(dim=1) / products.clamp_min(torch.finfo(torch.float64).tiny)
    is_same = (before == after).all(dim=1)
    # Rounding would leave an unmoved vector at 1 - 1e-16.
    cosine = torch.where(is_same, torch.ones_like(cosine), cosine.clamp(-1, 1))
    change = torch.where(is_same, torch.zeros_like(longer), (norms[1] - norms[0]) / longer)
    return cosine.cpu().numpy(), change.cpu().numpy()


def _neighbours(vectors: Tensor, queries: Ints, count: int) -> Tensor:
    """The places of the nearest by cosine, (Q, count), of some of the vectors (P, D), themselves left out."""
    unit, places = normalize(vectors, dim=1), torch.from_numpy(queries).to(vectors.device)
    itself = torch.arange(len(places), device=vectors.device), places
    return nearest(unit.index_select(0, places), unit, count, left_out=itself)[1]


def _overlap(before: Tensor, after: Tensor) -> Floats:
    shared = (before.unsqueeze(2) == after.unsqueeze(1)).any(dim=2)  # (Q, k)
    return shared.double().mean(dim=1).cpu().numpy()
