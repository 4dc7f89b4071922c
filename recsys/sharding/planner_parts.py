"""Parts of TorchRec's planner, mended.

The planner offers no row-wise sharding where the CPU computes, though it works there; it goes through its options in
the order of a set, which changes from one start of Python to the next; it counts accumulators in the weights'
precision, where the kernels keep them in float32; it counts no gradient of replicated tables, which is as large as they
are; and it looks for a plan by cost and by the device's memory alone.
"""

from collections.abc import Iterator
from itertools import product

import torch
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.shard_estimators import EmbeddingStorageEstimator
from torchrec.distributed.planner.types import Enumerator, Proposer, Shard, SharderDataMap, ShardingOption, Topology
from torchrec.distributed.types import ModuleSharder
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

_LARGEST_TABLES = 6  # that may lie in any memory; with three each, 729 combinations
_ROW_WISE, _DATA_PARALLEL = "row_wise", "data_parallel"
_ON_THE_DEVICE = ("fused", "dense")


class PlanningSharder(EmbeddingBagCollectionSharder):
    """The sharder as far as the planner asks it; on the CPU as well row-wise."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Return what TorchRec offers for the device, and row-wise sharding."""
        types: list[str] = super().sharding_types(compute_device_type)
        return types if _ROW_WISE in types else [*types, _ROW_WISE]


class OrderedEnumerator(EmbeddingEnumerator):
    """Options in an order that is the same each time."""

    def enumerate(self, module: nn.Module, sharders: list[ModuleSharder[nn.Module]]) -> list[ShardingOption]:
        """Return every way to place every table, by table, type and kernel."""
        options = super().enumerate(module, sharders)
        return sorted(options, key=lambda each: (int(each.name), each.sharding_type, each.compute_kernel))


class MemoryProposer(Proposer):
    """Every way to lay the largest tables into the device's and the host's memory, spread as evenly as they may be.

    TorchRec's proposers go by cost and by the device's memory, and may never come to what fits into both.
    """

    def __init__(self) -> None:
        self._proposals: Iterator[list[ShardingOption]] = iter(())
        self._current: list[ShardingOption] | None = None

    def load(self, search_space: list[ShardingOption], enumerator: Enumerator | None = None) -> None:
        """Begin with the first combination."""
        thinnest: dict[str, dict[str, ShardingOption]] = {}
        for option in sorted(search_space, key=lambda each: (sum(largest_shard(each)), each.total_perf)):
            thinnest.setdefault(option.name, {}).setdefault(option.compute_kernel, option)
        by_size = sorted(thinnest.values(), key=lambda each: -next(iter(each.values())).tensor.nbytes)
        # Of the rest, the first option: they are small beside what the largest leave over.
        few = [list(each.values()) for each in by_size[:_LARGEST_TABLES]]
        rest = [[min(each.values(), key=lambda option: option.total_perf)] for each in by_size[_LARGEST_TABLES:]]
        self._proposals = map(list, product(*few, *rest))
        self._current = next(self._proposals, None)

    def propose(self) -> list[ShardingOption] | None:
        """Return the combination whose turn it is; None after the last."""
        return self._current

    def feedback(
        self,
        partitionable: bool,
        plan: list[ShardingOption] | None = None,
        perf_rating: float | None = None,
        storage_constraint: Topology | None = None,
    ) -> None:
        """Go on to the next combination, whatever became of the last one."""
        self._current = next(self._proposals, None)


class FullStorageEstimator(EmbeddingStorageEstimator):
    """Accumulators in float32 whatever the weights are in, and the gradient of replicated tables."""

    def estimate(self, sharding_options: list[ShardingOption], sharder_data_map: SharderDataMap) -> None:
        """Write into every shard what it takes."""
        super().estimate(sharding_options, sharder_data_map)
        for option in sharding_options:
            half = option.tensor.dtype == torch.float16 and option.tensor._optimizer_classes[0] is not torch.optim.SGD
            row_wise = half and option.tensor._optimizer_classes[0] is RowWiseAdagrad
            for shard in option.shards:
                numbers = shard.size[0] * (1 if row_wise else shard.size[1])
                more = 2 * numbers if half else 0
                if option.sharding_type == _DATA_PARALLEL:
                    more += 4 * shard.size[0] * shard.size[1]
                self._add(shard, more, option.compute_kernel)

    def _add(self, shard: Shard, more: int, kernel: str) -> None:
        # TorchRec itself counts the cached rows' accumulators by the share of them; the little that is added is not.
        if self._topology.compute_device == "cuda" and kernel in _ON_THE_DEVICE:
            shard.storage.hbm += more
        else:
            shard.storage.ddr += more


def largest_shard(option: ShardingOption) -> tuple[int, int]:
    """Return the most that one process holds of a table placed so: device bytes and host bytes."""
    return max(shard.storage.hbm for shard in option.shards), max(shard.storage.ddr for shard in option.shards)
