"""A finished run's served model: written with the run, loaded by `score`, `evaluate` and `daily`."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch import nn

from recsys.artifacts.export import export_ranker
from recsys.build import describe_ranker
from recsys.config import RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.datasets.row_encoder import SEGMENT
from recsys.features.contract import FeatureContract
from recsys.features.schema import Feature, FeatureKind, Scale
from recsys.features.vocabulary import UNKNOWN_ROW, Vocabulary
from recsys.sharding.fused import whole_state
from recsys.towers.embedding import TowerSpec

MODEL = "model"
_EXAMPLE_ROWS = 3


def export_run(folder: Path, config: RunConfig, spec: TowerSpec, wrapped: nn.Module, encoded: EncodedDataset) -> Path:
    """Write the run's ranker, with the weights it has now, as a served model in the run's folder; return where.

    Every process calls it; one of them writes.
    """
    contract = encoded.contract
    vocabularies = {table: encoded.vocabulary(table) for table in contract.table_rows}
    export_ranker(
        folder / MODEL,
        weights=whole_state(wrapped),
        description=describe_ranker(config.network, config.composition, spec),
        rebuild="recsys.build:rebuild_ranker",
        contract=contract,
        vocabularies=vocabularies,
        example=example_rows(encoded, vocabularies, "validation"),
    )
    return folder / MODEL


def example_rows(encoded: EncodedDataset, vocabularies: Mapping[str, Vocabulary], split: str) -> pd.DataFrame:
    """Return a few rows of a split as they were before encoding."""
    file = pq.ParquetFile(encoded.files(split)[0], page_checksum_verification=True)
    first = next(file.iter_batches(batch_size=_EXAMPLE_ROWS))
    return _raw_rows(first, encoded.contract, vocabularies).to_pandas()


def raw_rows(encoded: EncodedDataset, split: str) -> Iterator[pa.Table]:
    """Yield a split as it was before encoding, file by file: raw ids, raw numbers, the segment's name.

    An id that this data's training never saw comes back as null: which one it was is not kept.
    """
    vocabularies = {table: encoded.vocabulary(table) for table in encoded.contract.table_rows}
    for path in encoded.files(split):
        for rows in pq.ParquetFile(path, page_checksum_verification=True).iter_batches():
            yield _raw_rows(rows, encoded.contract, vocabularies)


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
    return pa.ListArray.from_arrays(column.offsets, _raw_ids(column.values, ids))


def _raw_ids(rows: pa.Array, ids: pa.Array) -> pa.Array:
    known = pc.if_else(pc.equal(rows, UNKNOWN_ROW), pa.scalar(None, rows.type), pc.subtract(rows, 1))
    return ids.take(known)
