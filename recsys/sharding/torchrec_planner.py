"""TorchRec's planner, given tables by their sizes alone: nothing is allocated, and no process group is needed.

The planner takes constraints by a table's name, and tables of two parts may share one: here every table stands in a
module of its own making, under a name of its own, on the meta device.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.constants import DEFAULT_PERF_ESTIMATOR
from torchrec.distributed.planner.estimator import EmbeddingPerfEstimatorFactory
from torchrec.distributed.planner.proposers import GreedyProposer, GridSearchProposer, UniformProposer
from torchrec.distributed.planner.stats import NoopEmbeddingStats
from torchrec.distributed.planner.storage_reservations import HeuristicalStorageReservation
from torchrec.distributed.planner.types import (
    ParameterConstraints,
    PlannerError,
    Proposer,
    ShardingOption,
    Topology,
)
from torchrec.distributed.types import CacheParams
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from recsys.sharding.cluster import Cluster
from recsys.sharding.planned_tables import COMPUTE_KERNELS, PlacedShard, TablePlacement, TableToPlace
from recsys.sharding.planner_parts import (
    FullStorageEstimator,
    MemoryProposer,
    OrderedEnumerator,
    PlanningSharder,
    largest_shard,
)

TABLE_TYPES = {"float32": DataType.FP32, "float16": DataType.FP16}
"""What the fused kernels train in, on CPUs and GPUs."""

_DENSE = "dense"  # TorchRec's kernel of replicated tables
_OURS = {theirs: ours for ours, theirs in COMPUTE_KERNELS.items()} | {_DENSE: "fused"}
_OPTIMIZERS: dict[str | None, type[torch.optim.Optimizer]] = {
    "rowwise_adagrad": RowWiseAdagrad,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
    None: torch.optim.SGD,
}
_LARGEST_CACHE = 1 - 1e-6  # the planner takes no cache that holds every row
# The planner's own, and what its decorators write every call's arguments to.
_LOGGERS = ("torchrec", "MethodLogger-NullHandler", "Cap01Logger-NullHandler")
_GRID = 500  # combinations up to which all are tried
_TABLE_WISE, _ROW_WISE, _DATA_PARALLEL = "table_wise", "row_wise", "data_parallel"


class TableSearch:
    """The planner's search for one cluster.

    Args:
        batch_rows: that one process takes in a step.
        dense_bytes: of all that is no table, in each process.
    """

    def __init__(self, cluster: Cluster, batch_rows: int, dense_bytes: int) -> None:
        self.cluster = cluster
        self._batch_rows = batch_rows
        self._dense_bytes = max(1, dense_bytes)  # TorchRec takes 0 for no estimate

    def place(self, tables: Sequence[TableToPlace]) -> list[TablePlacement] | None:
        """Return where each table lies, in the order that they were given in; None where no plan fits."""
        if not tables:
            return []
        # The first two go through options by cost; the last tries every combination of a few.
        by_cost = [GreedyProposer(), GreedyProposer(use_depth=False), UniformProposer(), GridSearchProposer(_GRID)]
        best = self._best(tables, by_cost)
        if best is None and self.cluster.device == "cuda":
            best = self._best(tables, [MemoryProposer()])
        if best is None:
            return None
        placed = {int(option.name): option for option in best}
        return [_placement(table, placed[index]) for index, table in enumerate(tables)]

    def on(self, cluster: Cluster) -> "TableSearch":
        """Return the same search for another cluster."""
        return TableSearch(cluster, self._batch_rows, self._dense_bytes)

    def smallest_shards(self, tables: Sequence[TableToPlace]) -> list[tuple[int, int]]:
        """Return for each table the least that one process must hold of it: (device bytes, host bytes).

        Of several ways to place it the one that takes the smallest share of what one process may use.
        """
        with _without_noise():
            topology = self.cluster.topology()
            enumerator = self._enumerator(topology, _constraints(tables, self.cluster))
            options = enumerator.enumerate(_stand_in(tables), [PlanningSharder()])
        return [
            min(
                (largest_shard(option) for option in options if int(option.name) == index),
                key=self.share_of_process,
            )
            for index in range(len(tables))
        ]

    def share_of_process(self, held: tuple[int, int]) -> float:
        """How much of what one process may use this is; over 1 where it does not fit.

        Args:
            held: device bytes and host bytes.
        """
        free = self.free_bytes()
        return max(0.0 if need == 0 else need / max(1, has) for need, has in zip(held, free, strict=True))

    def free_bytes(self) -> tuple[int, int]:
        """What tables may take of one process's memory: device bytes and host bytes, the rest of the model left out."""
        device, host = self.cluster.device_bytes_for_use, self.cluster.host_bytes_for_use
        return (device - self._dense_bytes, host) if self.cluster.device == "cuda" else (0, host - self._dense_bytes)

    def _best(self, tables: Sequence[TableToPlace], proposers: list[Proposer]) -> list[ShardingOption] | None:
        best: list[ShardingOption] = []

        def keep(options: list[ShardingOption]) -> list[ShardingOption]:
            best.extend(options)
            return options

        with _without_noise():
            topology, constraints = self.cluster.topology(), _constraints(tables, self.cluster)
            planner = EmbeddingShardingPlanner(
                topology=topology,
                batch_size=self._batch_rows,
                enumerator=self._enumerator(topology, constraints),
                # The cluster has taken its reserve off already.
                storage_reservation=HeuristicalStorageReservation(0.0, dense_tensor_estimate=self._dense_bytes),
                proposer=proposers,
                stats=NoopEmbeddingStats(),
                constraints=constraints,
                callbacks=[keep],
            )
            try:
                planner.plan(_stand_in(tables), [PlanningSharder()])
            except PlannerError:
                return None
        return best

    def _enumerator(self, topology: Topology, constraints: dict[str, ParameterConstraints]) -> "OrderedEnumerator":
        estimators = [
            EmbeddingPerfEstimatorFactory.create(DEFAULT_PERF_ESTIMATOR, topology=topology, constraints=constraints),
            FullStorageEstimator(topology=topology, constraints=constraints),
        ]
        return OrderedEnumerator(topology, self._batch_rows, constraints, estimators)


