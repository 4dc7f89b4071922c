"""Refuses values that the contract rules out, while they are still known by file, row group and column.

Past this point a wrong id would look up another id's vector or none at all, and a NaN would spoil every weight. One
pass over each column finds whether any value is wrong; only then is the first wrong one looked for.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.errors import DataError
from recsys.features.contract import FeatureContract
from recsys.features.schema import FeatureKind
from recsys.streaming.parquet import LABEL, SEGMENT, WEIGHT, RowGroup
from recsys.streaming.views import ColumnView, ListView, numbers

_PREPARE = "Prepare the data again with `recsys prepare`, under the contract that stands beside it."


def check_values(group: RowGroup, columns: Mapping[str, ColumnView], contract: FeatureContract) -> None:
    """Pass over the columns of one row group.

    Raises:
        DataError: an id outside its table, a list longer than declared, a segment outside the declared ones, a label
            other than 0 and 1, a dense value or weight that is not finite, or a negative weight. Names file, row
            group, row, column, the value and what is allowed.
    """
    schema = contract.schema
    for feature in schema.features:
        where = f"{group}, column `{feature.name}`"
        column = columns[feature.name]
        if feature.kind is FeatureKind.DENSE:
            _require_finite(where, numbers(columns, feature.name))
            continue
        limit, of = contract.table_rows[feature.table], f"table `{feature.table}`"
        if isinstance(column, ListView):
            _require_lengths(where, column, feature.max_length)
            _require_below(where, column.flat, limit, of, column)
        else:
            _require_below(where, column, limit, of)
    segments = f"segments {', '.join(schema.segments)}"
    _require_below(f"{group}, column `{SEGMENT}`", numbers(columns, SEGMENT), len(schema.segments), segments)
    _require_binary(f"{group}, column `{LABEL}`", numbers(columns, LABEL))
    if schema.weight:
        _require_weights(f"{group}, column `{WEIGHT}`", numbers(columns, WEIGHT))


def _require_below(where: str, values: npt.NDArray[Any], limit: int, of: str, lists: ListView | None = None) -> None:
    # Seen as unsigned numbers, negative ones are the largest, so one maximum tests both ends.
    unsigned = values.view(np.dtype(f"u{values.dtype.itemsize}"))
    if len(values) == 0 or unsigned.max() < limit:
        return
    first = int(np.argmax(unsigned >= limit))
    row = first if lists is None else int(np.searchsorted(lists.offsets - lists.offsets[0], first, side="right")) - 1
    _refuse(where, row, values[first], f"0 to {limit - 1} ({of})")


def _require_lengths(where: str, lists: ListView, limit: int) -> None:
    lengths = lists.lengths
    if lengths.max(initial=0) > limit:
        row = int(np.argmax(lengths > limit))
        _refuse(where, row, f"a list of {lengths[row]}", f"at most {limit} values")


def _require_finite(where: str, values: npt.NDArray[Any]) -> None:
    # A sum is finite only if every term is; the reverse fails for terms near the float's end, so look again there.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(values.sum())
    if suspicious and not (finite := np.isfinite(values)).all():
        row = int(np.argmin(finite))
        _refuse(where, row, values[row], "a finite number")


def _require_binary(where: str, values: npt.NDArray[Any]) -> None:
    valid = (values == 0) | (values == 1)
    if not valid.all():
        row = int(np.argmin(valid))
        _refuse(where, row, values[row], "0 or 1")


def _require_weights(where: str, values: npt.NDArray[Any]) -> None:
    _require_finite(where, values)
    if values.min() < 0:
        row = int(np.argmax(values < 0))
        _refuse(where, row, values[row], "0 or more")


def _refuse(where: str, row: int, found: object, expected: str) -> None:
    raise DataError(f"{where}, row {row}: found {found}; expected {expected}. {_PREPARE}")
