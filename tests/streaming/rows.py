"""Encoded rows written by hand, in any layout of files and row groups; row i is known by its `user_key` i."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recsys.features.contract import FeatureContract
from recsys.features.schema import FeatureSchema
from recsys.streaming.loader import BatchStream

CONTRACT = FeatureContract(
    schema=FeatureSchema.from_document(
        {
            "name": "by_hand",
            "features": [
                {"name": "age", "kind": "dense", "used_by": ["user_tower"]},
                {"name": "user_id", "kind": "sparse", "used_by": ["user_tower"]},
                {"name": "recent", "kind": "sparse_list", "used_by": ["user_tower"], "table": "item", "max_length": 3},
                {"name": "price", "kind": "dense", "used_by": ["interaction_network"]},
                {"name": "item_id", "kind": "sparse", "used_by": ["item_tower"], "table": "item"},
            ],
            # The raw columns' names; encoded rows call them segment, label, weight and time.
            "segment": "activity",
            "segments": ["cold", "light", "heavy"],
            "label": "clicked",
            "weight": "importance",
            "time": "clicked_at",
            "user": "user_id",
            "item": "item_id",
        }
    ),
    table_rows={"user_id": 2**24 + 3, "item": 8},
    vocabulary_fingerprints={},
    scaling={},
    extras=("user_key", "true_probability"),
)


def encoded_rows(first: int, count: int) -> pa.Table:
    """Rows `first`, `first` + 1, ...; every column follows from the row's number."""
    n = np.arange(first, first + count)
    lengths = n % 4  # 0 to 3 values
    return pa.table(
        {
            "age": pa.array(n * 0.5, pa.float32()),
            # Odd ids above 2^24 have no float32.
            "user_id": pa.array(2**24 + 1 - n % 2**20, pa.int32()),
            "recent": pa.array([list(range(1, 1 + length)) for length in lengths], pa.list_(pa.int32())),
            "price": pa.array(-n, pa.float32()),
            "item_id": pa.array(n % 8, pa.int32()),
            "segment": pa.array(n % 3, pa.int8()),
            "label": pa.array(n % 2, pa.float32()),
            "weight": pa.array(1 + n % 5, pa.float32()),
            "time": pa.array(n * 1_000_000, pa.timestamp("us", "UTC")),
            "user_key": pa.array(n, pa.int64()),
            "true_probability": pa.array((n % 10) / 10, pa.float32()),
        }
    )


def write_layout(root: Path, layout: Sequence[Sequence[int]], split: str = "train") -> Path:
    """Write one file a day; `layout` names the rows in each of its row groups. Return `root`."""
    first = 0
    for day, groups in enumerate(layout):
        folder = root / f"split={split}" / f"day=2011-01-{day + 1:02}"
        folder.mkdir(parents=True)
        with pq.ParquetWriter(folder / "part-0.parquet", encoded_rows(0, 0).schema, write_page_checksum=True) as writer:
            for rows in groups:
                writer.write_table(encoded_rows(first, rows), row_group_size=max(rows, 1))
                first += rows
    return root


def write_column(root: Path, changed: Mapping[str, pa.Array], rows: int = 6) -> Path:
    """Write one file of one row group with some columns replaced; return the file."""
    table = encoded_rows(0, rows)
    for name, values in changed.items():
        table = table.set_column(table.column_names.index(name), name, values)
    path = root / "split=train" / "day=2011-01-01" / "part-0.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, write_page_checksum=True)
    return path


def open_stream(root: Path, **changed: Any) -> BatchStream:
    """Open the training split with small settings, some of them changed."""
    settings: dict[str, Any] = {
        "batch_size": 4,
        "seed": 7,
        "shuffle": True,
        "shuffle_buffer_rows": 16,
        "decode_threads": 2,
        "extras": ("user_key",),
        "device": torch.device("cpu"),
    }
    return BatchStream(root, changed.pop("split", "train"), CONTRACT, **{**settings, **changed})


def keys(stream: BatchStream) -> list[list[int]]:
    """Read the rest of the epoch: the rows of each batch."""
    return [batch.extra["user_key"].tolist() for batch in stream]
