"""Dense values as a model sees them: filled, transformed, centred and brought to unit spread.

One piece of code for rows that are prepared in bulk and for rows that arrive at a served model, so that both are equal
to the bit.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.features.contract import Scaling
from recsys.features.schema import Feature, Scale

MOST_SCALED = 1e6
"""The largest size of a dense value as a model sees it: what is further out makes training diverge, and is a slip."""


def scaled(values: pa.Array, feature: Feature, scaling: Scaling | None) -> npt.NDArray[np.float32]:
    """Return a dense column filled, transformed and scaled; (n,) float32.

    Args:
        values: numbers, null where missing.
        scaling: the feature's own; None for `scale: none`.
    """
    filled = values if feature.fill is None else pc.fill_null(values, float(feature.fill))
    numbers = filled.to_numpy(zero_copy_only=False).astype(np.float64)
    if feature.scale is Scale.LOG:
        numbers = np.sign(numbers) * np.log1p(np.abs(numbers))
    if scaling is not None:
        numbers = (numbers - scaling.centre) / scaling.spread
    return numbers.astype(np.float32)
