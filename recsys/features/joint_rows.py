"""The rows of one step that several processes have shares of: sums over all of them, and every process's vectors.

Gradients are averaged over processes. A mean over a step's rows is therefore this process's sum divided by the mean of
the processes' totals, and not by its own total, which would give a row more weight where its neighbours have little: so
a loss is the same whatever the number of processes, and so is its gradient.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def joint_total(own: Tensor) -> Tensor:
    """Return the mean over the processes of a total that each has over its rows, (), which is `own` where one runs.

    No gradient goes through it. Every process calls it.
    """
    size = joint_processes()
    if size == 1:
        return own
    total = own.detach().clone()
    dist.all_reduce(total)
    return total / size


def joint_row_count(rows: int, device: torch.device) -> Tensor | int:
    """Return the mean over the processes of how many rows each has, () or an int. Every process calls it."""
    return rows if joint_processes() == 1 else joint_total(torch.tensor(float(rows), device=device))


def joint_rows(*columns: Tensor) -> tuple[int, tuple[Tensor, ...]]:
    """Return all processes' rows of some columns, process after process, and the place of this one's first row.

    Gradients of floating point columns go back to the process that brought the row, summed over all processes. Every
    process calls it, with columns of its own number of rows, and runs a backward pass through the result or none does.

    Args:
        columns: (P, ...) each.
    """
    size = joint_processes()
    if size == 1:
        return 0, columns
    own = torch.tensor([len(columns[0])])  # on the host, which is to know them
    counts = [torch.empty_like(own) for _ in range(size)]
    dist.all_gather(counts, own)
    lengths = [int(count) for count in counts]
    if not any(lengths):
        return 0, columns
    return sum(lengths[: dist.get_rank()]), tuple(_Gathered.apply(column, lengths) for column in columns)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, column: Tensor, lengths: list[int]) -> Tensor:
        context.lengths = lengths
        # Processes send equally many rows: the shorter ones a tail that is cut off again.
        padded = column.new_zeros(max(lengths), *column.shape[1:])
        padded[: len(column)] = column.detach()
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].contiguous().clone()
        dist.all_reduce(whole)
        return whole.split(context.lengths)[dist.get_rank()], None


def joint_processes() -> int:
    """How many processes share a step's rows; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
