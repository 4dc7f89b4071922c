"""Checks encoded values against the contract while they are still known by file, row group and column.

Past this point a wrong id would look up another id's vector or none at all, and a NaN would spoil every weight. A pass
over each column finds whether any value is wrong; only then are the wrong ones looked for, and the schema's policy for
the column says what becomes of them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.features.account import Account
from recsys.features.contract import FeatureContract
from recsys.features.encoding import LABEL, SEGMENT, WEIGHT, lengths_of_kept, newest, require_lists_agree
from recsys.features.policy import Policy
from recsys.features.scaling import scaled
from recsys.features.schema import Feature, FeatureKind
from recsys.features.vocabulary import UNKNOWN_ROW
from recsys.streaming.column_views import list_view, number_view

# float32 keeps 24 bits: a bound that was scaled and rounded like the values may still differ in the last one.
_ROUNDING = 2.0**-22
_LARGEST = float(np.finfo(np.float32).max)


class ValueChecks:
    """The checks of one contract's rows, under its schema's policies."""

    def __init__(self, contract: FeatureContract) -> None:
        schema = contract.schema
        self._contract = contract
        self._bounds = {
            feature.name: encoded_bounds(feature, contract) for feature in (*schema.dense, *schema.dense_lists)
        }
        self._ranges = {name: f"a finite number in [{low:g}, {high:g}]" for name, (low, high) in self._bounds.items()}
        self._tables = {feature.name: f"table `{feature.table}`" for feature in schema.sparse}
        self._segments = f"segments {', '.join(schema.segments)}"
        encoded_names = {schema.segment: SEGMENT, schema.label: LABEL, schema.weight: WEIGHT}
        self.invalid = {encoded_names.get(name, name): policy for name, policy in schema.invalid.items()}
        """The schema's policies by the names that encoded rows give the columns."""

    def checked(self, columns: Mapping[str, pa.Array], account: Account) -> dict[str, pa.Array]:
        """Return the columns of some rows with every invalid value corrected; the account notes the rows to be dropped.

        Raises:
            DataError: under a policy that stops, as is the rule: a null, an id outside its table, a list longer than
                declared, or of another length than the one that it stands beside, a segment outside the declared ones,
                a label other than 0 and 1, a dense value outside its declared range or not finite, or a negative
                weight. Names file, row group, row, column, the value and what is allowed.
        """
        schema = self._contract.schema
        checked = {name: _without_nulls(array, name, account) for name, array in columns.items()}
        # As they came, since lists that are too long would be equally long once they are cut.
        require_lists_agree({name: list_view(checked[name]).lengths for name in schema.grouped_lists}, schema, account)
        for feature in schema.features:
            array = checked[feature.name]
            if feature.kind is FeatureKind.DENSE:
                bounds, expected = self._bounds[feature.name], self._ranges[feature.name]
                checked[feature.name] = _in_range(array, feature.name, bounds, expected, account)
                continue
            if feature.kind is FeatureKind.DENSE_LIST:
                checked[feature.name] = self._numbers_in_range(array, feature, account)
                continue
            limit = self._contract.table_rows[feature.table]
            if feature.kind is FeatureKind.SPARSE:
                checked[feature.name] = _below(array, limit, self._tables[feature.name], feature.name, account)
            else:
                checked[feature.name] = _lists_below(_short(array, feature, account), limit, feature, account)
        checked[SEGMENT] = _below(checked[SEGMENT], len(schema.segments), self._segments, SEGMENT, account)
        checked[LABEL] = _binary(checked[LABEL], account)
        if schema.weight:
            checked[WEIGHT] = _in_range(checked[WEIGHT], WEIGHT, (0.0, _LARGEST), "a weight of 0 or more", account)
        return checked

    def _numbers_in_range(self, array: pa.ListArray, feature: Feature, account: Account) -> pa.ListArray:
        array = _short(array, feature, account)
        lists, bounds = list_view(array), self._bounds[feature.name]
        if _are_within(lists.flat, bounds):
            return array
        of_elements = account.of_elements(lists.lengths)
        numbers = _in_range(pa.array(lists.flat), feature.name, bounds, self._ranges[feature.name], of_elements)
        return _list_array(numbers, lists.lengths)


