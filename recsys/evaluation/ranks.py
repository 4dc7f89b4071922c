"""Evaluation over several processes: every rank steps as often as the longest, and rows are gathered at the end.

A ranker whose tables are spread over ranks answers only when all ranks ask together (`torchrec.md`, trap 8), so a rank
whose rows have run out repeats its last batch, and its answers are thrown away.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.distributed as dist

from recsys.errors import DataError
from recsys.features.batch import Batch
from recsys.metrics.columns import Column


def world_size() -> int:
    """Processes that evaluate together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process among them; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def in_step(stream: Iterable[Batch]) -> Iterator[tuple[Batch, bool]]:
    """Yield each batch with True, then its last batch again with False while any other rank still has rows.

    Raises:
        DataError: on every rank, where some rank has no batch at all.
    """
    if world_size() == 1:
        yield from ((batch, True) for batch in stream)
        return
    last: Batch | None = None
    batches = iter(stream)
    while True:
        batch = next(batches, None)
        ranks_with_rows, ranks_without = _count(batch is not None)
        if not ranks_with_rows:
            return
        if ranks_without and last is None:
            raise DataError(
                f"{ranks_without} of {world_size()} processes have no rows to evaluate. "
                "Evaluate with fewer processes or with smaller row groups."
            )
        last = batch if batch is not None else last
        assert last is not None
        yield last, batch is not None


def _count(has_rows: bool) -> tuple[int, int]:
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    flags = torch.tensor([int(has_rows), int(not has_rows)], device=device)
    dist.all_reduce(flags)
    with_rows, without = flags.tolist()
    return int(with_rows), int(without)


def gather(column: Column) -> Column:
    """Rows of all ranks, rank after rank, on every rank; `column` itself where there is one process."""
    if world_size() == 1:
        return column
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    if column.dtype == bool:  # gloo sends no booleans
        return gather(column.astype(np.int8)).astype(bool)
    own = torch.from_numpy(np.ascontiguousarray(column)).to(device)
    length = torch.tensor([len(own)], device=device)
    lengths = [torch.empty_like(length) for _ in range(world_size())]
    dist.all_gather(lengths, length)
    # all_gather wants equal shapes: the shorter ranks send a tail that is cut off again.
    longest = max(int(n) for n in lengths)
    padded = torch.zeros(longest, dtype=own.dtype, device=device)
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(parts, padded)
    return np.concatenate([part[: int(n)].cpu().numpy() for part, n in zip(parts, lengths, strict=True)])
