"""Encoded rows back to what they were: raw ids, raw numbers, the segment's name.

A served model takes raw rows, so this is how it gets an example, and how an older model is measured on newer data.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.datasets.declared_roles import SegmentRule
from recsys.datasets.encoded import EncodedDataset
from recsys.datasets.table_layout import TableLayout
from recsys.features.contract import FeatureContract
from recsys.features.encoding import SEGMENT
from recsys.features.schema import Feature, FeatureKind, FeatureSchema, Scale
from recsys.features.vectors import column_of
from recsys.features.vocabulary import UNKNOWN_ROW, Vocabulary

_EXAMPLE_ROWS, _LOOKED_AT = 3, 1024
# What no catalogue numbers or calls anything, by the type of a vocabulary's ids.
_NEVER_SEEN = {pa.int64(): 2**63 - 1, pa.string(): "\uffff"}


def example_rows(encoded: EncodedDataset, split: str, layout: TableLayout | None) -> pd.DataFrame:
    """Return a few rows of a split as they were before encoding, such as are known whole; see `raw_rows`.

    With a layout, under the names and in the form of a user's own files. A segment cut from numbers, or a column that
    several features are read from, then holds a value that could have stood there.
    """
    vocabularies = _vocabularies(encoded)
    file = pq.ParquetFile(encoded.files(split)[0], page_checksum_verification=True)
    rows = _raw_rows(next(file.iter_batches(batch_size=_LOOKED_AT)), encoded.contract, vocabularies)
    # A missing id turns a frame's column of integers into floats, and MLflow keeps examples as frames.
    known = rows.drop_null()
    rows = (known if known.num_rows else rows).slice(0, _EXAMPLE_ROWS)
    rows = _as_in_files(rows, encoded.contract.schema, layout) if layout else rows
    return rows.to_pandas()


def raw_rows(encoded: EncodedDataset, split: str, days: Collection[str] = ()) -> Iterator[pa.Table]:
    """Yield a split as it was before encoding, in the order of its files, feature columns and segment.

    Which id it was that this data's training never saw is not kept. It comes back as null; inside a list, where a null
    would be left out, as an id that no vocabulary has (2^63 - 1 or "\\uffff"). Dense values differ from the raw ones by
    the rounding of their encoded form.

    Args:
        days: those of the split that are wanted; () for all.

    Raises:
        DataError: the split has no rows.
    """
    vocabularies = _vocabularies(encoded)
    for day, path in zip(encoded.days(split), encoded.files(split), strict=True):
        if days and day not in days:
            continue
        for rows in pq.ParquetFile(path, page_checksum_verification=True).iter_batches():
            yield _raw_rows(rows, encoded.contract, vocabularies)


def _as_in_files(rows: pa.Table, schema: FeatureSchema, layout: TableLayout) -> pa.Table:
    """The inverse of the reading of a user's own columns; what was counted or derived keeps its own name."""
    computed = layout.computed
    columns: dict[str, pa.Array] = {}
    for name in rows.column_names:
        values = rows[name].combine_chunks()
        if name == schema.segment:
            is_named = layout.segment.column in layout.counted or layout.segment.vectors
            before = values if is_named else _before_rule(values, layout.segment, schema.segments)
            columns.setdefault(name if is_named else layout.segment.column, before)
        elif name in layout.words:
            columns.setdefault(layout.words[name], _joined(values, " "))
        elif name in layout.lists:
            text = layout.lists[name]
            columns.setdefault(text.column, _joined(values, text.separator))
        else:
            columns.setdefault(name if name in computed else layout.columns.get(name, name), values)
    return pa.table(columns)


def _joined(lists: pa.Array, separator: str) -> pa.Array:
    return pa.array([separator.join(map(str, words)) for words in lists.to_pylist()], pa.string())


def _before_rule(segments: pa.Array, rule: SegmentRule, names: Sequence[str]) -> pa.Array:
    """For each segment a value that the rule takes for it."""
    if rule.bins is not None:
        edges = dict(zip(names, [rule.bins[0] - 1 if rule.bins else 0.0, *rule.bins], strict=True))
        return pa.array([edges[segment] for segment in segments.to_pylist()])
    values = {name: value for value, name in rule.names.items()}
    return pa.array([values.get(segment, segment) for segment in segments.to_pylist()])


def _vocabularies(encoded: EncodedDataset) -> dict[str, Vocabulary]:
    return {table: encoded.vocabulary(table) for table in encoded.contract.table_rows}


def _raw_rows(rows: pa.RecordBatch, contract: FeatureContract, vocabularies: Mapping[str, Vocabulary]) -> pa.Table:
    schema = contract.schema
    columns = {f.name: _decoded(rows[f.name], f, contract, vocabularies) for f in schema.features}
    return pa.table(_with_vectors(columns) | {schema.segment: pa.array(schema.segments).take(rows[SEGMENT])})


def _with_vectors(columns: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
    """The columns, those that are elements of a vector put together."""
    parts: dict[str, list[pa.Array]] = {}
    for name, values in columns.items():
        parts.setdefault(column_of(name, columns), []).append(values)
    return {name: values[0] if name in columns else _vectors(values) for name, values in parts.items()}


def _vectors(elements: list[pa.Array]) -> pa.Array:
    numbers = np.stack([element.to_numpy() for element in elements], axis=1)
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), len(elements)).cast(pa.list_(pa.float64()))


def _decoded(
    column: pa.Array, feature: Feature, contract: FeatureContract, vocabularies: Mapping[str, Vocabulary]
) -> pa.Array:
    if feature.kind is FeatureKind.DENSE:
        return _raw_numbers(column, feature, contract)
    if feature.kind is FeatureKind.DENSE_LIST:
        return pa.ListArray.from_arrays(column.offsets, _raw_numbers(column.values, feature, contract))
    ids = vocabularies[feature.table].ids
    if feature.kind is FeatureKind.SPARSE:
        return _raw_ids(column, ids)
    return pa.ListArray.from_arrays(column.offsets, pc.fill_null(_raw_ids(column.values, ids), _NEVER_SEEN[ids.type]))


def _raw_numbers(column: pa.Array, feature: Feature, contract: FeatureContract) -> pa.Array:
    values = column.to_numpy().astype(np.float64)
    if scaling := contract.scaling.get(feature.name):
        values = values * scaling.spread + scaling.centre
    if feature.scale is Scale.LOG:
        values = np.sign(values) * np.expm1(np.abs(values))
    # Rounding in the encoded column may have carried a value over the edge of its declared range.
    return pa.array(np.clip(values, feature.minimum, feature.maximum))


def _raw_ids(rows: pa.Array, ids: pa.Array) -> pa.Array:
    known = pc.if_else(pc.equal(rows, UNKNOWN_ROW), pa.scalar(None, rows.type), pc.subtract(rows, 1))
    return ids.take(known)
