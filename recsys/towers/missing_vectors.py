"""What an id has whose vector is missing from an imported file: one policy for a table."""

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.linear_model import Ridge

from recsys.features.vocabulary import UNKNOWN_ROW

Vectors = npt.NDArray[np.float32]
MissingVectors = Literal["mean", "zero", "learned", "attributes"]

# Of ridge regression: an attribute's own part counts half where one id has it, by then almost whole where ten do.
_PENALTY = 1.0


def with_missing_rows(
    table: Vectors, has_vector: npt.NDArray[np.bool_], policy: MissingVectors, attributes: sparse.csr_matrix | None
) -> Vectors:
    """Return a table whose rows without a vector are filled.

    - `mean`: of the others, as for an id of which nothing is known.
    - `zero`: no part of a sum over ids, nor of a dot product.
    - `learned`: drawn at random with the others' mean and spread, number by number, so that ids differ from the first
      step on; training makes of them what it can.
    - `attributes`: what ridge regression of the vectors on the ids' attributes predicts (the linear mapping of Gantner
      et al., "Learning Attribute-to-Feature Mappings for Cold-Start Recommendations", ICDM 2010).

    The unknown row is no id: it has the mean, and zeros under `zero`.

    Args:
        table: (rows, D), the mean where there is no vector.
        has_vector: (rows,), some of them true.
        attributes: (rows, A), of each id how often it has which; for `attributes` alone.
    """
    is_missing = ~has_vector
    if policy == "zero":
        return np.where(is_missing[:, None], np.float32(0), table)
    is_missing[UNKNOWN_ROW] = False
    if policy == "mean" or not is_missing.any():
        return table
    filled, known = table.copy(), table[has_vector]
    if policy == "learned":
        shape = (int(is_missing.sum()), table.shape[1])
        filled[is_missing] = np.random.default_rng(0).normal(known.mean(axis=0), known.std(axis=0), shape)
    else:
        assert attributes is not None
        model = Ridge(alpha=_PENALTY, solver="sparse_cg", tol=1e-6).fit(attributes[has_vector], known)
        filled[is_missing] = model.predict(attributes[is_missing]).reshape(-1, table.shape[1])
    return filled
