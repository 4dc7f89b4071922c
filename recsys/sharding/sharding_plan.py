"""The sharding plan: in which process every table lies, and there in which memory.

TorchRec's planner offers no row-wise sharding on CPUs, and its plan depends on what it guesses of the machine: this one
is made here, from what a part's user says of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import column_wise, construct_module_sharding_plan, row_wise, table_wise
from torchrec.distributed.types import CacheParams, EmbeddingModuleShardingPlan, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from recsys.errors import UsageError
from recsys.sharding.processes import ProcessContext
from recsys.sharding.replicated import ReplicatedTables

_COMPUTE_KERNELS = {"fused": "fused", "uvm": "fused_uvm", "uvm_caching": "fused_uvm_caching"}  # by TorchRec's words


@dataclass(frozen=True)
class TableMemory:
    """In which memory a part's tables lie where a GPU computes; a CPU has one memory, and this says nothing to it.

    It changes where the rows are, and no number in them.

    Attributes:
        kernel: "fused" for the GPU's own memory; "uvm" for the host's, out of which the GPU reads the rows that it
            needs; "uvm_caching" for the host's with a cache on the GPU of the rows that were used last.
        cache_share: how much of the rows that cache holds, over 0 and up to 1.
    """

    kernel: str = "fused"
    cache_share: float = 0.2

    def __post_init__(self) -> None:
        if self.kernel not in _COMPUTE_KERNELS:
            raise UsageError(
                f"Tables have no kernel `{self.kernel}`; expected one of {', '.join(_COMPUTE_KERNELS)} "
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
    sharder = EmbeddingBagCollectionSharder()
    modules = {}
    for path, collection in collections.items():
        if isinstance(collection, ReplicatedTables):
            continue
        part = path.split(".")[0]
        lies_in = memory.get(part, TableMemory())
        kind, kernel = kinds.get(part, "table_wise"), _COMPUTE_KERNELS[lies_in.kernel]
        places = {}
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
        in_order = {config.name: places[config.name] for config in collection.embedding_bag_configs()}
        plan = construct_module_sharding_plan(
            collection,
            in_order,
            sharder=sharder,
            local_size=context.world_size,
            world_size=context.world_size,
            device_type=context.device.type,
        )
        modules[path] = _with_cache(plan, lies_in)
    return ShardingPlan(modules)


def _with_cache(plan: EmbeddingModuleShardingPlan, memory: TableMemory) -> EmbeddingModuleShardingPlan:
    if memory.kernel == "uvm_caching":
        for place in plan.values():
            place.cache_params = CacheParams(load_factor=memory.cache_share)
    return plan
