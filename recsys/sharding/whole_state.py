"""Whole tables and accumulators, copied out of the processes' shards and written back into them.

The names are those of the plain, unwrapped module (`inventory.py`), so what is read here from a sharded ranker loads
into a plain one, and the other way round. Every function takes a module, wrapped or not, or an inventory that was taken
of it already.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.errors import DataError
from recsys.sharding.inventory import Inventory, TableEntry, TableShard, inventory_of

# Integers to sum a number of so many bytes as; of two bytes neither gloo nor NCCL has any.
_BIT_VIEWS = {1: torch.int8, 2: torch.int8, 4: torch.int32, 8: torch.int64}


def table_weights(module: nn.Module | Inventory) -> dict[str, Tensor]:
    """Return a copy of every table, (rows, columns) each, on the CPU.

    With several processes every one must call it, and every one receives the whole tables.
    """
    inventory = inventory_of(module)
    return whole_tables(inventory, inventory.shards())


def whole_tables(inventory: Inventory, shards: Sequence[TableShard]) -> dict[str, Tensor]:
    """Put every table together, (rows, columns) each, on the CPU, out of the shards that the processes pass."""
    whole = {name: torch.zeros(entry.shape, dtype=entry.dtype) for name, entry in inventory.tables.items()}
    for shard in shards:
        own_part(whole[shard.table], shard).copy_(shard.weight)
    for name, entry in inventory.tables.items():
        _join(whole[name], entry)
    return whole


def load_table_weights(module: nn.Module | Inventory, weights: Mapping[str, Tensor]) -> None:
    """Write whole tables, (rows, columns) each, into this process's shards; `weights` may hold more than is needed.

    Raises:
        DataError: a table is missing from `weights` or has another shape.
    """
    inventory = inventory_of(module)
    for name, table in inventory.tables.items():
        _require_shape(weights, name, table.shape)
    with inventory.writing() as shards:
        for shard in shards:
            shard.weight.copy_(own_part(weights[shard.table], shard))


def table_optimizer_state(module: nn.Module | Inventory) -> dict[str, Tensor]:
    """Return a whole copy of the fused optimizers' accumulators, on the CPU: `<table>.sum`.

    (rows,) under row-wise Adagrad, the table's shape under Adagrad, absent under SGD. As with `table_weights`, every
    process calls it and receives all.
    """
    inventory = inventory_of(module)
    with_state = {f"{name}.sum": entry for name, entry in inventory.tables.items() if _state_shape(entry) is not None}
    whole = {name: torch.zeros(_state_shape(entry) or (), dtype=torch.float32) for name, entry in with_state.items()}
    for shard in inventory.shards():
        if shard.state is not None:
            own_part(whole[f"{shard.table}.sum"], shard).copy_(shard.state)
    for name, entry in with_state.items():
        _join(whole[name], entry)
    return whole


def load_table_optimizer_state(module: nn.Module | Inventory, state: Mapping[str, Tensor]) -> None:
    """Write what `table_optimizer_state` returned, shaped as it says, back into the kernels.

    Raises:
        DataError: a table's accumulator is missing or has another shape, as after a change of the optimizer.
    """
    inventory = inventory_of(module)
    for name, table in inventory.tables.items():
        shape = _state_shape(table)
        if shape is not None:
            _require_shape(state, f"{name}.sum", shape)
    with inventory.writing() as shards:
        for shard in shards:
            if shard.state is not None:
                shard.state.copy_(own_part(state[f"{shard.table}.sum"], shard))


def whole_state(module: nn.Module | Inventory) -> dict[str, Tensor]:
    """Return a copy of the module's state on the CPU, with the names and shapes of the plain module's `state_dict()`:
    a table is whole, (rows, D), however it is sharded.

    Every process calls it and receives all.
    """
    inventory = inventory_of(module)
    dense = _dense(inventory)
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in dense.items()} | table_weights(inventory)


def load_whole_state(module: nn.Module | Inventory, state: Mapping[str, Tensor]) -> None:
    """Write what `whole_state`, or a plain module's `state_dict()`, returned into `module`, whole tables as (rows, D).

    Raises:
        DataError: an entry is missing, has another shape, or belongs to nothing here.
    """
    inventory = inventory_of(module)
    require_fitting(inventory, state)
    load_table_weights(inventory, state)
    with torch.no_grad():
        for name, tensor in _dense(inventory).items():
            tensor.copy_(state[name])


def require_fitting(inventory: Inventory, state: Mapping[str, Tensor]) -> None:
    """Let pass a whole state of the very entries, shaped as they are, that the inventory's module has.

    Raises:
        DataError: an entry is missing, has another shape, or belongs to nothing here.
    """
    dense = _dense(inventory)
    unknown = sorted(set(state) - set(dense) - set(inventory.tables))
    if unknown:
        raise DataError(
            f"The saved state holds `{unknown[0]}` ({len(unknown)} such), which this model has not. It belongs to a "
            "model of another configuration: build the model that the state was saved from."
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in dense.items()}
    shapes |= {name: table.shape for name, table in inventory.tables.items()}
    for name, shape in shapes.items():
        _require_shape(state, name, shape)


def own_part(whole: Tensor, shard: TableShard) -> Tensor:
    """Return the shard's view of a whole table, (rows, columns), or of its accumulator, which may be (rows,)."""
    return whole[shard.rows] if whole.dim() == 1 else whole[shard.rows, shard.columns]


def _dense(inventory: Inventory) -> dict[str, Tensor]:
    return {**inventory.dense_parameters(), **inventory.dense_buffers(only_persistent=True)}


def _state_shape(table: TableEntry) -> tuple[int, ...] | None:
    if table.optimizer is None or table.optimizer == "exact_sgd":
        return None
    return table.shape[:1] if table.optimizer == "exact_row_wise_adagrad" else table.shape


def _join(whole: Tensor, entry: TableEntry) -> None:
    """Fill in, in place, what other processes hold of it."""
    if entry.is_sharded and dist.is_initialized() and dist.get_world_size() > 1:
        # Summed as integers: where one process has the bits and all others have zeros, the sum is those very bits,
        # a negative zero's too.
        dist.all_reduce(whole.view(_BIT_VIEWS[whole.element_size()]))


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
