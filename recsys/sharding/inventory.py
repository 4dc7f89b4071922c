"""The inventory of a ranker: its tables, the kernels that update them, and its dense parameters and buffers.

A fused table has no `.grad` and no optimizer that could be stepped: its kernel updates the rows inside the backward
pass. Whoever needs more than that finds the kernels here; `gate.py` holds back their updates, and `whole_state.py`
copies whole tables out of them and into them. A kernel may hold rows in a cache on the GPU, before the memory in which
its table lies: `shards()` and `writing()` alone see to it that a table is read and written as the steps see it.
`wrap_ranker` takes the inventory once, and the wrapped ranker carries it to optimizers, contract, proofs and norms.
This file alone reads names that TorchRec keeps private; `tests/sharding/test_inventory.py` holds them against a plain
collection.

A table's name is its parameter's name in the plain, unwrapped module, such as
`embedding_tower.ebc.embedding_bags.tower_item.weight`, so state read here loads into either.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor, nn
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_configs import data_type_to_dtype
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from recsys.errors import UsageError
from recsys.sharding.replicated import ReplicatedKernel, ReplicatedTables
from recsys.sharding.table_plan import TablePlan

_COLLECTIONS = (ShardedEmbeddingBagCollection, EmbeddingBagCollection)


@dataclass(frozen=True)
class TableShard:
    """The shard of one table that this process holds: `rows` and `columns` of the whole table.

    Attributes:
        weight: (rows, columns), a view into the kernel's memory: writing to it within `Inventory.writing` changes the
            table.
        state: the fused optimizer's accumulator, (rows,) or (rows, columns); None where it keeps none.
    """

    table: str
    rows: slice
    columns: slice
    weight: Tensor
    state: Tensor | None

    @property
    def name(self) -> str:
        """The table's name and where in it the shard begins: no two shards have the same."""
        return f"{self.table} ({self.rows.start}, {self.columns.start})"


@dataclass(frozen=True)
class TableEntry:
    """What every process knows about one table, whether or not it holds a shard of it.

    Attributes:
        shape: rows and columns of the whole table.
        optimizer: the update rule by fbgemm's word; None for a plain table that no kernel holds.
        is_sharded: whether the processes hold disjoint shards of it; otherwise each holds the whole.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    optimizer: str | None
    is_sharded: bool


@dataclass(frozen=True)
class FusedKernel:
    """One fused kernel of this process and the table shards in it, in the kernel's order.

    Attributes:
        offsets: of each shard, the row and the column of the whole table at which it begins.
    """

    module: SplitTableBatchedEmbeddingBagsCodegen
    tables: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]

    def set_learning_rate(self, rate: float) -> None:
        """Set the rate of the updates that backward passes from now on make."""
        self.module.set_learning_rate(rate)

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""
        return float(self.module.get_learning_rate())

    @property
    def optimizer(self) -> str:
        """The update rule by fbgemm's word."""
        return str(self.module.optimizer)

    def shards(self) -> Iterator[TableShard]:
        """Yield the kernel's shards, to be read at once."""
        self.module.flush()  # what a step wrote to a cached row is in the cache alone
        weights = self.module.split_embedding_weights()
        states = self.module.split_optimizer_states() or [[] for _ in weights]
        for table, (row, column), weight, state in zip(self.tables, self.offsets, weights, states, strict=True):
            rows, columns = slice(row, row + weight.shape[0]), slice(column, column + weight.shape[1])
            yield TableShard(table, rows, columns, weight, next(iter(state), None))


TableKernel = FusedKernel | ReplicatedKernel
"""Whatever updates tables in this process: the names of its `tables`, its `optimizer` and its `learning_rate`."""


