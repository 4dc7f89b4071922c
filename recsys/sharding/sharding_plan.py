"""The sharding plan: in which process every table lies, and there in which memory.

One process holds every table, and a library user may say by part how its tables are divided: that plan is made here.
What several processes of a run train by is TorchRec's planner's (`plan_rules.py`), and is put into its words here.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import (
    ParameterShardingGenerator,
    column_wise,
    construct_module_sharding_plan,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import CacheParams, EmbeddingModuleShardingPlan, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from recsys.errors import UsageError
from recsys.sharding.planned_tables import COMPUTE_KERNELS, TablePlacement
from recsys.sharding.processes import ProcessContext
from recsys.sharding.replicated import ReplicatedTables
from recsys.sharding.table_plan import TablePlan

AUTO = "auto"


@dataclass(frozen=True)
class TableMemory:
    """In which memory a part's tables lie where a GPU computes; a CPU has one memory, and this says nothing to it.

    It changes where the rows are, and no number in them.

    Attributes:
        kernel: "fused" for the GPU's own memory; "uvm" for the host's, out of which the GPU reads the rows that it
            needs; "uvm_caching" for the host's with a cache on the GPU of the rows that were used last; "auto" for what
            the planner chooses, or "fused" where it is not asked.
        cache_share: how much of the rows that cache holds, over 0 and up to 1.
    """

    kernel: str = "fused"
    cache_share: float = 0.2

    def __post_init__(self) -> None:
        if self.kernel not in (*COMPUTE_KERNELS, AUTO):
            raise UsageError(
                f"Tables have no kernel `{self.kernel}`; expected one of {', '.join(COMPUTE_KERNELS)}, {AUTO} "
                "(`training.table_kernels`)."
            )
        if not 0 < self.cache_share <= 1:
            raise UsageError(
                f"A cache cannot hold {self.cache_share} of a table's rows; expected a share over 0 and up to 1 "
                "(`training.table_cache_share`)."
            )


def sharding_plan(
    collections: Mapping[str, EmbeddingBagCollection],
    kinds: Mapping[str, str],
    memory: Mapping[str, TableMemory],
    context: ProcessContext,
) -> ShardingPlan:
    """Say where every table lies that is sharded.

    Args:
        collections: by path, replicated ones too.
        kinds, memory: by part; what has none lies table by table, in the memory of what computes.
    """
    held = [0] * context.world_size  # elements of whole tables per process
    modules = {}
    for path, collection in collections.items():
        if isinstance(collection, ReplicatedTables):
            continue
        part = path.split(".")[0]
        lies_in = memory.get(part, TableMemory())
        kind, kernel = kinds.get(part, "table_wise"), COMPUTE_KERNELS.get(lies_in.kernel, "fused")
        places: dict[str, ParameterShardingGenerator] = {}
        # Largest first, each to the process that holds least: the usual greedy balance.
        for config in sorted(collection.embedding_bag_configs(), key=lambda c: -c.num_embeddings * c.embedding_dim):
            if kind == "row_wise":
                places[config.name] = row_wise(compute_kernel=kernel)
            elif kind == "column_wise":
                places[config.name] = column_wise(ranks=list(range(context.world_size)), compute_kernel=kernel)
            else:
                rank = held.index(min(held))
                held[rank] += config.num_embeddings * config.embedding_dim
                places[config.name] = table_wise(rank=rank, compute_kernel=kernel)
        modules[path] = _module_plan(collection, places, context)
        if lies_in.kernel == "uvm_caching":
            _add_caches(modules[path], dict.fromkeys(places, lies_in.cache_share))
    return ShardingPlan(modules)


def planned_sharding(
    collections: Mapping[str, EmbeddingBagCollection],
    plan: TablePlan,
    context: ProcessContext,
) -> ShardingPlan:
    """Put the planner's placements into TorchRec's words.

    Args:
        collections: by path, replicated ones too.
    """
    placements = {(each.table.path, each.table.name): each for each in plan.placements}
    modules = {}
    for path, collection in collections.items():
        if isinstance(collection, ReplicatedTables):
            continue
        own = {config.name: placements[path, config.name] for config in collection.embedding_bag_configs()}
        modules[path] = _module_plan(collection, {name: _place(each) for name, each in own.items()}, context)
        cached = {name: each.table.cache_share for name, each in own.items() if each.kernel == "uvm_caching"}
        _add_caches(modules[path], cached)
    return ShardingPlan(modules)


def _place(placement: TablePlacement) -> ParameterShardingGenerator:
    kernel = COMPUTE_KERNELS[placement.kernel]
    ranks = [shard.rank for shard in placement.shards]
    if placement.sharding == "row_wise":
        return row_wise(compute_kernel=kernel)
    if placement.sharding == "column_wise":
        return column_wise(ranks=ranks, compute_kernel=kernel)
    return table_wise(rank=ranks[0], compute_kernel=kernel)


def _module_plan(
    collection: EmbeddingBagCollection, places: Mapping[str, ParameterShardingGenerator], context: ProcessContext
) -> EmbeddingModuleShardingPlan:
    in_order = {config.name: places[config.name] for config in collection.embedding_bag_configs()}
    return construct_module_sharding_plan(
        collection,
        in_order,
        sharder=EmbeddingBagCollectionSharder(),
        local_size=_local_size(context),
        world_size=context.world_size,
        device_type=context.device.type,
    )


def _local_size(context: ProcessContext) -> int:
    """How many processes share a node: the planner counts its devices anew on each."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", context.world_size))


def _add_caches(plan: EmbeddingModuleShardingPlan, shares: Mapping[str, float]) -> None:
    for name, share in shares.items():
        plan[name].cache_params = CacheParams(load_factor=share)
