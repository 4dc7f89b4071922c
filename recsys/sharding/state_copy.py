"""A copy of a module's state in memory that is allocated once: what a run keeps of its best weights.

Every process copies the shards that it holds, so that no step waits for an exchange or for fresh memory. On a GPU a
copy lies there as well while there is room, and beyond that in pinned memory of the host; either is queued behind the
steps before it, and the host goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from recsys.sharding.divided_state import DividedTensor, dense_tensors, divided_tables, undivided
from recsys.sharding.inventory import Inventory, TableShard, inventory_of
from recsys.sharding.whole_state import require_fitting

# Of the memory that is free at the first copy, when the steps before it have taken what steps need.
_SHARE_OF_FREE_MEMORY = 0.5


class StateCopy:
    """One copy of a module's dense parameters, persistent buffers and tables; there is none until `take` or `room`."""

    def __init__(self, module: nn.Module | Inventory) -> None:
        self._inventory = inventory_of(module)
        self._copies: dict[str, Tensor] = {}

    def take(self) -> None:
        """Copy the state as it is now over the copy before."""
        tensors = self._own()
        self._make_room(tensors)
        for name, tensor in tensors.items():
            self._copies[name].copy_(tensor.detach(), non_blocking=True)

    def parts(self) -> dict[str, DividedTensor]:
        """Return the copy as `divided_state` returns a state, {} where there is none; the next copy changes it."""
        if not self._copies:
            return {}
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # the host did not wait for what was copied to it
        dense = {name: self._copies[name] for name in dense_tensors(self._inventory)}
        held = [replace(shard, weight=self._copies[shard.name]) for shard in self._inventory.shards()]
        return undivided(dense) | divided_tables(self._inventory, held)

    def room(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, DividedTensor]:
        """Return `parts` of a copy that the caller fills, with what was saved of another; of {} the copy is none.

        Args:
            shapes: of the saved copy's whole tensors, by name.

        Raises:
            DataError: it belongs to another model.
        """
        if not shapes:
            self._copies = {}
            return {}
        require_fitting(self._inventory, shapes)
        self._make_room(self._own())
        return self.parts()

    def put_back(self) -> None:
        """Write the copy into the module, or leave all as it is where there is none."""
        if not self._copies:
            return
        with self._inventory.writing() as shards, torch.no_grad():
            for name, tensor in (_named(shards) | dense_tensors(self._inventory)).items():
                tensor.copy_(self._copies[name], non_blocking=True)

    def _own(self) -> dict[str, Tensor]:
        return _named(self._inventory.shards()) | dense_tensors(self._inventory)

    def _make_room(self, tensors: Mapping[str, Tensor]) -> None:
        """Allocate what there is no place for yet, on the devices where the tensors lie."""
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
