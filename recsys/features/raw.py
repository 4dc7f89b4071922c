"""Raw rows, as a user of a served model has them, into the batch that its ranker was trained on.

The same encoding as the preparation's (`recsys/datasets/row_encoder.py`, which works on whole data sets): a test holds
the two equal to the bit. Like it, this knows three kinds of trouble: what the schema has an answer for (a missing value
with a fill, an unknown id, a list that is too long), what its policies mend, and what stops with the column's name.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.errors import DataError, did_you_mean
from recsys.features.account import Account
from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract
from recsys.features.encoding import encode_features, encode_segment
from recsys.features.plain_arrays import element
from recsys.features.schema import FeatureKind, FeatureSchema
from recsys.features.vectors import vector_element
from recsys.features.vocabulary import Vocabulary

RAW_KINDS = {
    FeatureKind.DENSE: "number",
    FeatureKind.SPARSE: "id (integer or string, as in training; may be missing)",
    FeatureKind.SPARSE_LIST: "list of ids, oldest first (may be missing)",
    FeatureKind.DENSE_LIST: "list of numbers, as many as the list beside which it stands has ids",
}
"""What a raw column holds, for those who are to hand one over."""


def raw_to_batch(
    rows: pa.Table,
    contract: FeatureContract,
    vocabularies: Mapping[str, Vocabulary],
    origins: Mapping[str, str] | None = None,
    first_row: int = 0,
) -> Batch:
    """Encode raw rows.

    Args:
        rows: the schema's feature columns and its segment column under their own names: numbers, ids as strings or
            integers, lists of ids, the segment as its name. Further columns are left alone.
        vocabularies: one per embedding table of the contract.
        origins: a column's name in the user's own files, where it is another one, for messages.
        first_row: which row of the user's these begin with, for messages.

    Returns:
        A batch of `rows.num_rows` rows with every label 0 and every weight 1: nothing here is to be learnt from.

    Raises:
        DataError: a column is missing or of the wrong type, a number is missing without a declared fill or out of its
            declared range, or a segment is none of the schema's. Names the column, the value and what is expected.
    """
    schema = contract.schema
    require_raw_columns(rows.column_names, [*(feature.name for feature in schema.features), schema.segment])
    account = Account("Raw rows, ", schema.invalid, rows.num_rows, origins, first_row)
    columns = encode_features(lambda feature: raw_column(rows, feature.name), contract, vocabularies, account)
    segment = encode_segment(raw_column(rows, schema.segment), schema.segment, schema.segments, account)
    if account.dropped is not None:
        row = first_row + int(np.argmax(account.dropped))
        raise DataError(
            f"Row {row} of the raw rows holds a value for which the schema drops the row "
            f"({', '.join(account.counts)}), but a row that is to be scored cannot be left out: leave it out of the "
            "data."
        )
    return encoded_batch(columns, segment, schema)


def encoded_batch(columns: Mapping[str, pa.Array], segment: pa.Array, schema: FeatureSchema) -> Batch:
    """Return encoded columns of features, and the segments' places, as a batch with labels of 0 and weights of 1."""
    rows = len(segment)
    dense = [columns[feature.name].to_numpy() for feature in schema.dense]
    return Batch(
        dense=torch.from_numpy(np.stack(dense, axis=1) if dense else np.empty((rows, 0), np.float32)),
        sparse=_jagged(columns, schema, rows),
        segment=torch.from_numpy(segment.to_numpy().astype(np.int64)),
        label=torch.zeros(rows),
        weight=torch.ones(rows),
        lists={feature.name: torch.from_numpy(_numbers(columns[feature.name])) for feature in schema.dense_lists},
        leaders={feature.name: feature.beside for feature in schema.dense_lists},
    )


def require_raw_columns(found: Collection[str], wanted: Sequence[str]) -> None:
    """Refuse raw rows that lack a column; an element of a vector is there where the vector is.

    Raises:
        DataError: names the first one that is missing, and those that are there.
    """
    for name in wanted:
        column = _column_of(name)
        if name not in found and column not in found:
            expected = ", ".join(dict.fromkeys(map(_column_of, wanted)))
            raise DataError(
                f"Column `{column}` is missing{did_you_mean(column, found)}; found "
                f"{', '.join(found) or 'no columns'}, expected {expected}."
            )


def raw_column(rows: pa.Table, name: str) -> pa.Array:
    """Return a schema's column of raw rows in one piece; of a vector's element, that element.

    Raises:
        DataError: the rows have no such column; names those that are there.
    """
    vector = vector_element(name)
    if name in rows.column_names or vector is None:
        return rows[name].combine_chunks()
    return element(rows[vector[0]].combine_chunks(), vector[1], f"Column `{vector[0]}`")


def _column_of(name: str) -> str:
    vector = vector_element(name)
    return vector[0] if vector else name


def _numbers(lists: pa.ListArray) -> npt.NDArray[np.float32]:
    # A copy, as Arrow's own memory may not be written to and a tensor's may.
    return np.array(lists.flatten().to_numpy(zero_copy_only=False), np.float32)


def _jagged(columns: Mapping[str, pa.Array], schema: FeatureSchema, rows: int) -> KeyedJaggedTensor:
    values: list[npt.NDArray[np.int32]] = []
    lengths: list[npt.NDArray[np.int32]] = []
    for feature in schema.sparse:
        column = columns[feature.name]
        is_list = pa.types.is_list(column.type)
        values.append((column.values if is_list else column).to_numpy())
        lengths.append(np.diff(column.offsets.to_numpy()) if is_list else np.ones(rows, np.int32))
    return KeyedJaggedTensor(
        keys=[feature.name for feature in schema.sparse],
        values=torch.from_numpy(np.concatenate(values).astype(np.int64)),
        lengths=torch.from_numpy(np.concatenate(lengths)),
        stride=rows,
    )
