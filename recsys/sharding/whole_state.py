"""Whole tables and accumulators, copied out of the processes' shards and written back into them.

The names are those of the plain, unwrapped module (`inventory.py`), so what is read here from a sharded ranker loads
into a plain one, and the other way round. Every function takes a module, wrapped or not, or an inventory that was taken
of it already. Whole tables need a host that holds them: checkpoints do without (`divided_state.py`), and what is served
is put together in the first process alone.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.errors import DataError
from recsys.sharding.divided_state import (
    DividedState,
    DividedTensor,
    Piece,
    dense_tensors,
    divided_state,
    divided_tables,
)
from recsys.sharding.inventory import Inventory, TableShard, inventory_of
from recsys.sharding.processes import gathered

# Integers to sum a number of so many bytes as; of two bytes neither gloo nor NCCL has any.
_BIT_VIEWS = {1: torch.int8, 2: torch.int8, 4: torch.int32, 8: torch.int64}


def whole(state: DividedState) -> dict[str, Tensor]:
    """Return a copy of every tensor, of its own shape, on the CPU.

    With several processes every one must call it, and every one receives the whole tensors.
    """
    return {name: _joined(each) for name, each in state.items()}


def whole_in_first(state: DividedState) -> dict[str, Tensor]:
    """Return a copy of every tensor, of its own shape, on the CPU in the first process, and {} in the others.

    Every process calls it. The others send one piece at a time, so that they need no room for a whole table.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    held = gathered({name: [(p.offsets, tuple(p.tensor.shape)) for p in each.pieces] for name, each in state.items()})
    found: dict[str, Tensor] = {}
    for name, each in state.items():
        if rank == 0:
            found[name] = _filled(each)
        for sender in range(1, len(held) if each.is_sharded else 1):
            if rank == sender:
                for piece in each.pieces:
                    dist.send(piece.tensor.detach().cpu().contiguous(), dst=0)
            elif rank == 0:
                for offsets, shape in held[sender][name]:
                    received = torch.empty(shape, dtype=each.dtype)
                    dist.recv(received, src=sender)
                    _put(Piece(offsets, received), found[name])
    return found


def table_weights(module: nn.Module | Inventory) -> dict[str, Tensor]:
    """Return a copy of every table, (rows, columns) each, on the CPU.

    With several processes every one must call it, and every one receives the whole tables.
    """
    inventory = inventory_of(module)
    return whole(divided_tables(inventory, inventory.shards()))


def load_table_weights(module: nn.Module | Inventory, weights: Mapping[str, Tensor]) -> None:
    """Write whole tables, (rows, columns) each, into this process's shards; `weights` may hold more than is needed.

    Raises:
        DataError: a table is missing from `weights` or has another shape.
    """
    inventory, shapes = inventory_of(module), _shapes(weights)
    for name, table in inventory.tables.items():
        _require_shape(shapes, name, table.shape)
    with inventory.writing() as shards:
        for shard in shards:
            shard.weight.copy_(_own_part(weights[shard.table], shard))


def whole_state(module: nn.Module | Inventory) -> dict[str, Tensor]:
    """Return a copy of the module's state on the CPU, with the names and shapes of the plain module's `state_dict()`:
    a table is whole, (rows, D), however it is sharded.

    Every process calls it and receives all.
    """
    return whole(divided_state(module))


def require_fitting(inventory: Inventory, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Let pass a saved state of the very entries, shaped as they are, that the inventory's module has.

    Args:
        shapes: of the saved state's whole tensors.

    Raises:
        DataError: an entry is missing, has another shape, or belongs to nothing here.
    """
    dense = {name: tuple(tensor.shape) for name, tensor in dense_tensors(inventory).items()}
    own = dense | {name: table.shape for name, table in inventory.tables.items()}
    unknown = sorted(set(shapes) - set(own))
    if unknown:
        raise DataError(
            f"The saved state holds `{unknown[0]}` ({len(unknown)} such), which this model has not. It belongs to a "
            "model of another configuration: build the model that the state was saved from."
        )
    for name, shape in own.items():
        _require_shape(shapes, name, shape)


def require_shapes(own: DividedState, saved: Mapping[str, tuple[int, ...]]) -> None:
    """Let pass a saved state that has all of our tensors, shaped as they are, and may have more.

    Raises:
        DataError: one is missing or has another shape.
    """
    for name, each in own.items():
        _require_shape(saved, name, each.shape)


def _joined(divided: DividedTensor) -> Tensor:
    joined = _filled(divided)
    if divided.is_sharded and dist.is_initialized() and dist.get_world_size() > 1:
        # Summed as integers: where one process has the bits and all others have zeros, the sum is those very bits,
        # a negative zero's too.
        dist.all_reduce(joined.view(_BIT_VIEWS[joined.element_size()]))
    return joined


def _filled(divided: DividedTensor) -> Tensor:
    """The whole, with zeros where this process holds nothing."""
    filled = torch.zeros(divided.shape, dtype=divided.dtype)
    for piece in divided.pieces:
        _put(piece, filled)
    return filled


def _put(piece: Piece, into: Tensor) -> None:
    bounds = zip(piece.offsets, piece.tensor.shape, strict=True)
    into[tuple(slice(start, start + length) for start, length in bounds)] = piece.tensor.detach()


def _own_part(whole_tensor: Tensor, shard: TableShard) -> Tensor:
    """The shard's view of a whole table, (rows, columns), or of its accumulator, which may be (rows,)."""
    return whole_tensor[shard.rows] if whole_tensor.dim() == 1 else whole_tensor[shard.rows, shard.columns]


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _require_shape(saved: Mapping[str, tuple[int, ...]], name: str, shape: tuple[int, ...]) -> None:
    if name not in saved:
        raise DataError(
            f"The saved state has no `{name}`, which this model needs. It belongs to a model of another configuration: "
            "build the model that the state was saved from."
        )
    if saved[name] != shape:
        raise DataError(
            f"`{name}` has shape {saved[name]} in the saved state and {shape} in this model: the "
            "vocabulary or a width differs. Build the model that the state was saved from."
        )
