"""Which ids the prepared rows of some user segments look up."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.datasets.encoded import EncodedDataset
from recsys.features.encoding import SEGMENT
from recsys.inspection.item_rows import read_columns


def ids_of_segments(
    encoded: EncodedDataset,
    split: str,
    features: Sequence[str],
    groups: Mapping[str, Collection[int]],
    *,
    part: int = 0,
    parts: int = 1,
) -> dict[str, dict[str, npt.NDArray[np.bool_]]]:
    """Return, by group of segments and by table, which rows of the table some row of the group looks up, (rows,).

    Args:
        features: sparse features, lists among them; those that share a table count together.
        groups: the segments of each group, by number.
        part, parts: every how many of the split's row groups is read, and from which on; all, as declared.

    Raises:
        DataError: the split has no rows, or a file is damaged.
    """
    schema, table_rows = encoded.contract.schema, encoded.contract.table_rows
    table_of = {name: schema.feature(name).table for name in features}
    found = {
        group: {table: np.zeros(table_rows[table], np.bool_) for table in dict.fromkeys(table_of.values())}
        for group in groups
    }
    numbers = {group: sorted(segments) for group, segments in groups.items()}
    for _, (segment, *columns) in read_columns(encoded, split, [SEGMENT, *features], part=part, parts=parts):
        of_row = segment.to_numpy(zero_copy_only=False)
        for group, segments in numbers.items():
            kept = pa.array(np.isin(of_row, segments))
            for name, column in zip(features, columns, strict=True):
                own = column.filter(kept)
                ids = own.flatten() if isinstance(own, pa.ListArray | pa.LargeListArray) else own
                found[group][table_of[name]][ids.to_numpy(zero_copy_only=False)] = True
    return found
