"""What prepared rows say of each item: how often it is a row's, and which other ids stand beside it there."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from recsys.datasets.encoded import EncodedDataset
from recsys.features.encoding import SEGMENT
from recsys.streaming.parquet import encoded_columns, read_row_group, require_columns, row_groups_of_split
from recsys.streaming.storage import open_folder


def rows_of_items(encoded: EncodedDataset, split: str) -> npt.NDArray[np.int64]:
    """Count the rows of each item in every segment, (S, rows of the item's table).

    Raises:
        DataError: the split has no rows, or a file is damaged.
    """
    return rows_of_ids(encoded, split, encoded.contract.schema.item)


def rows_of_ids(encoded: EncodedDataset, split: str, feature: str) -> npt.NDArray[np.int64]:
    """Count the rows of each id of a sparse feature in every segment, (S, rows of the feature's table).

    Raises:
        DataError: the split has no rows, or a file is damaged.
    """
    schema = encoded.contract.schema
    shape = len(schema.segments), encoded.contract.table_rows[schema.feature(feature).table]
    counts = np.zeros(shape, np.int64)
    for _, (item, segment) in read_columns(encoded, split, [feature, SEGMENT]):
        pairs = _numbers(segment).astype(np.int64) * shape[1] + _numbers(item)
        counts += np.bincount(pairs, minlength=counts.size).reshape(shape)
    return counts


def days_of_items(encoded: EncodedDataset, split: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first and the last day that has a row of each item, (rows of the item's table,) each.

    They are places in `encoded.days(split)`; -1 where there is no row.

    Raises:
        DataError: the split has no rows, or a file is damaged.
    """
    schema = encoded.contract.schema
    place = {str(path): number for number, path in enumerate(encoded.files(split))}
    items = encoded.contract.table_rows[schema.feature(schema.item).table]
    first, last = np.full(items, len(place)), np.full(items, -1)
    for path, (item,) in read_columns(encoded, split, [schema.item]):
        seen = np.unique(_numbers(item))
        first[seen] = np.minimum(first[seen], place[path])
        last[seen] = np.maximum(last[seen], place[path])
    return np.where(last < 0, -1, first), last


def ids_beside_items(encoded: EncodedDataset, split: str, features: Sequence[str]) -> sparse.csr_matrix:
    """Return, of each item's rows, the share that has each id of these sparse features.

    Returns:
        (rows of the item's table, the features' tables' rows side by side); a list counts each of its ids.

    Raises:
        DataError: the split has no rows, or a file is damaged.
    """
    schema, table_rows = encoded.contract.schema, encoded.contract.table_rows
    items = table_rows[schema.feature(schema.item).table]
    counts = [sparse.csr_matrix((items, table_rows[schema.feature(name).table]), dtype=np.float64) for name in features]
    rows = np.zeros(items)
    for _, (item, *columns) in read_columns(encoded, split, [schema.item, *features]):
        numbers = _numbers(item)
        rows += np.bincount(numbers, minlength=items)
        for place, column in enumerate(columns):
            of_id, ids = numbers, column
            if isinstance(column, pa.ListArray | pa.LargeListArray):
                of_id, ids = np.repeat(numbers, _numbers(column.value_lengths())), column.flatten()
            shape = counts[place].shape
            counts[place] += sparse.csr_matrix((np.ones(len(of_id)), (of_id, _numbers(ids))), shape=shape)
    shares: sparse.csr_matrix = sparse.diags(1 / np.maximum(rows, 1)) @ sparse.hstack(counts, format="csr")
    return shares


def read_columns(
    encoded: EncodedDataset, split: str, names: Sequence[str], *, part: int = 0, parts: int = 1
) -> Iterator[tuple[str, list[pa.Array]]]:
    """Yield the file and some encoded columns of a split's row groups, of every `parts`-th from `part` on.

    Raises:
        DataError: the split has no rows, or a file is damaged.
    """
    known = encoded_columns(encoded.contract, ())
    groups = row_groups_of_split(
        open_folder(encoded.root),
        split,
        [str(path) for path in encoded.files(split)],
        (),
        lambda path, found: require_columns(path, found, {name: known[name] for name in names}),
    )
    for group in groups[part::parts]:
        read = read_row_group(group, list(names))
        yield str(group.path), [read[name] for name in names]


def _numbers(column: pa.Array) -> npt.NDArray[np.integer]:
    numbers: npt.NDArray[np.integer] = column.to_numpy(zero_copy_only=False)
    return numbers
