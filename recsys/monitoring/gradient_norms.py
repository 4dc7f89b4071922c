"""Gradient norms of the ranker: of each part, its tables and its dense half, each segment's expert, and the whole.

A norm is the L2 norm of the gradient of the loss with respect to a set of parameters, as one vector: the square root of
the sum of squares of all its elements, tables and dense parameters alike. The gradient is

- that of the loss itself: under a loss scale (float16) it is taken after unscaling;
- with several processes that of the mean of their losses: it is taken after averaging;
- what the batch says, not what the step does: it is taken before clipping, and no optimizer's rate or history is in it.

It is exact: a table's rows are summed over all their lookups before they are squared (`sharding/row_gradients.py`),
where a kernel's own clipping looks at one lookup at a time. The norm of a frozen part is 0.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.errors import TrainingError
from recsys.monitoring.frozen_proof import frozen_modules
from recsys.sharding.gate import TableGate
from recsys.sharding.inventory import Inventory, inventory_of
from recsys.sharding.processes import ProcessContext

WHOLE = "whole"
"""The name under which the norm over all parts is reported."""
TABLES, DENSE = "tables", "dense"
"""What follows a part's name and a slash where the norm is that of one half of the part."""
EXPERT = "expert"
"""What goes before a slash and the number of a segment where the norm is that of the segment's own modules."""
OF_TOWER = "tower"
"""What goes before a slash and a name where the norm is that of one of the tower's sources or heads."""

MEMBER, THRESHOLD = "member", "threshold"
"""The same before the number of a head's member, and the name of one of the outputs that ask at a threshold."""
ADAPTER, COPY = "adapter", "copy"
"""The same before the number of a segment with an adapter of its own, and the rung of the segments that share a copy of
the tower."""

_NAMED = ("sources", "heads")  # under these names a part keeps modules that are reported each by its own name
_DELTAS = {"tower_adapters": ADAPTER, "tower_copies": COPY}  # parts that keep what segments learn of a frozen tower
_BY_SEGMENT = ("segments", "experts")  # under these names a part keeps a list with one module per segment


def gradient_norms(ranker: nn.Module | Inventory, gate: TableGate, context: ProcessContext) -> dict[str, float]:
    """Return all norms by name; see the module's docstring for what they are of.

    `<part>` for each named child of `ranker`, and "whole"; `<part>/tables` and `<part>/dense` for a part that has
    tables (its dense half may be empty: 0); `expert/<segment>` with the segment's number, for a part that keeps modules
    per segment; `tower/<name>` for each source and head of a tower that has them; `member/<number>` for what each
    member of a head has of its own, and `threshold/<name>` for the weights of each output of a head that has several.
    0.0 for what no gradient reaches, a frozen part or an absent segment's expert among it.

    Call it after the backward pass, after unscaling and after `average_dense_gradients`, before anything is clipped,
    stepped or released; every process calls it and receives the same numbers. It waits for the device once.

    Raises:
        TrainingError: a part with tables learns, and the gate has seen none of them: its norm is not known to be 0.
    """
    return norms_of_squares(squared_gradient_norms(ranker, gate, context))


