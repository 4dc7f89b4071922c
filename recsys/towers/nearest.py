"""The items whose vectors have the largest inner products with a user's, found exactly, block by block."""

import torch
from torch import Tensor

_USERS_AT_ONCE, _CANDIDATES_AT_ONCE = 4096, 16_384  # their scores take 256 MB


def nearest(
    user: Tensor, candidates: Tensor, k: int, left_out: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the inner products and the places of the k candidates that are nearest to each user, best first.

    Candidates come block by block: all scores of millions of items at once would take more memory than a GPU has.

    Args:
        user: (P, D).
        candidates: (N, D).
        left_out: pairs of a user and a candidate, by their places, (n,) each, that are not to be found.

    Returns:
        (P, min(k, N)) each; a pair that is left out, where there are no others, has the product -inf.
    """
    parts = []
    for start in range(0, len(user), _USERS_AT_ONCE):
        stop = start + _USERS_AT_ONCE
        excluded = None
        if left_out is not None:
            here = (left_out[0] >= start) & (left_out[0] < stop)
            excluded = (left_out[0][here] - start, left_out[1][here])
        parts.append(_of_users(user[start:stop], candidates, k, excluded))
    if not parts:
        none = user.new_empty(0, min(k, len(candidates)))
        return none, none.long()
    scores, places = zip(*parts, strict=True)
    return torch.cat(scores), torch.cat(places)


def _of_users(
    user: Tensor, candidates: Tensor, k: int, left_out: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    scores, places = user.new_empty(len(user), 0), torch.empty(len(user), 0, dtype=torch.int64, device=user.device)
    for start in range(0, len(candidates), _CANDIDATES_AT_ONCE):
        stop = start + _CANDIDATES_AT_ONCE
        block = user @ candidates[start:stop].T
        if left_out is not None:
            here = (left_out[1] >= start) & (left_out[1] < stop)
            block[left_out[0][here], left_out[1][here] - start] = -torch.inf
        best = block.topk(min(k, block.shape[1]), dim=1)
        scores, places = torch.cat([scores, best.values], dim=1), torch.cat([places, best.indices + start], dim=1)
        kept = scores.topk(min(k, scores.shape[1]), dim=1)
        scores, places = kept.values, places.gather(1, kept.indices)
    return scores, places