@dataclass(frozen=True)
class Inventory:
    """The tables under a module, and what of the module is no table.

    Tables are found once. Dense parameters and buffers are read off the module each time: they may be replaced.

    Attributes:
        module: the unwrapped module; all names count from it.
        path: of the child whose inventory this is; "" for the module itself.
        collections: every collection of tables, by path.
        fused: the kernels of this process; it may hold none of a small module's tables.
        tables: all tables by name, the same in every process and in the same order.
    """

    module: nn.Module
    path: str
    collections: Mapping[str, nn.Module]
    fused: tuple[FusedKernel, ...]
    tables: Mapping[str, TableEntry]

    def under(self, path: str) -> "Inventory":
        """Return the inventory of one child, with the same names."""
        return replace(
            self,
            path=path,
            collections={name: child for name, child in self.collections.items() if f"{name}.".startswith(f"{path}.")},
            fused=tuple(kernel for kernel in self.fused if kernel.tables[0].startswith(f"{path}.")),
            tables={name: entry for name, entry in self.tables.items() if name.startswith(f"{path}.")},
        )

    def is_current(self) -> bool:
        """Whether the collections of tables are still those that were found."""
        return _collections(self.module.get_submodule(self.path), self.path) == self.collections

    def kernels(self) -> list[TableKernel]:
        """Return everything in this process that updates tables: fused kernels, then replicated tables."""
        return [*self.fused, *(ReplicatedKernel(child, tuple(names)) for child, names in self.replicated().items())]

    def replicated(self) -> dict[ReplicatedTables, dict[str, nn.Parameter]]:
        """Return the replicated collections, each with its tables by name."""
        return {
            child: {_name(path, config.name): child.weight(config.name) for config in child.embedding_bag_configs()}
            for path, child in self.collections.items()
            if isinstance(child, ReplicatedTables)
        }

    def shards(self) -> list[TableShard]:
        """Return the table shards that this process holds, as the steps so far left them; of a table that is not
        sharded, the whole.

        They are for reading, until the next step.
        """
        shards = [shard for kernel in self.fused for shard in kernel.shards()]
        for path, child in self.collections.items():
            if not isinstance(child, EmbeddingBagCollection):
                continue
            for config in child.embedding_bag_configs():
                weight = child.embedding_bags[config.name].weight.detach()
                rows, columns = slice(0, weight.shape[0]), slice(0, weight.shape[1])
                state = child.state(config.name) if isinstance(child, ReplicatedTables) else None
                shards.append(TableShard(_name(path, config.name), rows, columns, weight, state))
        return shards

    @contextmanager
    def writing(self) -> Iterator[list[TableShard]]:
        """Yield the table shards that this process holds to be written to, in whole or in part, between two steps."""
        try:
            yield self.shards()
        finally:
            for kernel in self.fused:
                kernel.module.reset_cache_states()  # its cache still holds the rows as they were

    def dense_parameters(self) -> dict[str, nn.Parameter]:
        """Return every parameter that is no table, by name; one that two modules share appears once."""
        outside = self._table_prefixes()
        named = self.module.get_submodule(self.path).named_parameters(prefix=self.path)
        return {name: parameter for name, parameter in named if not name.startswith(outside)}

    def dense_buffers(self, *, only_persistent: bool = False) -> dict[str, Tensor]:
        """Return every buffer that is of no table, of any shape, by name; `only_persistent` leaves out derived ones."""
        outside = self._table_prefixes()
        return {
            f"{path}.{name}" if path else name: buffer
            for path, child in self.module.get_submodule(self.path).named_modules(prefix=self.path)
            if not f"{path}.".startswith(outside)
            for name, buffer in child.named_buffers(recurse=False)
            if not (only_persistent and name in child._non_persistent_buffers_set)
        }

    def averaged_parameters(self) -> list[nn.Parameter]:
        """Return every parameter whose gradient the processes must average: dense ones and replicated tables."""
        replicated = [table for tables in self.replicated().values() for table in tables.values()]
        return [*self.dense_parameters().values(), *replicated]

    def stays_frozen(self, name: str) -> bool:
        """Whether a parameter or table is of a module that is frozen in every training mode, as its `stays_frozen`."""
        return lies_in_staying(self.module, name)

    def _table_prefixes(self) -> tuple[str, ...]:
        return tuple(f"{path}." if path else "" for path in self.collections)


class WrappedRanker(DistributedModelParallel):
    """A ranker in TorchRec's engine, with its inventory, and the plan of its tables where one was made; made by
    `wrap_ranker`.
    """

    inventory: Inventory
    table_plan: TablePlan | None


