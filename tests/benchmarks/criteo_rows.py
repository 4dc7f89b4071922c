"""Rows of Criteo's shape: 13 dense features, 26 ids in tables of 10 to 2,000,000 rows, two lists of ids of mean length
8, segment, label. Ids are Zipf's, with exponent 1.05."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.datasets.row_encoder import encoded_schema
from recsys.features.contract import FeatureContract
from recsys.features.schema import FeatureSchema

TABLE_ROWS = [
    10, 12, 18, 24, 27, 105, 305, 633, 1_460, 3_194, 5_652, 9_000, 12_517, 14_992, 60_000, 93_145, 142_572, 200_000,
    286_181, 320_000, 500_000, 700_000, 1_000_000, 1_250_000, 1_600_000, 2_000_000,
]  # fmt: skip
LIST_TABLE_ROWS = [50_000, 400_000]
MEAN_LIST_LENGTH, MAX_LIST_LENGTH = 8, 50
NUM_DENSE, SEGMENT_SHARES = 13, [0.55, 0.2, 0.13, 0.08, 0.04]
ZIPF_EXPONENT = 1.05


def contract(*, most_table_rows: int = max(TABLE_ROWS), has_lists: bool = True) -> FeatureContract:
    """The contract of the rows that `make_rows` writes for the same arguments.

    Args:
        most_table_rows: of the larger tables, which are cut down to it.
        has_lists: whether there are the two lists.
    """
    both = ["user_tower", "interaction_network"]
    lists = range(len(LIST_TABLE_ROWS) if has_lists else 0)
    schema = FeatureSchema.from_document(
        {
            "name": "criteo_shaped",
            "features": [
                *({"name": f"I{i}", "kind": "dense", "used_by": both} for i in range(NUM_DENSE)),
                *({"name": f"C{i}", "kind": "sparse", "used_by": both} for i in range(len(TABLE_ROWS))),
                *(
                    {"name": f"L{i}", "kind": "sparse_list", "max_length": MAX_LIST_LENGTH, "used_by": both}
                    for i in lists
                ),
            ],
            "segment": "segment",
            "segments": ["a", "b", "c", "d", "e"],
            "label": "label",
            "time": "time",
            "user": "C25",
            "item": "C24",
        }
    )
    rows = {f"C{i}": n for i, n in enumerate(TABLE_ROWS)} | {f"L{i}": LIST_TABLE_ROWS[i] for i in lists}
    table_rows = {name: min(n, most_table_rows) for name, n in rows.items()}
    return FeatureContract(schema, table_rows=table_rows, vocabulary_fingerprints={}, scaling={}, extras=("user_key",))


def make_rows(
    root: Path,
    rows: int,
    rows_per_file: int = 500_000,
    rows_per_group: int = 100_000,
    generated_root: Path | None = None,
    *,
    files_at_once: int = 1,
    **shape: Any,
) -> None:
    """Write `rows` rows, one file a day, as `recsys prepare` would; under another folder also as generated.

    Args:
        shape: arguments of `contract`.
    """
    of = contract(**shape)
    schema = encoded_schema(of)

    def make_day(day: int) -> None:
        first = day * rows_per_file
        table = _table(np.random.default_rng([1, day]), of, first, min(rows_per_file, rows - first))
        encoded = table.select(schema.names).cast(schema)
        _write(encoded, root, day, row_group_size=rows_per_group, write_page_checksum=True)
        if generated_root is not None:
            _write(_with_wide_ids(table), generated_root, day, row_group_size=rows_per_group)

    # Threads are enough: numpy and Arrow compute outside of Python's lock.
    with ThreadPoolExecutor(files_at_once) as executor:
        list(executor.map(make_day, range(-(-rows // rows_per_file))))


def zipf_ids(rng: np.random.Generator, table_rows: int, size: int) -> npt.NDArray[np.int32]:
    """Draw (size,) ids by bounded Zipf, inverting the continuous distribution.

    Hot ids are spread over the table by a multiplication.
    """
    power = 1 - ZIPF_EXPONENT
    ranks = (1 + rng.random(size) * ((table_rows + 1.0) ** power - 1)) ** (1 / power)
    return (np.minimum(ranks.astype(np.int64) - 1, table_rows - 1) * 0x9E3779B1 % table_rows).astype(np.int32)


def _write(table: pa.Table, root: Path, day: int, **how: Any) -> None:
    folder = root / "split=train" / f"day={np.datetime64('2011-01-01') + day}"
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-0.parquet", compression="zstd", **how)


def _with_wide_ids(table: pa.Table) -> pa.Table:
    wide = {pa.int32(): pa.int64(), pa.list_(pa.int32()): pa.list_(pa.int64())}
    return table.cast(pa.schema([field.with_type(wide.get(field.type, field.type)) for field in table.schema]))


def _table(rng: np.random.Generator, of: FeatureContract, first: int, rows: int) -> pa.Table:
    columns: dict[str, pa.Array] = {}
    for i in range(NUM_DENSE):
        values = np.expm1(np.abs(rng.standard_normal(rows, dtype=np.float32)) * (0.3 + 0.1 * i)).round(3)
        values[rng.random(rows) < 0.1] = 0
        columns[f"I{i}"] = pa.array(values, pa.float32())
    for name, table_rows in of.table_rows.items():
        if name.startswith("C"):
            columns[name] = pa.array(zipf_ids(rng, table_rows, rows))
        else:
            lengths = np.minimum(rng.geometric(1 / (MEAN_LIST_LENGTH + 1), rows) - 1, MAX_LIST_LENGTH)
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            columns[name] = pa.ListArray.from_arrays(offsets, pa.array(zipf_ids(rng, table_rows, offsets[-1])))
    columns["segment"] = pa.array(rng.choice(len(SEGMENT_SHARES), rows, p=SEGMENT_SHARES).astype(np.int8))
    columns["label"] = pa.array((rng.random(rows) < 0.25).astype(np.float32))
    columns["time"] = pa.array(np.arange(first, first + rows) * 1000, pa.timestamp("us"))
    columns["user_key"] = pa.array(np.arange(first, first + rows))
    return pa.table(columns)
