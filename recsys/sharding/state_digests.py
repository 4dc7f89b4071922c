"""Digests of tensors by their bits, computed where they lie: a large table is neither copied nor moved to be hashed.

A digest is two sums modulo 2^64 over all numbers of a tensor: each number's bits, as an integer of at most 32, times an
odd multiplier of its row and one of its column (multilinear hashing, as in Lemire and Kaser, "Strongly Universal String
Hashing is Fast", 2014). Sums of integers are the same on every device and in any order, and those of a table's shards
add up to the whole table's, so that no process needs more than it holds. One changed number is always found; several
cancel each other by chance about once in 2^60. Against a forger it is no protection.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recsys.files import fingerprint_of
from recsys.sharding.inventory import Inventory, inventory_of
from recsys.sharding.processes import gathered
from recsys.splitmix import mixed, shifted

_FIRST_COLUMN = 1 << 62  # columns are numbered from here and rows from 0, so that no two have the same multiplier
# Numbers that are taken at a time: what a core's cache holds, and what keeps a GPU busy within 64 MB of its memory.
_CPU_BLOCK, _GPU_BLOCK = 1 << 16, 1 << 21
# Of integers wider than 32 bits the highest ones would meet too few bits of a multiplier.
_BIT_VIEWS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}


def digests_of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return by name a digest of each tensor, of any shape and on any device."""
    sums = _read({name: tensor_sums(tensor) for name, tensor in tensors.items()})
    return {name: _digest(_about(tensor.dtype, tensor.shape), sums[name]) for name, tensor in tensors.items()}


def whole_digests(module: nn.Module | Inventory, *, with_accumulators: bool = False) -> dict[str, str]:
    """Return the digests of all that `whole_state` returns, by the same names, without putting a table together.

    They are what `digests_of` gives for the whole tensors, whatever the number of processes and the sharding. Every
    process calls it.

    Args:
        with_accumulators: those of `table_optimizer_state` too.
    """
    inventory = inventory_of(module)
    dense = {**inventory.dense_parameters(), **inventory.dense_buffers(only_persistent=True)}
    sums = {name: tensor_sums(tensor) for name, tensor in dense.items()}
    about = {name: _about(tensor.dtype, tensor.shape) for name, tensor in dense.items()}
    divided = set()
    for shard in inventory.shards():
        table = inventory.tables[shard.table]
        state = shard.state if with_accumulators else None
        for name, tensor in ((shard.table, shard.weight), (f"{shard.table}.sum", state)):
            if tensor is None:
                continue
            own = tensor_sums(tensor, shard.rows.start, shard.columns.start)
            sums[name] = sums[name] + own if name in sums else own
            about[name] = _about(tensor.dtype, table.shape[: tensor.dim()])
            if table.is_sharded:
                divided.add(name)
    mine = {name: (about[name], numbers) for name, numbers in _read(sums).items()}
    whole = {name: each for name, each in mine.items() if name not in divided}
    for shards in gathered({name: each for name, each in mine.items() if name in divided}):
        for name, (text, numbers) in shards.items():
            before = whole.get(name, (text, [0, 0]))[1]
            whole[name] = text, [one + other for one, other in zip(before, numbers, strict=True)]
    return {name: _digest(*each) for name, each in whole.items()}


def tensor_sums(tensor: Tensor, first_row: int = 0, first_column: int = 0, block: int | None = None) -> Tensor:
    """Return the two sums of a tensor, (2,) int64 on its device.

    Args:
        tensor: its first dimension are rows, the others columns.
        first_row, first_column: where it begins in the whole of which it is a shard; of at most 4 bytes a number.
        block: how many numbers to take at a time, which changes no sum.
    """
    sums = torch.zeros(2, dtype=torch.int64, device=tensor.device)
    if not tensor.numel():
        return sums
    rows = tensor.detach().reshape(tensor.shape[0] if tensor.dim() else 1, -1)
    numbers = rows.contiguous().view(_BIT_VIEWS[tensor.element_size()])
    columns = numbers.shape[1]
    factors = _multipliers(_FIRST_COLUMN + first_column, columns, tensor.device)
    step = max(1, (block or (_CPU_BLOCK if tensor.device.type == "cpu" else _GPU_BLOCK)) // columns)
    for start in range(0, len(numbers), step):
        wide = numbers[start : start + step].to(torch.int64)  # (n, columns)
        by_row = torch.stack([(wide * factor).sum(dim=1) for factor in factors])  # (2, n)
        sums += (by_row * _multipliers(first_row + start, len(wide), tensor.device)).sum(dim=1)
    return sums


def _multipliers(first: int, count: int, device: torch.device) -> Tensor:
    """Return two odd numbers for each of `count` positions, (2, count): no bit of a product with one is lost."""
    one = mixed(torch.arange(first, first + count, device=device))
    return torch.stack([one, (one << 32) | shifted(one, 32)]) | 1


def _read(sums: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Bring all sums to the host, of each device at once: each reading waits for what the device has to do."""
    found: dict[str, list[int]] = {}
    for device in {each.device for each in sums.values()}:
        names = [name for name, each in sums.items() if each.device == device]
        found |= zip(names, torch.stack([sums[name] for name in names]).tolist(), strict=True)
    return found


def _about(dtype: torch.dtype, shape: Sequence[int]) -> str:
    return f"{dtype} {tuple(shape)}"


def _digest(about: str, sums: Sequence[int]) -> str:
    return fingerprint_of([about, *(number % 2**64 for number in sums)])
