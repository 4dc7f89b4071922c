"""Raw columns -> encoded columns, under a contract and its schema's policies, for rows that nobody prepared.

The same encoding as the preparation's (`recsys/datasets/row_encoder.py`, which works on cleaned rows of a data base): a
test holds the two equal to the bit.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.features.account import Account
from recsys.features.contract import FeatureContract
from recsys.features.plain_arrays import is_single, plain_ids, plain_lists, plain_numbers
from recsys.features.policy import Policy
from recsys.features.scaling import MOST_SCALED, scaled
from recsys.features.schema import Feature, FeatureKind, FeatureSchema
from recsys.features.vocabulary import UNKNOWN_ROW, Vocabulary

SEGMENT, LABEL, WEIGHT = "segment", "label", "weight"
"""What encoded rows call these columns, whatever the schema calls the raw ones."""

_FEATURE_TYPES = {
    FeatureKind.DENSE: pa.float32(),
    FeatureKind.SPARSE: pa.int32(),
    FeatureKind.SPARSE_LIST: pa.list_(pa.int32()),
    FeatureKind.DENSE_LIST: pa.list_(pa.float32()),
}
_HELD = {FeatureKind.SPARSE_LIST: "ids", FeatureKind.DENSE_LIST: "numbers"}


def encoded_types(schema: FeatureSchema) -> dict[str, pa.DataType]:
    """Return the type of each encoded column: features in schema order, segment, label and, if declared, weight."""
    return {
        **{feature.name: _FEATURE_TYPES[feature.kind] for feature in schema.features},
        SEGMENT: segment_type(schema.segments),
        LABEL: pa.float32(),
        **({WEIGHT: pa.float32()} if schema.weight else {}),
    }


def encode_features(
    raw: Callable[[Feature], pa.Array],
    contract: FeatureContract,
    vocabularies: Mapping[str, Vocabulary],
    account: Account,
) -> dict[str, pa.Array]:
    """Return all features' raw columns as `encode_feature` does, in schema order; lists beside one another agree.

    Args:
        raw: gives a feature's column.

    Raises:
        DataError: as of `encode_feature`, or lists of a group are not equally long in a row.
    """
    schema = contract.schema
    columns = {feature.name: raw(feature) for feature in schema.features}
    # As they came, since lists that are too long would be equally long once they are cut.
    lengths = {
        name: plain_lists(columns[name], _HELD[schema.feature(name).kind], account.place(name))[1]
        for name in schema.grouped_lists
    }
    require_lists_agree(lengths, schema, account)
    return {
        feature.name: encode_feature(columns[feature.name], feature, contract, vocabularies, account)
        for feature in schema.features
    }


def encode_feature(
    values: pa.Array,
    feature: Feature,
    contract: FeatureContract,
    vocabularies: Mapping[str, Vocabulary],
    account: Account,
) -> pa.Array:
    """Return a raw column as float32, int32 or list<int32>, without nulls; see `plain_arrays` for what it may hold.

    Raises:
        DataError: a column of the wrong type, or a value that the schema rules out under a policy that stops.
    """
    if feature.kind is FeatureKind.DENSE:
        return _encode_raw_numbers(values, feature, contract, account)
    if feature.kind is FeatureKind.DENSE_LIST:
        return _encode_number_lists(values, feature, contract, account)
    vocabulary = vocabularies[feature.table]
    if feature.kind is FeatureKind.SPARSE:
        ids = plain_ids(values, vocabulary.ids.type, account.place(feature.name))
        return pa.array(_table_rows(ids, vocabulary, feature, account).astype(np.int32))
    return _encode_lists(values, vocabulary, feature, account, feature.name in contract.schema.grouped_lists)


def _encode_raw_numbers(values: pa.Array, feature: Feature, contract: FeatureContract, account: Account) -> pa.Array:
    numbers = plain_numbers(values, account.place(feature.name))
    # A range is one of the column's own numbers: 0.7 as float32 lies not below a minimum of 0.7.
    ends = np.array([feature.minimum, feature.maximum])
    with np.errstate(over="ignore"):
        low, high = (ends.astype(np.float32) if is_single(values.type) else ends).tolist()
    return _encode_numbers(numbers, feature, low, high, contract, account)


def _encode_number_lists(values: pa.Array, feature: Feature, contract: FeatureContract, account: Account) -> pa.Array:
    """Return lists of numbers; what is settled of an element is settled of its row."""
    flat, lengths = plain_lists(values, _HELD[feature.kind], account.place(feature.name))
    numbers = _encode_raw_numbers(flat, feature, contract, account.of_elements(lengths))
    return lists_of_numbers(numbers.to_numpy(), lengths, feature, account)


def encode_segment(values: pa.Array, name: str, segments: tuple[str, ...], account: Account) -> pa.Array:
    """Return the places of segments' names as `segment_type`."""
    texts = plain_ids(values, pa.string(), account.place(name))
    texts = texts.dictionary_decode() if pa.types.is_dictionary(texts.type) else texts
    places = pc.index_in(texts, value_set=pa.array(segments, type=pa.string()))
    if places.null_count:
        broken = pc.is_null(places).to_numpy(zero_copy_only=False)
        account.settle(name, broken, lambda row: repr(texts[row].as_py()), f"one of {', '.join(segments)}")
    return pc.fill_null(places, 0).cast(segment_type(segments))


