"""The one adapter to TorchRec's sharded tables: their weights, their optimizers, and what of a module is no table.

A fused table has no `.grad` and no optimizer that could be stepped: its kernel updates the rows inside the backward
pass. Everything that needs more than that goes through this file (weights, digests, checkpoints) and `gate.py` (norms,
clipped or withheld updates); replicated tables (`replicated.py`) go the same two ways. This file alone reads names that
TorchRec keeps private; `tests/sharding/test_fused.py` holds them against a plain collection.

A table's name is its parameter's name in the plain, unwrapped module, such as
`embedding_tower.ebc.embedding_bags.tower_item.weight`, so state read here loads into either.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor, nn
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from recsys.errors import DataError
from recsys.sharding.cached_rows import refuse_cached_rows
from recsys.sharding.replicated import ReplicatedKernel, ReplicatedTables

_BIT_VIEWS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class TableShard:
    """One table's piece in one kernel of this process: `rows` and `columns` of the whole table.

    Attributes:
        weight: the piece itself, a view into the kernel's memory.
        state: the fused optimizer's accumulator, one number per row or one per element; None where it keeps none.
    """

    table: str
    rows: slice
    columns: slice
    weight: Tensor
    state: Tensor | None


class TableKernel(Protocol):
    """Whatever steps tables in this process: a fused kernel, or the optimizer of replicated tables."""

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of the tables that it steps, whole or pieces of them."""

    @property
    def optimizer(self) -> str:
        """Its update rule by fbgemm's word."""

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""

    def set_learning_rate(self, rate: float) -> None:
        """Set the rate of the updates from now on."""


@dataclass(frozen=True)
class FusedKernel:
    """One fused kernel of this process and the table pieces it holds, in the kernel's order."""

    module: SplitTableBatchedEmbeddingBagsCodegen
    tables: tuple[str, ...]

    def set_learning_rate(self, rate: float) -> None:
        """Set the rate of the updates that backward passes from now on make."""
        self.module.set_learning_rate(rate)

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""
        return float(self.module.get_learning_rate())

    @property
    def optimizer(self) -> str:
        """The kernel's update rule by fbgemm's own word, such as "exact_row_wise_adagrad"."""
        return str(self.module.optimizer)


@dataclass(frozen=True)
class Table:
    """What every process knows about one table, whether or not it holds a piece of it.

    Attributes:
        optimizer: the update rule by fbgemm's word; None for a plain table that no kernel holds.
        is_sharded: whether the processes hold disjoint pieces of it; otherwise each holds the whole.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    optimizer: str | None
    is_sharded: bool


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module itself, without the wrapper that `wrap_ranker` put around it."""
    return module.module if isinstance(module, DistributedModelParallel) else module


def fused_kernels(module: nn.Module) -> list[FusedKernel]:
    """Return this process's kernels under `module`; a process may hold none of a small module's tables."""
    return [
        FusedKernel(kernel, tuple(_name(path, config.name) for config in configs))
        for path, collection in _sharded(unwrapped(module))
        for kernel, configs in _kernels(collection)
    ]


def table_kernels(module: nn.Module) -> list[TableKernel]:
    """Return everything in this process that steps tables under `module`: fused kernels, then replicated tables."""
    replicated = [ReplicatedKernel(tables, tuple(names)) for tables, names in replicated_tables(module).items()]
    return [*fused_kernels(module), *replicated]


def replicated_tables(module: nn.Module) -> dict[ReplicatedTables, dict[str, nn.Parameter]]:
    """Return the replicated collections under `module`, each with its tables by name."""
    return {
        child: {_name(path, config.name): child.weight(config.name) for config in child.embedding_bag_configs()}
        for path, child in _plain(unwrapped(module))
        if isinstance(child, ReplicatedTables)
    }


