"""Raw Arrow columns in whatever type a writer chose -> one of three plain forms: numbers, ids, lists of ids.

A user's files hold decimals, half floats, timestamps, dictionaries, vectors of fixed size and lists of lists. What each
of them means as a feature is said here and nowhere else; what means nothing is refused with the column's name.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import DataError

_LARGEST_INT64 = 2**63 - 1
# From here on a float stands for several whole numbers: 2 to the bits of its significand.
_FIRST_INEXACT = {16: 2**11, 32: 2**24, 64: 2**53}
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_SECONDS_PER_DAY = 86_400


def plain_numbers(values: pa.Array, where: str) -> pa.Array:
    """Return numbers as float64 with NaN and infinity as null.

    Booleans count as 0 and 1, decimals as the nearest float, timestamps and dates as seconds since 1970 (UTC),
    durations as seconds.

    Raises:
        DataError: the column holds no numbers; begins with `where`.
    """
    values = _stored(values)
    form = values.type
    if pa.types.is_timestamp(form) or pa.types.is_duration(form):
        numbers = pc.divide(values.cast(pa.int64()).cast(pa.float64(), safe=False), float(_PER_SECOND[form.unit]))
    elif pa.types.is_date(form):
        numbers = pc.multiply(values.cast(pa.date32()).cast(pa.int32()).cast(pa.float64()), float(_SECONDS_PER_DAY))
    elif pa.types.is_boolean(form):
        numbers = values.cast(pa.int8()).cast(pa.float64())
    elif pa.types.is_null(form) or pa.types.is_floating(form):
        numbers = values.cast(pa.float64())
    elif pa.types.is_decimal(form):
        # By way of text, which is rounded correctly: Arrow's own cast makes 0.7 a little more than 0.7.
        numbers = values.cast(pa.string()).cast(pa.float64())
    elif pa.types.is_integer(form):
        # Whole numbers beyond 2^53 lose their last digits, as they would in float32 anyhow.
        numbers = values.cast(pa.float64(), safe=False)
    else:
        raise DataError(f"{where} has type {form}; expected numbers.")
    return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))


def plain_ids(values: pa.Array, target: pa.DataType, where: str) -> pa.Array:
    """Return ids as `target` (string or int64); null where an id is missing or beyond 64 signed bits.

    Floats are taken as the whole numbers that they are, NaN as a missing id: frames turn integers into floats to mark
    a missing one. A dictionary stays one, with its entries in the target type: it is looked up entry by entry.

    Raises:
        DataError: the column cannot hold such ids, or holds floats so large that they stand for several whole numbers
            (2^53, of float32 2^24); begins with `where`.
    """
    values = _stored(values, keep_dictionary=True)
    if pa.types.is_dictionary(values.type):
        entries = plain_ids(values.dictionary, target, where)
        return pa.DictionaryArray.from_arrays(values.indices, entries, safe=False)
    form, is_text = values.type, pa.types.is_string(target)
    kind = "ids as strings" if is_text else "integer ids"
    if pa.types.is_uint64(form):
        limit = pa.scalar(_LARGEST_INT64, pa.uint64())
        values = pc.if_else(pc.less_equal(values, limit), values, pa.scalar(None, pa.uint64()))
    if pa.types.is_floating(form):
        values = _exact(values, where)
    if pa.types.is_floating(form) or pa.types.is_decimal(form):
        # 7.0 would become "7.0", which is nobody's id.
        values = _cast(values, pa.int64(), where, kind)
    if not (pa.types.is_null(form) or _may_be_id(form)):
        raise DataError(f"{where} has type {form}; expected {kind}.")
    return _cast(values, target, where, kind)


def plain_lists(values: pa.Array, of: str, where: str) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Return a column of lists as its values end to end, and each row's number of them; (rows,) int64.

    Lists of lists are flattened, lists of fixed size are lists, and a missing list is empty.

    Args:
        of: what the lists hold, for messages: "ids" or "numbers".

    Raises:
        DataError: the column holds no lists; begins with `where`.
    """
    values = _stored(values)
    if pa.types.is_null(values.type):
        return pa.nulls(0), np.zeros(len(values), np.int64)
    if not is_list(values.type):
        raise DataError(f"{where} has type {values.type}; expected a list of {of} in every row.")
    rows, outer = len(values), values
    values = _stored(pc.list_flatten(outer), keep_dictionary=True)
    if not is_list(values.type):
        lengths = pc.fill_null(pc.list_value_length(outer), 0)
        return values, lengths.to_numpy(zero_copy_only=False).astype(np.int64)
    owner = pc.list_parent_indices(outer)
    while is_list(values.type):
        owner = owner.take(pc.list_parent_indices(values))
        values = _stored(pc.list_flatten(values), keep_dictionary=True)
    lengths = np.bincount(owner.to_numpy(zero_copy_only=False), minlength=rows).astype(np.int64)
    return values, lengths


