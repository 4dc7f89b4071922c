"""Rows that policies dropped leave their batch: the batch is that much smaller, and no other batch moves.

They are taken out here and not where they are found, since the order of the rows, their division among ranks and the
state of a stream all count the rows of the files.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recsys.errors import DataError
from recsys.streaming.column_views import ColumnView, ListView, numbers
from recsys.streaming.pools import Rows

IS_DROPPED = "(dropped)"
"""The column that says which rows policies left out, where the schema has a policy that may: int8, 0 or 1."""


def without_dropped(parts: Sequence[Rows]) -> list[Rows]:
    """Leave out the rows that policies dropped.

    Raises:
        DataError: none is left, and a batch needs one.
    """
    left = [kept for part in parts if len(kept := _kept(part))]
    if not left:
        raise DataError(
            f"All {sum(map(len, parts))} rows of a batch were dropped by the policies under `invalid:` of the schema. "
            "Use larger batches or shuffle, or look into the data: such rows should be rare."
        )
    return left


def _kept(part: Rows) -> Rows:
    kept = numbers(part.columns, IS_DROPPED)[part.start : part.stop] == 0
    if kept.all():
        return part
    columns = {name: _compressed(column[part.start : part.stop], kept) for name, column in part.columns.items()}
    return Rows(columns, 0, int(np.count_nonzero(kept)))


def _compressed(column: ColumnView, kept: npt.NDArray[np.bool_]) -> ColumnView:
    if not isinstance(column, ListView):
        return np.asarray(column[kept])
    lengths = column.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths[kept])]).astype(np.int32)
    return ListView(column.flat[np.repeat(kept, lengths)], offsets)