def averaged_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return every parameter whose gradient the processes must average: the dense ones and the replicated tables."""
    replicated = [table for tables in replicated_tables(module).values() for table in tables.values()]
    return [*dense_parameters(module).values(), *replicated]


def tables(module: nn.Module) -> dict[str, Table]:
    """Return all tables under `module` by name, the same in every process and in the same order."""
    found = {}
    for path, collection in _sharded(unwrapped(module)):
        infos = [info for group in collection.sharding_type_to_sharding_infos.values() for info in group]
        # A kernel that was given no update rule has fbgemm's default all the same.
        rules = {
            info.embedding_config.name: (info.fused_params or {}).get("optimizer", EmbOptimType.EXACT_SGD).value
            for info in infos
        }
        for config in collection._embedding_bag_configs:
            shape = config.num_embeddings, config.embedding_dim
            found[_name(path, config.name)] = Table(shape, torch.float32, rules[config.name], is_sharded=True)
    for path, plain in _plain(unwrapped(module)):
        for config in plain.embedding_bag_configs():
            weight = plain.embedding_bags[config.name].weight
            rule = plain.rule if isinstance(plain, ReplicatedTables) else None
            shape = weight.shape[0], weight.shape[1]
            found[_name(path, config.name)] = Table(shape, weight.dtype, rule, is_sharded=False)
    return found


def table_shards(module: nn.Module) -> list[TableShard]:
    """Return the table pieces that this process holds under `module`, as views: writing to them moves the tables."""
    shards = []
    for path, collection in _sharded(unwrapped(module)):
        for kernel, configs in _kernels(collection):
            states = kernel.split_optimizer_states() or [[] for _ in configs]
            for config, weight, state in zip(configs, kernel.split_embedding_weights(), states, strict=True):
                row, column = config.local_metadata.shard_offsets
                rows = slice(row, row + weight.shape[0])
                columns = slice(column, column + weight.shape[1])
                shards.append(TableShard(_name(path, config.name), rows, columns, weight, next(iter(state), None)))
    for path, plain in _plain(unwrapped(module)):
        for config in plain.embedding_bag_configs():
            weight = plain.embedding_bags[config.name].weight.detach()
            everything = slice(0, weight.shape[0]), slice(0, weight.shape[1])
            state = plain.state(config.name) if isinstance(plain, ReplicatedTables) else None
            shards.append(TableShard(_name(path, config.name), *everything, weight, state))
    return shards


def table_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return a whole copy of every table under `module`, on the CPU, wrapped or not.

    With several processes every one must call it, and every one receives the whole tables.
    """
    shards = table_shards(module)
    whole = {}
    for name, table in tables(module).items():
        pieces = [(shard.rows, shard.columns, shard.weight) for shard in shards if shard.table == name]
        whole[name] = _joined(table.shape, table.dtype, pieces, is_sharded=table.is_sharded)
    return whole


def load_table_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Write whole tables into the pieces under `module`; `weights` may hold more than is needed.

    Raises:
        DataError: a table is missing from `weights` or has another shape.
    """
    for name, table in tables(module).items():
        _require_shape(weights, name, table.shape)
    for shard in table_shards(module):
        shard.weight.copy_(weights[shard.table][shard.rows, shard.columns])


def table_optimizer_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a whole copy of the fused optimizers' accumulators, on the CPU: `<table>.sum`.

    (rows,) under row-wise Adagrad, the table's shape under Adagrad, absent under SGD. As with `table_weights`, every
    process calls it and receives all.
    """
    shards = table_shards(module)
    whole = {}
    for name, table in tables(module).items():
        shape = _state_shape(table)
        if shape is not None:
            pieces = [
                (shard.rows, shard.columns, shard.state)
                for shard in shards
                if shard.table == name and shard.state is not None
            ]
            whole[f"{name}.sum"] = _joined(shape, torch.float32, pieces, is_sharded=table.is_sharded)
    return whole


def load_table_optimizer_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Write what `table_optimizer_state` returned back into the kernels.

    Raises:
        DataError: a table's accumulator is missing or has another shape, as after a change of the optimizer.
    """
    for name, table in tables(module).items():
        shape = _state_shape(table)
        if shape is not None:
            _require_shape(state, f"{name}.sum", shape)
    for shard in table_shards(module):
        if shard.state is not None:
            whole = state[f"{shard.table}.sum"]
            shard.state.copy_(whole[shard.rows] if shard.state.dim() == 1 else whole[shard.rows, shard.columns])


def dense_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return every parameter under `module` that is no table, by name; one shared by two modules appears once."""
    collections = _collection_prefixes(unwrapped(module))
    return {
        name: parameter for name, parameter in unwrapped(module).named_parameters() if not name.startswith(collections)
    }


