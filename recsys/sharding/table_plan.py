"""A plan of the tables, made by TorchRec's planner from sizes alone: what lies where, what it takes, what does not fit,
and what would make it fit.

It needs no ranks, and is the same for a cluster that is only stated. All sizes and times are the planner's estimates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from recsys.sharding.cluster import Cluster
from recsys.sharding.planned_tables import TablePlacement, TableToPlace
from recsys.sharding.remedies import Remedy, find_remedies
from recsys.sharding.torchrec_planner import TableSearch


@dataclass(frozen=True)
class RankLoad:
    """What one process holds, in bytes, and how long its tables take in a step by the planner's estimate.

    Attributes:
        device_bytes, host_bytes: of the tables, and of a batch's ids and vectors on their way; the rest of the model
            and the reserve are not in them.
    """

    rank: int
    device_bytes: int
    host_bytes: int
    milliseconds: float


@dataclass(frozen=True)
class TablePlan:
    """Where tables lie on a cluster.

    Attributes:
        placements: in the order that the tables were given in.
        unplaced: tables that do not fit beside the others, the largest first; the placements are those of all others.
        too_large: those of them that would not fit alone either.
        free_device_bytes, free_host_bytes: what one process may give to tables.
        remedies: what would make all of them fit, and what would not do; none where all fit.
    """

    cluster: Cluster
    placements: tuple[TablePlacement, ...]
    unplaced: tuple[TableToPlace, ...]
    too_large: tuple[TableToPlace, ...]
    free_device_bytes: int
    free_host_bytes: int
    remedies: tuple[Remedy, ...]

    @property
    def fits(self) -> bool:
        """Whether every table has a place."""
        return not self.unplaced

    @property
    def ranks(self) -> list[RankLoad]:
        """What each process holds, by rank."""
        shards = [shard for placement in self.placements for shard in placement.shards]
        loads = []
        for rank in range(self.cluster.world_size):
            own = [shard for shard in shards if shard.rank == rank]
            device, host = sum(shard.device_bytes for shard in own), sum(shard.host_bytes for shard in own)
            loads.append(RankLoad(rank, device, host, sum(shard.milliseconds for shard in own)))
        return loads

    @property
    def milliseconds(self) -> float:
        """What the tables take of a step: as long as the slowest process, for which all others wait."""
        return max(each.milliseconds for each in self.ranks)


def plan_tables(tables: Sequence[TableToPlace], cluster: Cluster, batch_rows: int, dense_bytes: int) -> TablePlan:
    """Place the tables on the cluster; where not all fit, place the others, and find out what would make all fit.

    Args:
        batch_rows: that one process takes in a step.
        dense_bytes: in each process, of all that is no table, with gradients and optimizer state.
    """
    search = TableSearch(cluster, batch_rows, dense_bytes)
    smallest = search.smallest_shards(tables)
    too_large = [table for table, held in zip(tables, smallest, strict=True) if search.share_of_process(held) > 1]
    left, unplaced = [table for table in tables if table not in too_large], list(too_large)
    while (placements := search.place(left)) is None:
        left.sort(key=lambda table: table.weight_bytes)
        unplaced.append(left.pop())
    in_order = sorted(placements, key=lambda placement: tables.index(placement.table))
    device, host = search.free_bytes()
    return TablePlan(
        cluster,
        tuple(in_order),
        tuple(sorted(unplaced, key=lambda table: -table.weight_bytes)),
        tuple(too_large),
        max(0, device),
        max(0, host),
        tuple(find_remedies(tables, unplaced, search)) if unplaced else (),
    )
