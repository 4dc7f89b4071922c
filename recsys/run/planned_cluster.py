"""The configured cluster and sharding as the planner takes them: for `recsys plan`, and for runs of several."""

from collections.abc import Sequence

from recsys.composition.segment_rungs import COPIES_PART
from recsys.config import ClusterConfig, RunConfig
from recsys.errors import UsageError
from recsys.features.schema import FeatureSchema
from recsys.monitoring.device_memory import memory_bytes
from recsys.run.batch_size import LARGEST
from recsys.sharding.cluster import Bandwidths, Cluster
from recsys.sharding.plan_rules import Planning, PlanRules
from recsys.sharding.planned_tables import COMPUTE_KERNELS
from recsys.sharding.processes import CUDA, ProcessContext, device_kind, gpus, local_processes
from recsys.sharding.sharding_plan import AUTO

_GB = 1e9
_ROW_WISE = "row_wise"
_TOWER = "embedding_tower"


def planning_of(config: RunConfig, schema: FeatureSchema, context: ProcessContext) -> Planning | None:
    """Return how the run's tables are planned; None where one process has each part's tables in a memory that is given.

    Raises:
        UsageError: the configured cluster is another one than the run's processes make.
    """
    chosen = [
        AUTO in config.training.table_kernels.values(),
        *(each.kernel for each in config.sharding.tables.values()),
    ]
    if context.world_size == 1 and not (context.device.type == CUDA and any(chosen)):
        return None
    cluster = config.cluster
    stated = {
        "cluster.device": (cluster.device, context.device.type),
        "cluster.nodes": (cluster.nodes, max(1, context.world_size // local_processes())),
        "cluster.devices_per_node": (cluster.devices_per_node, min(context.world_size, local_processes())),
    }
    for key, (wanted, found) in stated.items():
        if wanted not in (None, found):
            raise UsageError(
                f"`{key}` is {wanted}, and the run has {found}: {context.world_size} processes on "
                f"{context.device.type}. A run is planned for its own processes; leave `{key}` null "
                "(cluster=this_machine), or start it on the cluster that is configured."
            )
    of_run = cluster_of(config, context)
    return Planning(of_run, rules_of(config, of_run, schema), batch_rows_of(config, of_run))


def cluster_of(config: RunConfig, context: ProcessContext | None = None) -> Cluster:
    """Return the configured cluster; what it leaves open is this machine, or the run's processes.

    Raises:
        UsageError: it leaves open what the memory of a GPU is, and this machine has none.
    """
    said = config.cluster
    device = said.device or device_kind(config.runtime.device)
    in_node = local_processes() if context or device != CUDA else max(1, gpus(config.runtime.device))
    devices = said.devices_per_node or min(in_node, context.world_size if context else in_node)
    return Cluster(
        device,
        said.nodes or (context.world_size // devices if context else 1),
        devices,
        _device_bytes(said, device, config.runtime.device),
        round(said.host_gb * _GB) if said.host_gb else memory_bytes("cpu"),
        Bandwidths(
            said.device_bandwidth * _GB,
            said.host_bandwidth * _GB,
            said.host_to_device_bandwidth * _GB,
            said.in_node_bandwidth * _GB,
            said.between_nodes_bandwidth * _GB,
        ),
        said.reserved_share,
    )


def rules_of(config: RunConfig, cluster: Cluster, schema: FeatureSchema | None = None) -> PlanRules:
    """Return what the planner may choose from.

    Args:
        schema: says how many ids a row has at most; one of each feature where there is none.

    Raises:
        UsageError: rows of a table are to be divided where they cannot be.
    """
    training, sharding = config.training, config.sharding
    types = {str(part): _divisible(each, f"sharding.types.{part}", cluster) for part, each in sharding.types.items()}
    kernels = {str(part): _kernels(kernel) for part, kernel in training.table_kernels.items()}
    if config.training_mode.rungs:
        # The copies of a tower may lie where the tower may.
        types[COPIES_PART], kernels[COPIES_PART] = types[_TOWER], kernels[_TOWER]
    return PlanRules(
        types=types,
        kernels=kernels,
        table_types={
            name: _divisible(each.types, f"sharding.tables.{name}.types", cluster)
            for name, each in sharding.tables.items()
            if each.types
        },
        table_kernels={name: _kernels(each.kernel) for name, each in sharding.tables.items() if each.kernel},
        cache_share=training.table_cache_share,
        ids_per_row={feature.name: float(feature.max_length or 1) for feature in schema.sparse} if schema else {},
    )


def batch_rows_of(config: RunConfig, cluster: Cluster) -> int:
    """How many rows one process takes in a step, at most."""
    together = config.training.batch_size or config.training.largest_batch or LARGEST
    return -(-together // cluster.world_size)


def _divisible(types: Sequence[str], key: str, cluster: Cluster) -> tuple[str, ...]:
    """Rows are divided on GPUs alone: the last batch of an epoch is rarely of one size in all processes, and gloo
    gathers what the pieces of a row-wise table found only where it is.
    """
    if cluster.device == CUDA or cluster.world_size == 1:
        return tuple(types)
    left = tuple(each for each in types if each != _ROW_WISE)
    if not left:
        raise UsageError(
            f"`{key}` is [{_ROW_WISE}], and {cluster.world_size} processes on CPUs exchange row-wise pieces only for "
            "batches of one size, which the last of an epoch is not. Allow table_wise, or train on GPUs."
        )
    return left


def _kernels(kernel: str) -> tuple[str, ...]:
    return tuple(COMPUTE_KERNELS) if kernel == AUTO else (kernel,)


def _device_bytes(said: ClusterConfig, device: str, wished: str) -> int:
    if device != CUDA:
        return 0
    if said.device_gb:
        return round(said.device_gb * _GB)
    if device_kind(wished) != CUDA:
        raise UsageError(
            "`cluster.device` is cuda, and this machine has no GPU whose memory could be read. Give "
            "`cluster.device_gb=80`, or choose a cluster that says it: cluster=gpus_8x80gb."
        )
    return memory_bytes(wished)
