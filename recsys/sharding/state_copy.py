"""A copy of a module's state in memory that is allocated once: what a run keeps of its best weights.

Every process copies the shards that it holds, so that no step waits for an exchange or for fresh memory. On a GPU a
copy lies there as well while there is room, and beyond that in pinned memory of the host; either is queued behind the
steps before it, and the host goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.sharding.inventory import Inventory, TableShard, inventory_of
from recsys.sharding.whole_state import own_part, require_fitting, whole_tables

# Of the memory that is free at the first copy, when the steps before it have taken what steps need.
_SHARE_OF_FREE_MEMORY = 0.5


class StateCopy:
    """One copy of a module's dense parameters, persistent buffers and tables; there is none until `take` or `load`."""

    def __init__(self, module: nn.Module | Inventory) -> None:
        self._inventory = inventory_of(module)
        self._copies: dict[str, Tensor] = {}

    def take(self) -> None:
        """Copy the state as it is now over the copy before."""
        self._fill(self._inventory.shards(), self._dense())

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy a whole state instead, as `whole` returned it, tables as (rows, D); of {} the copy is none.

        Raises:
            DataError: it belongs to another model.
        """
        if not state:
            self._copies = {}
            return
        require_fitting(self._inventory, state)
        shards = self._inventory.shards()
        parts = [replace(shard, weight=own_part(state[shard.table], shard)) for shard in shards]
        # On the module's devices, so that the copy lies where `take` would have put it.
        self._make_room(_named(shards) | self._dense())
        self._fill(parts, {name: state[name] for name in self._dense()})

    def put_back(self) -> None:
        """Write the copy into the module, or leave all as it is where there is none."""
        if not self._copies:
            return
        with self._inventory.writing() as shards, torch.no_grad():
            for name, tensor in (_named(shards) | self._dense()).items():
                tensor.copy_(self._copies[name], non_blocking=True)

    def whole(self) -> dict[str, Tensor]:
        """Return the copy on the CPU as `whole_state` returns a state, tables as (rows, D); {} where there is none.

        Every process calls it. What lies on the CPU as a whole is returned as it lies, and the next copy changes it.
        """
        if not self._copies:
            return {}
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # the host did not wait for what was copied to it
        dense = {name: self._copies[name].cpu() for name in self._dense()}
        held = [replace(shard, weight=self._copies[shard.name]) for shard in self._inventory.shards()]
        if dist.is_initialized() and dist.get_world_size() > 1:
            return dense | whole_tables(self._inventory, held)
        return dense | {shard.table: shard.weight.cpu() for shard in held}  # one process holds whole tables

    def _dense(self) -> dict[str, Tensor]:
        return {**self._inventory.dense_parameters(), **self._inventory.dense_buffers(only_persistent=True)}

    def _fill(self, shards: Sequence[TableShard], dense: Mapping[str, Tensor]) -> None:
        tensors = {**_named(shards), **dense}
        self._make_room(tensors)
        for name, tensor in tensors.items():
            self._copies[name].copy_(tensor.detach(), non_blocking=True)

    def _make_room(self, tensors: Mapping[str, Tensor]) -> None:
        """Allocate what there is no place for yet."""
        missing = {name: tensor for name, tensor in tensors.items() if name not in self._copies}
        room: dict[torch.device, float] = {}  # bytes
        for name, tensor in missing.items():
            device = tensor.device
            if device.type == "cuda":
                if device not in room:
                    room[device] = torch.cuda.mem_get_info(device)[0] * _SHARE_OF_FREE_MEMORY
                room[device] -= tensor.nbytes
                if room[device] < 0:
                    room[device] += tensor.nbytes
                    self._copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                    continue
            self._copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)


def _named(shards: Sequence[TableShard]) -> dict[str, Tensor]:
    return {shard.name: shard.weight for shard in shards}
