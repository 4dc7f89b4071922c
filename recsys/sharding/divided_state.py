"""A state as the processes hold it: of every tensor the rectangles that lie in this process, and where they belong.

No table is put together. A checkpoint writes what each process holds and reads what each is to hold; `whole_state.py`
puts whole tables together for those who need them. The names are those of the plain, unwrapped module.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recsys.sharding.inventory import Inventory, TableEntry, TableShard, inventory_of


@dataclass(frozen=True)
class Piece:
    """A rectangle of a tensor, of any shape, and where in the whole it begins."""

    offsets: tuple[int, ...]
    tensor: Tensor


@dataclass(frozen=True)
class DividedTensor:
    """What this process holds of one tensor: views, which change with the steps and may be written to.

    Attributes:
        shape: of the whole.
        is_sharded: whether the processes hold disjoint pieces of it; otherwise each holds the whole.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: tuple[Piece, ...]
    is_sharded: bool = False


DividedState = Mapping[str, DividedTensor]
"""By name; the names are the same in every process, also of a table of which it holds nothing."""


def undivided(tensors: Mapping[str, Tensor]) -> dict[str, DividedTensor]:
    """Return tensors of any shape of which every process, or this one alone, has the whole."""
    return {
        name: DividedTensor(tuple(tensor.shape), tensor.dtype, (Piece((0,) * tensor.dim(), tensor.detach()),))
        for name, tensor in tensors.items()
    }


def divided_state(module: nn.Module | Inventory) -> dict[str, DividedTensor]:
    """Return a module's parameters, persistent buffers and tables, by the names of the plain module's `state_dict()`.

    Those of tables are for reading, until the next step; within `Inventory.writing` they may be written to as well.
    """
    inventory = inventory_of(module)
    return undivided(dense_tensors(inventory)) | divided_tables(inventory, inventory.shards())


def divided_tables(
    inventory: Inventory, shards: Sequence[TableShard], dtype: torch.dtype | None = None
) -> dict[str, DividedTensor]:
    """Return the inventory's tables, (rows, columns) each, of which this process holds `shards`.

    Args:
        dtype: of the shards, where it is another than the tables' own.
    """
    return {
        name: DividedTensor(
            entry.shape,
            dtype or entry.dtype,
            tuple(
                Piece((shard.rows.start, shard.columns.start), shard.weight)
                for shard in shards
                if shard.table == name and shard.weight.numel()
            ),
            entry.is_sharded,
        )
        for name, entry in inventory.tables.items()
    }


def divided_accumulators(module: nn.Module | Inventory) -> dict[str, DividedTensor]:
    """Return the table optimizers' accumulators: `<table>.sum`.

    (rows,) under row-wise Adagrad, the table's shape under Adagrad, absent under SGD.
    """
    inventory = inventory_of(module)
    held: dict[str, list[Piece]] = {}
    for shard in inventory.shards():
        if shard.state is not None and shard.state.numel():
            offsets = (shard.rows.start, shard.columns.start)[: shard.state.dim()]
            held.setdefault(shard.table, []).append(Piece(offsets, shard.state))
    return {
        f"{name}.sum": DividedTensor(shape, torch.float32, tuple(held.get(name, ())), entry.is_sharded)
        for name, entry in inventory.tables.items()
        if (shape := _accumulator_shape(entry)) is not None
    }


def dense_tensors(inventory: Inventory) -> dict[str, Tensor]:
    """Return the parameters and persistent buffers, of any shape, that are no tables, by name."""
    return {**inventory.dense_parameters(), **inventory.dense_buffers(only_persistent=True)}


def _accumulator_shape(table: TableEntry) -> tuple[int, ...] | None:
    if table.optimizer is None or table.optimizer == "exact_sgd":
        return None
    return table.shape[:1] if table.optimizer == "exact_row_wise_adagrad" else table.shape
