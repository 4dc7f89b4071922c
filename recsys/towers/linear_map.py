"""The linear map from one tower's vectors to another's, fitted on ids that both know and judged on some of them.

Two towers of the same quality rarely have the same axes: vectors that say the same may lie turned. Whoever was fitted
to the old ones can read the new ones through a map, where there is a good one.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from recsys.errors import DataError

NONE, PROCRUSTES, RIDGE = "none", "procrustes", "ridge"
HELD_OUT_SHARE = 0.2
# Of the mean square of the new vectors' numbers: enough where columns are nearly the same, and no more.
_RIDGE_SHARE = 1e-3


@dataclass(frozen=True)
class LinearMap:
    """A map and how well it does on ids that it was not fitted on.

    Attributes:
        matrix: (W, D) float64; a new vector of W numbers times it is an old one of D.
        fitted, held_out: ids.
        r2: 1 - the held-out ids' squared distance from their old vectors, as a share of that of the old vectors from
            the mean of the fitted ones; below 0 where the mean would do better.
        cosine: the held-out ids' mean cosine with their old vectors.
    """

    method: str
    matrix: Tensor
    fitted: int
    held_out: int
    r2: float
    cosine: float


def fit_maps(new: Tensor, old: Tensor, seed: int) -> tuple[LinearMap, ...]:
    """Fit the maps from new vectors to old ones: none where the widths agree, orthogonal Procrustes, and ridge.

    Procrustes turns and mirrors, and keeps all lengths and angles; of unlike widths it is the semi-orthogonal map
    (Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 1966). Ridge may stretch
    too. Neither has an intercept: a mean of vectors, or none, is mapped like the vectors themselves.

    Args:
        new: (n, W); old: (n, D), of the same ids.
        seed: of the fifth of the ids that is held out.

    Raises:
        DataError: there are too few ids to fit on.
    """
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(new)))
    held_out, fitted = order.tensor_split([int(HELD_OUT_SHARE * len(new))])
    least = max(new.shape[1], old.shape[1])
    if len(fitted) < least or not len(held_out):
        raise DataError(
            f"The towers share {len(new)} ids, of which {len(fitted)} are for fitting a map from {new.shape[1]} to "
            f"{old.shape[1]} numbers; expected {least} or more. Compare towers of data that share more ids, or of less "
            "width."
        )
    source, target = new.double(), old.double()
    x, y = source[fitted], target[fitted]
    left, _, right = torch.linalg.svd(x.T @ y, full_matrices=False)
    penalty = _RIDGE_SHARE * x.square().mean() * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    matrices = {PROCRUSTES: left @ right, RIDGE: torch.linalg.solve(x.T @ x + penalty, x.T @ y)}
    if new.shape[1] == old.shape[1]:
        matrices = {NONE: torch.eye(new.shape[1], dtype=torch.float64), **matrices}
    rest = (target[held_out] - y.mean(dim=0)).square().sum()
    found = []
    for method, matrix in matrices.items():
        mapped = source[held_out] @ matrix
        error = (mapped - target[held_out]).square().sum()
        r2 = 1 - float(error / rest.clamp_min(torch.finfo(torch.float64).tiny))
        cosine = float(cosine_similarity(mapped, target[held_out], dim=1).mean())
        found.append(LinearMap(method, matrix, len(fitted), len(held_out), r2, cosine))
    return tuple(found)