def norms_of_squares(squared: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the roots of what `squared_gradient_norms` returned, () each, as numbers; waits for the device once."""
    if not squared:
        return {}
    values = torch.stack(list(squared.values())).sqrt().tolist()
    return dict(zip(squared, values, strict=True))


def squared_gradient_norms(
    ranker: nn.Module | Inventory, gate: TableGate, context: ProcessContext
) -> dict[str, Tensor]:
    """As `gradient_norms`, squared and still on the device: () float64 each."""
    inventory = inventory_of(ranker)
    of_dense, of_tables = _dense_squares(inventory), _table_squares(inventory, gate, context)
    parts: dict[str, Tensor] = {}
    details: dict[str, Tensor] = {}
    for part, child in inventory.module.named_children():
        dense = _sum([square for name, square in of_dense.items() if name.startswith(f"{part}.")], context)
        parts[part] = dense
        if any(name.startswith(f"{part}.") for name in of_tables):
            held = _sum([square for name, square in of_tables.items() if name.startswith(f"{part}.")], context)
            parts[part] = held + dense
            details |= {f"{part}/{TABLES}": held, f"{part}/{DENSE}": dense}
        named = {**_experts(part, child), **_named(part, child), **_members(part, child), **_deltas(part, child)}
        for name, prefix in named.items():
            squares = [square for each, square in (*of_dense.items(), *of_tables.items()) if each.startswith(prefix)]
            details[name] = _sum(squares, context)
        details |= _threshold_squares(inventory, part, child, context)
    return {**parts, WHOLE: _sum(list(parts.values()), context), **details}


def _experts(part: str, child: nn.Module) -> dict[str, str]:
    """Return, by the norm's name, the prefix of the parameters of each segment's own modules."""
    return {
        f"{EXPERT}/{segment}": f"{part}.{name}.{segment}."
        for name in _BY_SEGMENT
        if isinstance(modules := getattr(child, name, None), nn.ModuleList)
        for segment in range(len(modules))
    }


def _named(part: str, child: nn.Module) -> dict[str, str]:
    """Return, by the norm's name, the prefix of the parameters of each of a tower's sources and heads."""
    return {
        f"{OF_TOWER}/{name}": f"{part}.{group}.{name}."
        for group in _NAMED
        if isinstance(modules := getattr(child, group, None), nn.ModuleDict)
        for name in modules
    }


def _members(part: str, child: nn.Module) -> dict[str, str]:
    """Return, by the norm's name, the prefix of the parameters that each member of a head has of its own."""
    members = getattr(child, "members", None)
    numbers = range(len(members)) if isinstance(members, nn.ModuleList) else ()
    return {f"{MEMBER}/{number}": f"{part}.members.{number}." for number in numbers}


def _deltas(part: str, child: nn.Module) -> dict[str, str]:
    """Return, by the norm's name, the prefix of the parameters of each adapter or copy of the tower."""
    if part not in _DELTAS:
        return {}
    return {f"{_DELTAS[part]}/{name}": f"{part}.{name}." for name, _ in child.named_children()}


def _threshold_squares(
    inventory: Inventory, part: str, child: nn.Module, context: ProcessContext
) -> Mapping[str, Tensor]:
    """Return the squared norm of the gradient of each output's own row of the output layers, for several outputs."""
    names: tuple[str, ...] = getattr(child, "output_names", ())
    if len(names) < 2:
        return {}
    rows = [
        parameter.grad.double().square().reshape(len(names), -1).sum(dim=1)
        for name, parameter in inventory.dense_parameters().items()
        if name.startswith(f"{part}.") and name.split(".")[-2] == "output" and parameter.grad is not None
    ]
    squares = torch.stack(rows).sum(dim=0) if rows else _zero(context).expand(len(names))
    return {f"{THRESHOLD}/{name}": square for name, square in zip(names, squares.unbind(), strict=True)}


def _dense_squares(inventory: Inventory) -> dict[str, Tensor]:
    """Return the squared norm of each dense gradient that there is, by name."""
    gradients = {name: p.grad for name, p in inventory.dense_parameters().items() if p.grad is not None}
    if not gradients:
        return {}
    # One launch for all tensors; squared in float64, where no square of a float32 number overflows.
    squares = torch.stack(torch._foreach_norm(list(gradients.values()))).double().square()
    return dict(zip(gradients, squares.unbind(), strict=True))


def _sum(squares: list[Tensor], context: ProcessContext) -> Tensor:
    return torch.stack(squares).sum() if squares else _zero(context)


def _table_squares(inventory: Inventory, gate: TableGate, context: ProcessContext) -> Mapping[str, Tensor]:
    """Return each table's squared norm, whole in every process; 0 for a table that was not reached."""
    names = list(inventory.tables)
    if not names:
        return {}
    here = gate.squared_norms()
    squares = torch.stack([here.get(name, _zero(context)) for name in names])
    if context.world_size == 1:
        _refuse_unseen(inventory, [name for name in names if name not in here])
        return dict(zip(names, squares.unbind(), strict=True))
    seen = torch.tensor([float(name in here) for name in names], dtype=torch.float64, device=context.device)
    # Whether any process saw a table travels with the squares: an exchange of its own would cost as much again.
    both = torch.cat([squares, seen])
    dist.all_reduce(both)
    squares, seen = both.chunk(2)
    _refuse_unseen(inventory, [name for name, count in zip(names, seen.tolist(), strict=True) if not count])
    return dict(zip(names, squares.unbind(), strict=True))


def _refuse_unseen(inventory: Inventory, unseen: list[str]) -> None:
    """A table that learns but that the gate missed is a fault of the wiring; 0 would hide it."""
    frozen = tuple(f"{path}." for path in frozen_modules(inventory.module))
    for part, _ in inventory.module.named_children():
        missed = [name for name in unseen if name.startswith(f"{part}.") and not name.startswith(frozen)]
        if missed and len(missed) == len(inventory.under(part).tables):
            raise TrainingError(
                f"The gradient of `{missed[0]}` is not known: no gradient came through the gate of `{part}`, which "
                "has tables and is not frozen. Either the loss does not depend on that part, or the gate was opened "
                "after the forward pass or on another module."
            )


def _zero(context: ProcessContext) -> Tensor:
    return torch.zeros((), dtype=torch.float64, device=context.device)