def dense_buffers(module: nn.Module, *, only_persistent: bool = False) -> dict[str, Tensor]:
    """Return every buffer under `module` outside its tables, by name; `only_persistent` leaves out derived ones."""
    collections = _collection_prefixes(unwrapped(module))
    return {
        f"{path}.{name}" if path else name: buffer
        for path, child in unwrapped(module).named_modules()
        if not f"{path}.".startswith(collections)
        for name, buffer in child.named_buffers(recurse=False)
        if not (only_persistent and name in child._non_persistent_buffers_set)
    }


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the module's state on the CPU, with the names of the plain module's `state_dict()`.

    Every process calls it and receives all.
    """
    dense = {**dense_parameters(module), **dense_buffers(module, only_persistent=True)}
    return {name: tensor.detach().cpu().clone() for name, tensor in dense.items()} | table_weights(module)


def load_whole_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Write what `whole_state`, or a plain module's `state_dict()`, returned into `module`, wrapped or not.

    Raises:
        DataError: an entry is missing, has another shape, or belongs to nothing here.
    """
    dense = {**dense_parameters(module), **dense_buffers(module, only_persistent=True)}
    unknown = sorted(set(state) - set(dense) - set(tables(module)))
    if unknown:
        raise DataError(
            f"The saved state holds `{unknown[0]}` ({len(unknown)} such), which this model has not. It belongs to a "
            "model of another configuration: build the model that the state was saved from."
        )
    for name, tensor in dense.items():
        _require_shape(state, name, tuple(tensor.shape))
    load_table_weights(module, state)
    with torch.no_grad():
        for name, tensor in dense.items():
            tensor.copy_(state[name])


def _name(path: str, table: str) -> str:
    return f"{path}.embedding_bags.{table}.weight" if path else f"embedding_bags.{table}.weight"


def _sharded(module: nn.Module) -> Iterator[tuple[str, ShardedEmbeddingBagCollection]]:
    for path, child in module.named_modules():
        if isinstance(child, ShardedEmbeddingBagCollection):
            yield path, child


def _plain(module: nn.Module) -> Iterator[tuple[str, EmbeddingBagCollection]]:
    for path, child in module.named_modules():
        if isinstance(child, EmbeddingBagCollection):
            yield path, child


def _collection_prefixes(module: nn.Module) -> tuple[str, ...]:
    return tuple(f"{path}." if path else "" for path, _ in (*_sharded(module), *_plain(module)))


def _kernels(collection: ShardedEmbeddingBagCollection) -> Iterator[tuple[SplitTableBatchedEmbeddingBagsCodegen, list]]:
    """Yield each kernel with the configs of its tables; TorchRec keeps them out of `named_modules()`."""
    for lookup in collection._lookups:
        for kernel in lookup._emb_modules:
            refuse_cached_rows(kernel.emb_module, [config.name for config in kernel.config.embedding_tables])
            yield kernel.emb_module, kernel.config.embedding_tables


def _state_shape(table: Table) -> tuple[int, ...] | None:
    if table.optimizer is None or table.optimizer == "exact_sgd":
        return None
    return table.shape[:1] if table.optimizer == "exact_row_wise_adagrad" else table.shape


def _joined(
    shape: tuple[int, ...], dtype: torch.dtype, pieces: list[tuple[slice, slice, Tensor]], *, is_sharded: bool
) -> Tensor:
    """Return the whole of which the processes hold disjoint pieces."""
    whole = torch.zeros(shape, dtype=dtype)
    for rows, columns, piece in pieces:
        (whole[rows] if piece.dim() == 1 else whole[rows, columns]).copy_(piece)
    if is_sharded and dist.is_initialized() and dist.get_world_size() > 1:
        # Summed as integers: where one process has the bits and all others have zeros, the sum is those very bits,
        # a negative zero's too.
        dist.all_reduce(whole.view(_BIT_VIEWS[whole.element_size()]))
    return whole


def _require_shape(state: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> None:
    if name not in state:
        raise DataError(
            f"The saved state has no `{name}`, which this model needs. It belongs to a model of another configuration: "
            "build the model that the state was saved from."
        )
    if tuple(state[name].shape) != shape:
        raise DataError(
            f"`{name}` has shape {tuple(state[name].shape)} in the saved state and {shape} in this model: the "
            "vocabulary or a width differs. Build the model that the state was saved from."
        )
