"""Sampled negatives for sources that only know what was bought.

Every negative is an independent draw, so a candidate is drawn in exact proportion to its weight q among those that are
not on the list; the same candidate may be drawn twice. A model trained on such rows learns log odds that are lower by
log q; adding log q back ("log_sampling_rate") ranks the whole candidate set. Source: the correction of Yi et al.,
"Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations" (2019), eq. 3, which subtracts log q in
training; here it is added in ranking, as the pointwise label is calibrated to the sample.

The random numbers are hashes of (seed, list, draw, attempt): they do not depend on other lists, on the order of the
rows or on threads, so a list keeps its negatives when later data arrives.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd

UInt64s = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


def draw_negatives(
    positive_list: Ints,
    positive_item: Ints,
    list_keys: UInt64s,
    candidates: Ints,
    weights: npt.NDArray[np.float64],
    per_positive: int,
    seed: int,
) -> tuple[Ints, Ints]:
    """Draw `per_positive` candidates for each positive that are not on its list, in proportion to their weights.

    Args:
        positive_list: (P,) the list of each positive, in [0, L); positives of a list in a fixed order.
        positive_item: (P,) its item.
        list_keys: (L,) a number for each list that never changes, such as a hash of its name.
        candidates: (C,) the items that may be drawn for any of the lists, in a fixed order.
        weights: (C,) positive.

    Returns:
        The list and item of each negative: (P * per_positive,) each, fewer where all candidates stand on a list.
    """
    drawable = _lists_with_others(positive_list, positive_item, len(list_keys), candidates)
    lists = np.repeat(positive_list, per_positive)
    draw = _position_in_list(lists)
    lists, draw = lists[drawable[lists]], draw[drawable[lists]]
    size = int(max(positive_item.max(initial=0), candidates.max(initial=0))) + 1
    taken = np.unique(positive_list * size + positive_item)
    cumulative = np.cumsum(weights)
    items = np.empty(len(lists), dtype=np.int64)
    open_draws, attempt = np.arange(len(lists)), 0
    while len(open_draws):
        uniform = hashed_uniforms(seed, list_keys[lists[open_draws]], draw[open_draws], attempt)
        drawn = candidates[
            np.searchsorted(cumulative, uniform * cumulative[-1], side="right").clip(max=len(weights) - 1)
        ]
        items[open_draws] = drawn
        codes = lists[open_draws] * size + drawn
        open_draws = open_draws[taken[np.searchsorted(taken, codes).clip(max=len(taken) - 1)] == codes]
        attempt += 1
    return lists, items


def hashed_uniforms(seed: int, keys: UInt64s, numbers: Ints, attempt: int) -> npt.NDArray[np.float64]:
    """Return one number in [0, 1) for each (seed, key, number, attempt), uniform and independent of the others.

    Source: SplitMix64 (Steele, Lea, Flood 2014), its finaliser applied once per part.
    """
    mixed = _mix(np.full_like(keys, seed) ^ np.uint64(0x5851F42D4C957F2D))
    for part in (keys, numbers.astype(np.uint64), np.uint64(attempt)):
        mixed = _mix(mixed ^ part)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53


def text_keys(texts: npt.NDArray[np.object_]) -> UInt64s:
    """Return a number for each text that follows from nothing but the text; (n,)."""
    return np.asarray(pd.util.hash_array(texts))


def _mix(values: UInt64s) -> UInt64s:
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _lists_with_others(lists: Ints, items: Ints, number: int, candidates: Ints) -> npt.NDArray[np.bool_]:
    """(L,) whether a list leaves any candidate over; without one there is nothing to draw."""
    pairs = np.unique(np.stack([lists, items]), axis=1)
    on_list = np.bincount(pairs[0][np.isin(pairs[1], candidates)], minlength=number)
    return np.asarray(on_list < len(np.unique(candidates)))


def _position_in_list(lists: Ints) -> Ints:
    """(n,) how many earlier entries belong to the same list."""
    order = np.argsort(lists, kind="stable")
    ordered = lists[order]
    starts = np.searchsorted(ordered, ordered, side="left")
    positions = np.empty(len(lists), dtype=np.int64)
    positions[order] = np.arange(len(lists)) - starts
    return positions