def lies_in_staying(module: nn.Module, path: str) -> bool:
    """Whether a module on the way down to `path` has `stays_frozen` set: what is in it is frozen in every mode."""
    for name in path.split("."):
        child = getattr(module, name, None)
        if not isinstance(child, nn.Module):
            return False
        if getattr(child, "stays_frozen", False):
            return True
        module = child
    return False


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module itself, without the wrapper that `wrap_ranker` put around it."""
    return module.module if isinstance(module, DistributedModelParallel) else module


def inventory_of(module: nn.Module | Inventory) -> Inventory:
    """Return the inventory that a wrapped ranker carries, or take that of any other module.

    Raises:
        UsageError: a kernel keeps its tables in a key-value store.
    """
    if isinstance(module, Inventory):
        return module
    return module.inventory if isinstance(module, WrappedRanker) else take_inventory(unwrapped(module))


def take_inventory(module: nn.Module) -> Inventory:
    """Find all tables under an unwrapped module.

    Raises:
        UsageError: a kernel keeps its tables in a key-value store.
    """
    collections = _collections(module)
    kernels: list[FusedKernel] = []
    tables: dict[str, TableEntry] = {}
    # Sharded collections first: the order of the tables is that of the all-reduces over them.
    for path, child in sorted(collections.items(), key=lambda each: isinstance(each[1], EmbeddingBagCollection)):
        if isinstance(child, ShardedEmbeddingBagCollection):
            kernels += _kernels(path, child)
            tables |= _sharded_tables(path, child)
        else:
            tables |= _plain_tables(path, child)
    return Inventory(module, "", collections, tuple(kernels), tables)


def _collections(module: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    return {path: child for path, child in module.named_modules(prefix=prefix) if isinstance(child, _COLLECTIONS)}


def _kernels(path: str, collection: ShardedEmbeddingBagCollection) -> Iterator[FusedKernel]:
    # TorchRec keeps its look-ups in a plain list, which `named_modules()` does not reach.
    for lookup in collection._lookups:
        for kernel in lookup._emb_modules:
            configs = kernel.config.embedding_tables
            _require_whole_tables(kernel.emb_module, [config.name for config in configs])
            names = tuple(_name(path, config.name) for config in configs)
            offsets = tuple(tuple(config.local_metadata.shard_offsets) for config in configs)
            yield FusedKernel(kernel.emb_module, names, offsets)


def _require_whole_tables(kernel: nn.Module, names: list[str]) -> None:
    # The rows of a key-value store can be neither read nor written as one tensor.
    if not isinstance(kernel, SplitTableBatchedEmbeddingBagsCodegen):
        raise UsageError(
            f"The tables {', '.join(names)} lie in a {type(kernel).__name__}, out of which they cannot be read whole. "
            'Give them compute_kernel="fused", "fused_uvm" or "fused_uvm_caching".'
        )


def _sharded_tables(path: str, collection: ShardedEmbeddingBagCollection) -> dict[str, TableEntry]:
    infos = [info for group in collection.sharding_type_to_sharding_infos.values() for info in group]
    # A kernel that was given no update rule has fbgemm's default all the same.
    rules = {
        info.embedding_config.name: (info.fused_params or {}).get("optimizer", EmbOptimType.EXACT_SGD).value
        for info in infos
    }
    return {
        _name(path, config.name): TableEntry(
            (config.num_embeddings, config.embedding_dim),
            data_type_to_dtype(config.data_type),
            rules[config.name],
            is_sharded=True,
        )
        for config in collection._embedding_bag_configs
    }


def _plain_tables(path: str, collection: EmbeddingBagCollection) -> dict[str, TableEntry]:
    rule = collection.rule if isinstance(collection, ReplicatedTables) else None
    weights = {
        config.name: collection.embedding_bags[config.name].weight for config in collection.embedding_bag_configs()
    }
    return {
        _name(path, table): TableEntry((weight.shape[0], weight.shape[1]), weight.dtype, rule, is_sharded=False)
        for table, weight in weights.items()
    }


def _name(path: str, table: str) -> str:
    return f"{path}.embedding_bags.{table}.weight" if path else f"embedding_bags.{table}.weight"
