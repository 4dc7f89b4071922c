"""How tables may be divided among processes, and the cluster that they are planned for."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from recsys.config.knobs import PositiveFloat, Processes, Share, checked_dataclass

PartWithTables = Literal["embedding_tower", "interaction_network", "head"]
TableKernel = Literal["fused", "uvm", "uvm_caching", "auto"]
_Division = Literal["table_wise", "row_wise", "column_wise"]
_DATA_PARALLEL = "data_parallel"


def _require_alone(types: tuple[str, ...]) -> tuple[str, ...]:
    if _DATA_PARALLEL in types and len(types) > 1:
        raise ValueError(
            f"`sharding.types` allows {', '.join(types)} for one part; a part's tables are replicated all or none, so "
            f"expected {_DATA_PARALLEL} alone, or some of the others"
        )
    return types


_PartTypes = Annotated[
    tuple[_Division | Literal["data_parallel"], ...], Field(min_length=1), AfterValidator(_require_alone)
]


@checked_dataclass
class TableShardingConfig:
    """What one table may be, in place of what its part may; null leaves it to the part."""

    types: Annotated[tuple[_Division, ...], Field(min_length=1)] | None = None
    kernel: TableKernel | None = None


@checked_dataclass
class ClusterConfig:
    """Equal nodes of equal devices, a process on each; null takes what this machine has, and the run's processes.

    Memories in GB of 10 ** 9 bytes, `device_gb` of each GPU and `host_gb` of each node; bandwidths in GB per second, of
    those memories, between the two, between devices of a node, and from a device to one of another node.
    `reserved_share` of every memory is left to what the planner does not count.
    """

    device: Literal["cpu", "cuda"] | None
    nodes: Processes | None
    devices_per_node: Processes | None
    device_gb: PositiveFloat | None
    host_gb: PositiveFloat | None
    device_bandwidth: PositiveFloat
    host_bandwidth: PositiveFloat
    host_to_device_bandwidth: PositiveFloat
    in_node_bandwidth: PositiveFloat
    between_nodes_bandwidth: PositiveFloat
    reserved_share: Share


@checked_dataclass
class ShardingConfig:
    """What the planner may choose from, by part and by table.

    `types` are ways to divide a part's tables; `data_parallel` stands alone, as a part's tables are replicated all or
    none.
    """

    types: dict[PartWithTables, _PartTypes]
    tables: dict[str, TableShardingConfig]