def element(values: pa.Array, place: int, where: str) -> pa.Array:
    """Return the element at `place` of each row's vector; null where the vector is missing or too short.

    Raises:
        DataError: the column holds no vectors; begins with `where`.
    """
    values = _stored(values)
    if not is_list(values.type):
        raise DataError(f"{where} has type {values.type}; expected vectors: a list of numbers in every row.")
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    if len(lengths) and lengths.min() > place and not values.null_count:
        return pc.list_element(values, place)
    is_there = pa.array(lengths > place)
    found = pc.list_element(values.filter(is_there), place)
    places = np.where(lengths > place, np.cumsum(lengths > place) - 1, -1)
    return found.take(pa.array(places, mask=places < 0))


def is_list(form: pa.DataType) -> bool:
    """Whether a column of this type has lists in its rows."""
    return bool(
        pa.types.is_list(form)
        or pa.types.is_large_list(form)
        or pa.types.is_fixed_size_list(form)
        or pa.types.is_list_view(form)
        or pa.types.is_large_list_view(form)
    )


def _exact(values: pa.Array, where: str) -> pa.Array:
    """Floats as float64 with NaN as null, none of them rounded from another whole number."""
    limit = _FIRST_INEXACT[values.type.bit_width]
    values = values.cast(pa.float64())
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    inexact = pc.greater_equal(pc.abs(values), float(limit))
    if pc.any(inexact).as_py():
        found = values.filter(inexact)[0].as_py()
        raise DataError(
            f"{where} holds ids as floating-point numbers, such as {found:.0f}; from {limit} on several ids share one "
            "such number, so which id was meant is lost. Write the column as whole numbers, where a missing one is "
            "null (pandas: `astype('Int64')` when it is read, before it turns into floats), or as text."
        )
    return values


def is_single(form: pa.DataType) -> bool:
    """Whether a column of this type has floats of single precision or less."""
    form = form.value_type if pa.types.is_dictionary(form) else form
    return bool(pa.types.is_floating(form) and form.bit_width < 64)


def _may_be_id(form: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(form)
        or pa.types.is_floating(form)
        or pa.types.is_decimal(form)
        or pa.types.is_boolean(form)
        or pa.types.is_string(form)
        or pa.types.is_large_string(form)
        or pa.types.is_string_view(form)
        # Old writers leave out that their bytes are text.
        or pa.types.is_binary(form)
        or pa.types.is_large_binary(form)
        or pa.types.is_fixed_size_binary(form)
    )


def _stored(values: pa.Array, keep_dictionary: bool = False) -> pa.Array:
    """The array in one piece, without an extension type and, unless it is kept, without a dictionary."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type) and not keep_dictionary:
        values = values.dictionary_decode()
    return values


def _cast(values: pa.Array, target: pa.DataType, where: str, expected: str) -> pa.Array:
    try:
        return values.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{where} has type {values.type}; expected {expected} ({error}).") from error