def _stand_in(tables: Sequence[TableToPlace]) -> EmbeddingBagCollection:
    """One collection of all tables, each named by its place."""
    configs = [
        EmbeddingBagConfig(
            name=str(index),
            num_embeddings=table.rows,
            embedding_dim=table.width,
            feature_names=[f"{index}_{feature}" for feature in range(len(table.ids_per_row))],
            data_type=TABLE_TYPES[table.precision],
        )
        for index, table in enumerate(tables)
    ]
    collection = EmbeddingBagCollection(tables=configs, device=torch.device("meta"))
    for index, table in enumerate(tables):
        # Where the planner looks for what the accumulators take; `_apply_optimizer_in_backward` puts it there.
        weight: Any = collection.embedding_bags[str(index)].weight
        weight._optimizer_classes = [_OPTIMIZERS[table.optimizer]]
    return collection


def _constraints(tables: Sequence[TableToPlace], cluster: Cluster) -> dict[str, ParameterConstraints]:
    return {
        str(index): ParameterConstraints(
            sharding_types=_types(table, cluster),
            compute_kernels=_kernels(table, cluster),
            min_partition=_columns_of_a_piece(table.width, cluster.world_size),
            pooling_factors=list(table.ids_per_row),
            # What is looked up is float32 whatever the weights are.
            output_dtype=DataType.FP32,
            cache_params=CacheParams(load_factor=min(table.cache_share, _LARGEST_CACHE)),
        )
        for index, table in enumerate(tables)
    }


def _types(table: TableToPlace, cluster: Cluster) -> list[str]:
    """What is allowed, where rows are divided among several and no process would get none."""
    others = cluster.world_size - 1
    rows_of_each = -(-table.rows // cluster.world_size)
    if _ROW_WISE in table.types and (others == 0 or rows_of_each * others >= table.rows):
        return [each for each in table.types if each != _ROW_WISE] or [_TABLE_WISE]
    return list(table.types)


def _kernels(table: TableToPlace, cluster: Cluster) -> list[str]:
    if _DATA_PARALLEL in table.types:
        return [_DENSE]
    return [COMPUTE_KERNELS[kernel] for kernel in table.kernels] if cluster.device == "cuda" else ["fused"]


def _columns_of_a_piece(width: int, world_size: int) -> int:
    """How many columns each process gets: a multiple of 4 that divides the width, as few as there are processes for."""
    pieces = [columns for columns in range(4, width, 4) if width % columns == 0 and width // columns <= world_size]
    return pieces[0] if pieces else width


def _placement(table: TableToPlace, option: ShardingOption) -> TablePlacement:
    shards = tuple(
        PlacedShard(each.rank, each.size[0], each.size[1], each.storage.hbm, each.storage.ddr, each.perf.total)
        for each in option.shards
    )
    return TablePlacement(table, option.sharding_type, _OURS[option.compute_kernel], shards)


@contextmanager
def _without_noise() -> Iterator[None]:
    """Keep to itself what the planner says of its own estimates."""
    loggers, root = [logging.getLogger(name) for name in _LOGGERS], logging.getLogger()
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    root.addFilter(_is_not_of_the_planner)  # some of it goes past the planner's own loggers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        root.removeFilter(_is_not_of_the_planner)


def _is_not_of_the_planner(record: logging.LogRecord) -> bool:
    return record.module != "planners"
