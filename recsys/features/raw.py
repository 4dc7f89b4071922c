"""Raw rows, as a user of a served model has them, into the batch that its ranker was trained on.

The same encoding as the preparation's (`recsys/datasets/row_encoder.py`, which works on whole data sets): a test holds
the two equal to the bit. Like it, this knows three kinds of trouble: what the schema has an answer for (a missing value
with a fill, an unknown id, a list that is too long), and what stops with the column's name.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.errors import DataError
from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract, Scaling
from recsys.features.scaling import scaled
from recsys.features.schema import Feature, FeatureKind
from recsys.features.vocabulary import Vocabulary

_LARGEST_INT64 = 2**63 - 1


def raw_to_batch(rows: pa.Table, contract: FeatureContract, vocabularies: Mapping[str, Vocabulary]) -> Batch:
    """Encode raw rows.

    Args:
        rows: the schema's feature columns and its segment column under their own names: numbers, ids as strings or
            integers, lists of ids, the segment as its name. Further columns are left alone.
        vocabularies: one per embedding table of the contract.

    Returns:
        A batch of `rows.num_rows` rows with every label 0 and every weight 1: nothing here is to be learnt from.

    Raises:
        DataError: a column is missing or of the wrong type, a number is missing without a declared fill or out of its
            declared range, or a segment is none of the schema's. Names the column, the value and what is expected.
    """
    schema = contract.schema
    wanted = [*(feature.name for feature in schema.features), schema.segment]
    if missing := [name for name in wanted if name not in rows.column_names]:
        raise DataError(
            f"Column `{missing[0]}` is missing; found {', '.join(rows.column_names) or 'no columns'}, expected "
            f"{', '.join(wanted)}."
        )
    columns = {name: rows[name].combine_chunks() for name in wanted}
    dense = [_dense(columns[feature.name], feature, contract.scaling.get(feature.name)) for feature in schema.dense]
    sparse = [_ids(columns[feature.name], feature, vocabularies[feature.table]) for feature in schema.sparse]
    return Batch(
        dense=torch.from_numpy(np.stack(dense, axis=1) if dense else np.empty((rows.num_rows, 0), np.float32)),
        sparse=KeyedJaggedTensor(
            keys=[feature.name for feature in schema.sparse],
            values=torch.from_numpy(np.concatenate([values for values, _ in sparse])),
            lengths=torch.from_numpy(np.concatenate([lengths for _, lengths in sparse])),
            stride=rows.num_rows,
        ),
        segment=torch.from_numpy(_segments(columns[schema.segment], schema.segment, schema.segments)),
        label=torch.zeros(rows.num_rows),
        weight=torch.ones(rows.num_rows),
    )


def _dense(values: pa.Array, feature: Feature, scaling: Scaling | None) -> npt.NDArray[np.float32]:
    numbers = _cast(values, pa.float64(), feature.name, "numbers")
    numbers = pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))
    if feature.fill is None and numbers.null_count:
        raise DataError(
            f"Column `{feature.name}` holds no finite number in {numbers.null_count} of {len(numbers)} rows, and the "
            "schema declares no `fill` for it. Fill those rows in the data."
        )
    outside = pc.or_(pc.less(numbers, feature.minimum), pc.greater(numbers, feature.maximum))
    if found := numbers.filter(outside).drop_null().to_pylist():
        raise DataError(
            f"Column `{feature.name}` holds {found[0]!r} in {len(found)} of {len(numbers)} rows; the schema allows "
            f"[{feature.minimum}, {feature.maximum}]."
        )
    return scaled(numbers, feature, scaling)


def _ids(
    values: pa.Array, feature: Feature, vocabulary: Vocabulary
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """The table rows of all ids end to end, and each row's number of ids."""
    if feature.kind is FeatureKind.SPARSE:
        return _table_rows(values, feature, vocabulary), np.ones(len(values), dtype=np.int32)
    if pa.types.is_null(values.type):
        values = values.cast(pa.list_(vocabulary.ids.type))
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        raise DataError(f"Column `{feature.name}` has type {values.type}; expected a list of ids in every row.")
    # A list's own missing ids are dropped before its length is measured, as in the preparation.
    owner = pc.list_parent_indices(values)
    flat = pc.list_flatten(values)
    is_there = pc.is_valid(flat)
    owner, flat = owner.filter(is_there).to_numpy(zero_copy_only=False), flat.filter(is_there)
    rows = _table_rows(flat, feature, vocabulary)
    lengths = np.bincount(owner, minlength=len(values)).astype(np.int64)
    # The last ids of a list are the newest ones, and those are kept.
    from_end = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(rows))
    kept = from_end <= feature.max_length
    return rows[kept], np.minimum(lengths, feature.max_length).astype(np.int32)


def _table_rows(values: pa.Array, feature: Feature, vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_uint64(values.type):
        # Beyond 64 signed bits no vocabulary reaches: an unknown id.
        values = pc.if_else(
            pc.less_equal(values, pa.scalar(_LARGEST_INT64, pa.uint64())), values, pa.scalar(None, pa.uint64())
        )
    if pa.types.is_string(vocabulary.ids.type) and pa.types.is_floating(values.type):
        # 7.0 would become "7.0", which is nobody's id.
        values = _cast(values, pa.int64(), feature.name, "ids as strings")
    kind = "ids as strings" if pa.types.is_string(vocabulary.ids.type) else "integer ids"
    return vocabulary.rows_of(_cast(values, vocabulary.ids.type, feature.name, kind))


def _segments(values: pa.Array, name: str, segments: tuple[str, ...]) -> npt.NDArray[np.int64]:
    texts = _cast(values, pa.string(), name, "names of segments")
    places = pc.index_in(texts, value_set=pa.array(segments, type=pa.string()))
    if unknown := texts.filter(pc.is_null(places)).to_pylist():
        raise DataError(
            f"Column `{name}` holds {unknown[0]!r} in {len(unknown)} of {len(texts)} rows; expected one of "
            f"{', '.join(segments)}."
        )
    return np.asarray(places.to_numpy(zero_copy_only=False), dtype=np.int64)


def _cast(values: pa.Array, target: pa.DataType, name: str, expected: str) -> pa.Array:
    try:
        # Frames mark missing integers by turning the column into floats, with NaN where one is missing.
        if pa.types.is_floating(values.type) and pa.types.is_integer(target):
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
        return values.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"Column `{name}` has type {values.type}; expected {expected} ({error}).") from error
