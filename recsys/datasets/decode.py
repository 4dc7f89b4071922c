"""Encoded rows back to what they were: raw ids, raw numbers, the segment's name.

A served model takes raw rows, so this is how it gets an example, and how an older model is measured on newer data.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.datasets.encoded import EncodedDataset
from recsys.datasets.row_encoder import SEGMENT
from recsys.features.contract import FeatureContract
from recsys.features.schema import Feature, FeatureKind, Scale
from recsys.features.vocabulary import UNKNOWN_ROW, Vocabulary

_EXAMPLE_ROWS = 3
# What no catalogue numbers or calls anything, by the type of a vocabulary's ids.
_NEVER_SEEN = {pa.int64(): 2**63 - 1, pa.string(): "\uffff"}


def example_rows(encoded: EncodedDataset, split: str) -> pd.DataFrame:
    """Return the first few rows of a split as they were before encoding; see `raw_rows`."""
    vocabularies = _vocabularies(encoded)
    file = pq.ParquetFile(encoded.files(split)[0], page_checksum_verification=True)
    first = next(file.iter_batches(batch_size=_EXAMPLE_ROWS))
    return _raw_rows(first, encoded.contract, vocabularies).to_pandas()


def raw_rows(encoded: EncodedDataset, split: str) -> Iterator[pd.DataFrame]:
    """Yield a split as it was before encoding, in the order of its files, feature columns and segment.

    Which id it was that this data's training never saw is not kept. It comes back as null; inside a list, where a null
    would be left out, as an id that no vocabulary has (2^63 - 1 or "\\uffff"). Dense values differ from the raw ones by
    the rounding of their encoded form.

    Raises:
        DataError: the split has no rows.
    """
    vocabularies = _vocabularies(encoded)
    for path in encoded.files(split):
        for rows in pq.ParquetFile(path, page_checksum_verification=True).iter_batches():
            yield _raw_rows(rows, encoded.contract, vocabularies).to_pandas()


def _vocabularies(encoded: EncodedDataset) -> dict[str, Vocabulary]:
    return {table: encoded.vocabulary(table) for table in encoded.contract.table_rows}


def _raw_rows(rows: pa.RecordBatch, contract: FeatureContract, vocabularies: Mapping[str, Vocabulary]) -> pa.Table:
    schema = contract.schema
    columns = {f.name: _decoded(rows[f.name], f, contract, vocabularies) for f in schema.features}
    return pa.table(columns | {schema.segment: pa.array(schema.segments).take(rows[SEGMENT])})


def _decoded(
    column: pa.Array, feature: Feature, contract: FeatureContract, vocabularies: Mapping[str, Vocabulary]
) -> pa.Array:
    if feature.kind is FeatureKind.DENSE:
        values = column.to_numpy().astype(np.float64)
        if scaling := contract.scaling.get(feature.name):
            values = values * scaling.spread + scaling.centre
        if feature.scale is Scale.LOG:
            values = np.sign(values) * np.expm1(np.abs(values))
        # Rounding in the encoded column may have carried a value over the edge of its declared range.
        return pa.array(np.clip(values, feature.minimum, feature.maximum))
    ids = vocabularies[feature.table].ids
    if feature.kind is FeatureKind.SPARSE:
        return _raw_ids(column, ids)
    return pa.ListArray.from_arrays(column.offsets, pc.fill_null(_raw_ids(column.values, ids), _NEVER_SEEN[ids.type]))


def _raw_ids(rows: pa.Array, ids: pa.Array) -> pa.Array:
    known = pc.if_else(pc.equal(rows, UNKNOWN_ROW), pa.scalar(None, rows.type), pc.subtract(rows, 1))
    return ids.take(known)
