"""One gradient norm per part of the ranker, fused tables included.

The norm of a part is the L2 norm over all its parameters, tables and dense ones alike: the square root of the sum of
squares of every element of the gradient of the loss, as one vector. It is taken before clipping and, with several
processes, of the gradient of the mean of their losses. It is exact: a table's rows are summed over all their lookups
before they are squared (`recsys/sharding/gate.py`), where a kernel's own clipping looks at one lookup at a time.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.errors import TrainingError
from recsys.sharding.fused import dense_parameters, tables, unwrapped
from recsys.sharding.gate import TableGate
from recsys.sharding.processes import ProcessContext

WHOLE = "whole"
"""The name under which the norm over all parts is reported."""


def gradient_norms(ranker: nn.Module, gate: TableGate, context: ProcessContext) -> dict[str, float]:
    """Return the norm of each part (a named child of `ranker`) and of the whole.

    0.0 for a part that no gradient reaches, a frozen one among them. Call it after the backward pass and after
    `average_dense_gradients`, before anything is clipped, stepped or released; every process calls it and receives the
    same numbers. It waits for the device once.

    Raises:
        TrainingError: a part with tables learns, and the gate has seen none of them: its norm is not known to be 0.
    """
    squared = squared_gradient_norms(ranker, gate, context)
    values = torch.stack(list(squared.values())).sqrt().tolist()
    return dict(zip(squared, values, strict=True))


def squared_gradient_norms(ranker: nn.Module, gate: TableGate, context: ProcessContext) -> dict[str, Tensor]:
    """As `gradient_norms`, squared and still on the device: () float64 each."""
    module = unwrapped(ranker)
    of_tables = _table_squares(module, gate, context)
    parts: dict[str, Tensor] = {}
    for part, child in module.named_children():
        gradients = [parameter.grad for parameter in dense_parameters(child).values() if parameter.grad is not None]
        squares = [square for name, square in of_tables.items() if name.startswith(f"{part}.")]
        if gradients:
            squares.append(torch.stack(torch._foreach_norm(gradients)).double().square().sum())
        parts[part] = torch.stack(squares).sum() if squares else _zero(context)
    parts[WHOLE] = torch.stack(list(parts.values())).sum() if parts else _zero(context)
    return parts


def _table_squares(module: nn.Module, gate: TableGate, context: ProcessContext) -> Mapping[str, Tensor]:
    """Return each table's squared norm, whole in every process."""
    names = list(tables(module))
    if not names:
        return {}
    here = gate.squared_norms()
    if context.world_size == 1:
        _refuse_unseen(module, [name for name in names if name not in here])
        return here
    squares = torch.stack([here.get(name, _zero(context)) for name in names])
    seen = torch.tensor([float(name in here) for name in names], dtype=torch.float64, device=context.device)
    both = torch.cat([squares, seen])
    dist.all_reduce(both)
    squares, seen = both.chunk(2)
    _refuse_unseen(module, [name for name, count in zip(names, seen.tolist(), strict=True) if not count])
    return dict(zip(names, squares.unbind(), strict=True))


def _refuse_unseen(module: nn.Module, unseen: list[str]) -> None:
    """A table that learns but that the gate missed is a fault of the wiring; 0 would hide it."""
    for part, child in module.named_children():
        missed = [name for name in unseen if name.startswith(f"{part}.")]
        if missed and not getattr(child, "is_frozen", False) and len(missed) == len(tables(child)):
            raise TrainingError(
                f"The gradient of `{missed[0]}` is not known: no gradient came through the gate of `{part}`, which "
                "has tables and is not frozen. Either the loss does not depend on that part, or the gate was opened "
                "after the forward pass or on another module."
            )


def _zero(context: ProcessContext) -> Tensor:
    return torch.zeros((), dtype=torch.float64, device=context.device)
