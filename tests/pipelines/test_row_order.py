"""Training reads shuffled rows, or rows strictly by time where its configuration says so, on any number of ranks."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import torch

from recsys.config.compose import compose_config
from recsys.datasets.encoded import EncodedDataset
from recsys.progress import silent
from recsys.run.prepare import run as prepare
from recsys.run.streams import ranker_stream, started


@pytest.fixture(scope="module")
def encoded(small_world: list[str]) -> EncodedDataset:
    return prepare(compose_config(small_world), silent)


def by_time(encoded: EncodedDataset) -> pa.Table:
    """All training rows in the order of their days and times."""
    table = ds.dataset(encoded.root / "split=train", format="parquet", partitioning="hive").to_table()
    days = table.column("time").cast(pa.timestamp("us"))
    return table.set_column(table.column_names.index("time"), "time", days).sort_by("time")


def dense_read(small_world: list[str], encoded: EncodedDataset, ranks: int, *overrides: str) -> torch.Tensor:
    """The dense features of all rows, in the order of the steps."""
    config = compose_config([*small_world, "training.tower_day_share=0", "training.batch_size=64", *overrides])
    context = started(config)
    streams = [ranker_stream(config, encoded, replace(context, rank=rank, world_size=ranks)) for rank in range(ranks)]
    return torch.cat([batch.dense for step in zip(*streams, strict=True) for batch in step])


@pytest.mark.parametrize("ranks", [1, 3])
def test_rows_come_strictly_by_time_where_the_configuration_says_so(
    small_world: list[str], encoded: EncodedDataset, ranks: int
):
    rows = by_time(encoded)
    assert len(rows.column("time").unique()) > 0.9 * len(rows)  # else many orders would do
    names = [feature.name for feature in encoded.contract.schema.dense]
    expected = torch.tensor([rows.column(name).to_pylist() for name in names]).T

    assert torch.equal(dense_read(small_world, encoded, ranks, "training.row_order=time"), expected)
    assert not torch.equal(dense_read(small_world, encoded, ranks), expected)
