"""Segments that are learned: k-means over the vectors of users or items, such as those of a pre-trained tower.

Lloyd's algorithm from k-means++ starts (Arthur and Vassilvitskii, 2007), scikit-learn's, seeded. The largest cluster is
the first of the schema's segments, so that equal vectors give equal names.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from recsys.datasets.database import load
from recsys.datasets.declared_roles import CLUSTER, SegmentRule
from recsys.datasets.declared_tables import SideTable
from recsys.datasets.side_tables import KEY, StoredSide
from recsys.errors import DataError
from recsys.features.column_names import OWN_PREFIX
from recsys.files import sha256_of_file

_STARTS = 10


def clustered_segments(
    connection: Backend, raw: Path, rule: SegmentRule, segments: tuple[str, ...]
) -> tuple[StoredSide, dict[str, str]]:
    """Return a side table with the segment of each key that has a vector, and the digest of the file.

    Raises:
        DataError: the file is missing, has no such columns, or fewer vectors than there are segments.
    """
    path = raw / rule.vectors
    keys, vectors = _read(path, rule.key)
    if len(vectors) < len(segments):
        raise DataError(
            f"{path} has {len(vectors)} vectors, of which {len(segments)} segments are to be made; expected at least "
            "as many. Declare fewer segments, or name another file."
        )
    # One thread: sums of floating-point numbers depend on who adds what.
    with threadpool_limits(1):
        found = KMeans(len(segments), n_init=_STARTS, random_state=rule.seed).fit_predict(vectors)
    largest_first = np.argsort(-np.bincount(found, minlength=len(segments)), kind="stable")
    names = np.empty(len(segments), dtype=object)
    names[largest_first] = segments
    table = pa.table({KEY: keys, CLUSTER: pa.array(names[found].tolist(), pa.string())})
    stored = load(connection, f"{OWN_PREFIX}clusters", table)
    side = SideTable(key=rule.key, files=(rule.vectors,), columns={CLUSTER: CLUSTER})
    return StoredSide("segment.vectors", side, stored), {rule.vectors: sha256_of_file(path)}


def _read(path: Path, key: str) -> tuple[pa.Array, np.ndarray]:
    """The keys as text, in the file's order, and their vectors, (N, D) float64."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read as Parquet ({error}); expected the vectors that `table.segment.vectors` names."
        ) from error
    lists = [
        column.name
        for column in table.schema
        if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
    ]
    if key not in table.column_names or len(lists) != 1:
        raise DataError(
            f"{path} has the columns {', '.join(table.column_names)}; expected `{key}` and one column of vectors "
            "(lists of numbers)."
        )
    table = table.filter(pc.is_valid(table[key])).sort_by(key)
    keys = table[key].combine_chunks().cast(pa.string())
    if len(keys.unique()) < len(keys):
        raise DataError(f"{path}: `{key}` stands there several times; expected one vector for each.")
    lengths = set(pc.list_value_length(table[lists[0]]).to_pylist())
    values = table[lists[0]].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    if len(lengths) != 1 or None in lengths or not np.isfinite(values).all():
        raise DataError(
            f"{path}: `{lists[0]}` holds vectors of {sorted(map(str, lengths))} numbers; expected one length, and "
            "finite numbers alone."
        )
    return keys, values.reshape(len(keys), -1)