def segment_type(segments: Collection[str]) -> pa.DataType:
    """The narrowest type that tells so many segments apart; what encoded rows hold.

    >>> segment_type(["new", "heavy"])
    DataType(int8)
    """
    return next(form for form in (pa.int8(), pa.int16(), pa.int32()) if len(segments) <= 1 << (form.bit_width - 1))


def encode_label(values: pa.Array, name: str, account: Account) -> pa.Array:
    """Return labels of 0 and 1 as float32."""
    numbers = plain_numbers(values, account.place(name))
    found = pc.fill_null(numbers, -1.0).to_numpy(zero_copy_only=False)
    return pa.array(_required(found, (found == 0) | (found == 1), numbers, name, "a label of 0 or 1", account))


def encode_weight(values: pa.Array, name: str, account: Account) -> pa.Array:
    """Return weights as float32."""
    numbers = plain_numbers(values, account.place(name))
    found = pc.fill_null(numbers, -1.0).to_numpy(zero_copy_only=False)
    return pa.array(_required(found, found >= 0, numbers, name, "a finite weight of at least 0", account))


def _required(
    found: npt.NDArray[np.float64],
    valid: npt.NDArray[np.bool_],
    numbers: pa.Array,
    name: str,
    expected: str,
    account: Account,
) -> npt.NDArray[np.float32]:
    if not valid.all():
        account.settle(name, ~valid, lambda row: numbers[row].as_py(), expected)
        found = np.where(valid, found, 0.0)
    return found.astype(np.float32)


def _encode_numbers(
    numbers: pa.Array, feature: Feature, minimum: float, maximum: float, contract: FeatureContract, account: Account
) -> pa.Array:
    outside = pc.or_(pc.less(numbers, minimum), pc.greater(numbers, maximum))
    if pc.any(outside).as_py():
        account.settle(
            feature.name,
            pc.fill_null(outside, False).to_numpy(zero_copy_only=False),
            lambda row: numbers[row].as_py(),
            f"a number in [{feature.minimum}, {feature.maximum}]",
            mends=Policy.CLIP,
        )
        numbers = pc.max_element_wise(
            pc.min_element_wise(numbers, maximum, skip_nulls=False), minimum, skip_nulls=False
        )
    if numbers.null_count and feature.fill is None:
        account.settle(
            feature.name,
            pc.is_null(numbers).to_numpy(zero_copy_only=False),
            lambda row: "no finite number",
            "one in every row, as the feature declares no `fill`",
        )
        numbers = pc.fill_null(numbers, 0.0)
    account.count("values filled", feature.name, numbers.null_count)
    with np.errstate(over="ignore"):
        encoded = scaled(numbers, feature, contract.scaling.get(feature.name))
    if (far := np.abs(encoded) > MOST_SCALED).any():
        expected = (
            f"a number that is at most {MOST_SCALED:,.0f} spreads from where those of the training data lie"
            if feature.name in contract.scaling
            else f"a number of at most {MOST_SCALED:,.0f} in size, as it is not scaled"
        )
        account.settle(feature.name, far, lambda row: numbers[row].as_py(), expected)
        encoded = np.where(far, np.float32(0), encoded)
    return pa.array(encoded)


def _table_rows(ids: pa.Array, vocabulary: Vocabulary, feature: Feature, account: Account) -> npt.NDArray[np.int64]:
    rows, broken = look_up(ids, vocabulary)
    if broken.any():
        _settle_ids(ids, broken, broken, feature, account)
    account.count("ids unknown", feature.name, int(np.count_nonzero((rows == UNKNOWN_ROW) & ~broken)))
    return rows


