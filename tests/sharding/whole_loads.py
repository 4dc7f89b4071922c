"""Whole states and accumulators taken out of a module and written into another one, however either is sharded."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recsys.sharding.divided_state import DividedState, dense_tensors, divided_accumulators
from recsys.sharding.inventory import Inventory, inventory_of
from recsys.sharding.whole_state import load_table_weights, require_fitting, require_shapes, whole


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def table_optimizer_state(module: nn.Module | Inventory) -> dict[str, Tensor]:
    """`<table>.sum` by table, whole and on the CPU; every process calls it and receives all."""
    return whole(divided_accumulators(module))


def load_table_optimizer_state(module: nn.Module | Inventory, state: Mapping[str, Tensor]) -> None:
    """Write what `table_optimizer_state` returned into the kernels."""
    inventory = inventory_of(module)
    require_shapes(divided_accumulators(inventory), shapes_of(state))
    with inventory.writing() as shards:
        for shard in shards:
            if shard.state is not None:
                accumulator = state[f"{shard.table}.sum"]
                shard.state.copy_(accumulator[(shard.rows, shard.columns)[: accumulator.dim()]])


def load_whole_state(module: nn.Module | Inventory, state: Mapping[str, Tensor]) -> None:
    """Write what `whole_state`, or a plain module's `state_dict()`, returned."""
    inventory = inventory_of(module)
    require_fitting(inventory, shapes_of(state))
    load_table_weights(inventory, state)
    with torch.no_grad():
        for name, tensor in dense_tensors(inventory).items():
            tensor.copy_(state[name])


def fill(parts: DividedState, state: Mapping[str, Tensor]) -> None:
    """Write whole tensors into the pieces of them that this process holds."""
    for name, part in parts.items():
        for piece in part.pieces:
            bounds = zip(piece.offsets, piece.tensor.shape, strict=True)
            piece.tensor.copy_(state[name][tuple(slice(start, start + length) for start, length in bounds)])