def encoded_bounds(feature: Feature, contract: FeatureContract) -> tuple[float, float]:
    """Return the least and greatest encoded value of a dense feature, by its declared range and its scaling."""
    ends = pa.array([max(feature.minimum, -_LARGEST), min(feature.maximum, _LARGEST)], pa.float64())
    with np.errstate(over="ignore"):
        low, high = scaled(ends, feature, contract.scaling.get(feature.name)).astype(np.float64)
    low = low - _ROUNDING * max(1.0, abs(low)) if feature.minimum > -np.inf else -_LARGEST
    high = high + _ROUNDING * max(1.0, abs(high)) if feature.maximum < np.inf else _LARGEST
    return max(float(low), -_LARGEST), min(float(high), _LARGEST)


def _in_range(array: pa.Array, name: str, bounds: tuple[float, float], expected: str, account: Account) -> pa.Array:
    values, (low, high) = number_view(array), bounds
    if _are_within(values, bounds):
        return array
    finite = np.isfinite(values)
    if not finite.all():
        account.settle(name, ~finite, lambda row: values[row], expected)
        values = np.where(finite, values, np.float32(min(max(0.0, low), high)))
    outside = (values < low) | (values > high)
    if outside.any():
        account.settle(name, outside, lambda row: values[row], expected, mends=Policy.CLIP)
    return pa.array(values.clip(np.float32(low), np.float32(high)))


def _are_within(values: npt.NDArray[Any], bounds: tuple[float, float]) -> bool:
    # One pass finds NaN as well: it is the minimum and maximum of any array with one, and no comparison with it holds.
    return len(values) == 0 or bool(bounds[0] <= values.min() and values.max() <= bounds[1])


def _below(array: pa.Array, limit: int, of: str, name: str, account: Account) -> pa.Array:
    values = number_view(array)
    broken = _not_below(values, limit)
    if broken is None:
        return array
    account.settle(name, broken, lambda row: values[row], f"0 to {limit - 1} ({of})", mends=Policy.UNKNOWN)
    return pa.array(np.where(broken, values.dtype.type(0), values))


def _lists_below(array: pa.ListArray, limit: int, feature: Feature, account: Account) -> pa.ListArray:
    lists = list_view(array)
    flat = lists.flat
    broken = _not_below(flat, limit)
    if broken is None:
        return array
    of_rows = lengths_of_kept(broken, lists.lengths) > 0
    first = flat[int(np.argmax(broken))]
    expected = f"0 to {limit - 1} (table `{feature.table}`)"
    account.settle(feature.name, of_rows, lambda row: first, expected, mends=Policy.UNKNOWN)
    return _list_array(np.where(broken, flat.dtype.type(UNKNOWN_ROW), flat), lists.lengths)


def _not_below(values: npt.NDArray[Any], limit: int) -> npt.NDArray[np.bool_] | None:
    # Seen as unsigned numbers, negative ones are the largest, so one maximum tests both ends.
    unsigned = values.view(np.dtype(f"u{values.dtype.itemsize}"))
    if len(values) == 0 or unsigned.max() < limit:
        return None
    return np.asarray(unsigned >= limit)


def _short(array: pa.ListArray, feature: Feature, account: Account) -> pa.ListArray:
    lists = list_view(array)
    lengths = lists.lengths
    if lengths.max(initial=0) <= feature.max_length:
        return array
    # A list beside another one is as long as that one, of which it was said already.
    if not feature.beside:
        account.settle(
            feature.name,
            lengths > feature.max_length,
            lambda row: f"a list of {lengths[row]}",
            f"at most {feature.max_length} values",
            mends=Policy.CLIP,
        )
    return _list_array(*newest(lists.flat, lengths, feature.max_length))


def _binary(array: pa.Array, account: Account) -> pa.Array:
    values = number_view(array)
    valid = (values == 0) | (values == 1)
    if valid.all():
        return array
    account.settle(LABEL, ~valid, lambda row: values[row], "0 or 1")
    return pa.array(np.where(valid, values, np.float32(0)))


def _without_nulls(array: pa.Array, name: str, account: Account) -> pa.Array:
    is_list = pa.types.is_list(array.type)
    if not array.null_count and not (is_list and array.values.null_count):
        return array
    broken = pc.is_null(array).to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(array) if is_list else array
    if is_list:
        owner = pc.list_parent_indices(array).to_numpy(zero_copy_only=False)
        broken[owner[pc.is_null(flat).to_numpy(zero_copy_only=False)]] = True
    if broken.any():
        account.settle(name, broken, lambda row: "null", "a value, as prepared rows have", mends=Policy.UNKNOWN)
    flat = pc.fill_null(flat, pa.scalar(0, flat.type))
    if not is_list:
        return flat
    return _list_array(flat, pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False))


def _list_array(flat: npt.NDArray[Any] | pa.Array, lengths: npt.NDArray[np.int32]) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat))
