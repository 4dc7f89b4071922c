"""Tables as the planner is asked about them, by sizes alone, and what it answers."""

from dataclasses import dataclass

COMPUTE_KERNELS = {"fused": "fused", "uvm": "fused_uvm", "uvm_caching": "fused_uvm_caching"}
"""In which memory a table may lie, by our word and by TorchRec's."""


@dataclass(frozen=True)
class TableToPlace:
    """A table, and what the planner may do with it.

    Attributes:
        path: of the collection that it is in; it begins with the name of the part.
        rows, width: of the whole table.
        types: ways to shard it, of "table_wise", "row_wise" and "column_wise", or "data_parallel" alone.
        kernels: memories that it may lie in where a GPU computes, of "fused", "uvm" and "uvm_caching".
        optimizer: "rowwise_adagrad", "adagrad" or "sgd"; None for a table that is frozen for good.
        ids_per_row: for each feature that is looked up in it, how many ids a row has, on average or at most.
        cache_share: how much of its rows the cache of "uvm_caching" holds.
    """

    path: str
    name: str
    rows: int
    width: int
    types: tuple[str, ...]
    kernels: tuple[str, ...] = ("fused",)
    precision: str = "float32"
    optimizer: str | None = "rowwise_adagrad"
    ids_per_row: tuple[float, ...] = (1.0,)
    cache_share: float = 0.2

    @property
    def part(self) -> str:
        """The part that it is of."""
        return self.path.partition(".")[0]

    @property
    def weight_bytes(self) -> int:
        """Of its weights alone."""
        return self.rows * self.width * (2 if self.precision == "float16" else 4)


@dataclass(frozen=True)
class PlacedShard:
    """What one process holds of a table.

    Attributes:
        device_bytes, host_bytes: weights, accumulators, cache, and a batch's ids and vectors on their way.
        milliseconds: of a step, by the planner's estimate: look-up, update, and exchange.
    """

    rank: int
    rows: int
    columns: int
    device_bytes: int
    host_bytes: int
    milliseconds: float


@dataclass(frozen=True)
class TablePlacement:
    """Where one table lies: how it is sharded, in which memory, and its shards."""

    table: TableToPlace
    sharding: str
    kernel: str
    shards: tuple[PlacedShard, ...]