def _encode_lists(
    values: pa.Array, vocabulary: Vocabulary, feature: Feature, account: Account, keeps_missing: bool
) -> pa.Array:
    where = account.place(feature.name)
    flat, lengths = plain_lists(values, _HELD[feature.kind], where)
    ids = plain_ids(flat, vocabulary.ids.type, where)
    # A list's own missing ids are left out before its length is measured, as in the preparation.
    is_there = pc.is_valid(ids).to_numpy(zero_copy_only=False)
    rows, broken = look_up(ids, vocabulary)
    missing = int(np.count_nonzero(~is_there))
    account.count("ids missing in lists", feature.name, missing)
    if missing and keeps_missing:
        broken = broken & is_there  # to be missing is to be unknown, at its place
    elif missing:
        lengths = lengths_of_kept(is_there, lengths)
        ids, rows, broken, missing = ids.filter(pa.array(is_there)), rows[is_there], broken[is_there], 0
    if broken.any():
        _settle_ids(ids, broken, lengths_of_kept(broken, lengths) > 0, feature, account)
    unknown = int(np.count_nonzero((rows == UNKNOWN_ROW) & ~broken)) - missing
    account.count("ids unknown", feature.name, unknown)
    return lists_of(rows, lengths, feature, account)


def lists_of(
    rows: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], feature: Feature, account: Account
) -> pa.ListArray:
    """Return table rows as lists of int32, the oldest of each left out where it is longer than declared; counts those.

    Args:
        rows: of all lists, end to end.
        lengths: (n,) of the n lists.
    """
    return _lists(rows.astype(np.int32), lengths, feature, account)


def lists_of_numbers(
    numbers: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64], feature: Feature, account: Account
) -> pa.ListArray:
    """As `lists_of`, of a dense list's float32 numbers."""
    return _lists(numbers, lengths, feature, account)


def _lists(
    values: npt.NDArray[Any], lengths: npt.NDArray[np.int64], feature: Feature, account: Account
) -> pa.ListArray:
    if len(lengths) and lengths.max() > feature.max_length:
        account.count("lists cut", feature.name, int(np.count_nonzero(lengths > feature.max_length)))
        values, lengths = newest(values, lengths, feature.max_length)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def require_lists_agree(lengths: Mapping[str, npt.NDArray[Any]], schema: FeatureSchema, account: Account) -> None:
    """Settle rows in which lists that stand beside one another are not equally long: of the same events, or of none.

    Args:
        lengths: (rows,) of each list that stands in a group.

    Raises:
        DataError: under a policy other than to drop the row; names both columns and the first such row.
    """
    for feature in filter(lambda each: each.beside, schema.features):
        own, leader = lengths[feature.name], lengths[feature.beside]
        if np.array_equal(own, leader):
            continue

        def found(row: int, own: npt.NDArray[Any] = own, leader: npt.NDArray[Any] = leader) -> str:
            return f"a list of {own[row]} beside one of {leader[row]}"

        expected = f"as many elements as `{feature.beside}` has in the row, null where one is not known"
        account.settle(feature.name, own != leader, found, expected)


def lengths_of_kept(kept: npt.NDArray[np.bool_], lengths: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the lengths of lists, (rows,), after their values that are not kept are dropped.

    >>> lengths_of_kept(np.array([True, False, True]), np.array([2, 0, 1])).tolist()
    [1, 0, 1]

    Args:
        kept: one for each value of all lists, end to end.
    """
    ends, totals = np.cumsum(lengths), np.concatenate([[0], np.cumsum(kept)])
    return totals[ends] - totals[ends - lengths]


def newest(values: npt.NDArray[Any], lengths: npt.NDArray[Any], most: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the last `most` values of each list, and its new length: lists are written oldest first.

    >>> [each.tolist() for each in newest(np.array([1, 2, 3, 4]), np.array([3, 1]), most=2)]
    [[2, 3, 4], [2, 1]]

    Args:
        values: of all lists, end to end.
        lengths: (rows,).
    """
    from_end = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(values))
    return values[from_end <= most], np.minimum(lengths, most)


def look_up(ids: pa.Array, vocabulary: Vocabulary) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return each id's table row, and whether it is missing or can be nobody's; (n,) both."""
    if pa.types.is_dictionary(ids.type):
        # A dictionary of a few thousand ids is looked up once, however many rows point into it.
        entries = ids.indices.cast(pa.int64())
        entries = pc.fill_null(entries, len(ids.dictionary)).to_numpy(zero_copy_only=False)
        rows, broken = look_up(ids.dictionary, vocabulary)
        return np.append(rows, UNKNOWN_ROW)[entries], np.append(broken, True)[entries]
    broken = pc.is_null(ids)
    if pa.types.is_integer(ids.type):
        broken = pc.or_(broken, pc.fill_null(pc.less(ids, 0), False))
    return vocabulary.rows_of(ids), broken.to_numpy(zero_copy_only=False)


def _settle_ids(
    ids: pa.Array,
    broken: npt.NDArray[np.bool_],
    of_rows: npt.NDArray[np.bool_],
    feature: Feature,
    account: Account,
) -> None:
    first = ids[int(np.argmax(broken))].as_py()
    found = "no id" if first is None else repr(first)
    account.settle(feature.name, of_rows, lambda row: found, "an id", mends=Policy.UNKNOWN, undeclared=Policy.UNKNOWN)
