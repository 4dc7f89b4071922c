"""The rows of `tests.small_model` on disk, as the preparation encodes them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recsys.streaming.loader import BatchStream
from tests.small_model import ROWS, small_contract

COLUMNS = {
    "age": pa.float32(),
    "price": pa.float32(),
    "user_id": pa.int32(),
    "item_id": pa.int32(),
    "brand": pa.int32(),
    "recent": pa.list_(pa.int32()),
    "segment": pa.int8(),
    "label": pa.float32(),
}


def open_small_rows(root: Path, device: torch.device, rank: int = 0, world_size: int = 1) -> BatchStream:
    """Write the rows four times over, where they are not yet, and open them in shuffled batches of five a process."""
    path = root / "split=train" / "day=2011-01-01" / "part-0.parquet"
    if not path.exists():
        rows = ROWS * 4
        table = pa.table({name: pa.array([getattr(row, name) for row in rows], kind) for name, kind in COLUMNS.items()})
        times = pa.array(range(len(rows)), pa.timestamp("us", "UTC"))
        path.parent.mkdir(parents=True)
        pq.write_table(table.append_column("time", times), path, row_group_size=8)
    return BatchStream(
        root,
        "train",
        small_contract(),
        batch_size=5,
        seed=3,
        shuffle=True,
        shuffle_buffer_rows=16,
        decode_threads=1,
        device=device,
        rank=rank,
        world_size=world_size,
    )
