"""The optimizer contract: every parameter that learns is stepped by exactly one optimizer, every frozen one by none.

It is read off what is in memory (the optimizers' groups, the kernels' update rules and rates), never off what was
asked for: an optimizer that holds the parameters of a model that was replaced was asked for correctly, too.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recsys.errors import TrainingError
from recsys.monitoring.frozen_proof import frozen_modules
from recsys.sharding.inventory import Inventory, inventory_of
from recsys.sharding.wrap import RULE_NAMES, TableOptimizer

NOBODY = "none"
"""Stands for the optimizer of a parameter that none steps."""


@dataclass(frozen=True)
class ParameterContract:
    """One line of the contract: one parameter or table, and who steps it.

    Attributes:
        optimizer: `NOBODY` where none does.
        learning_rate: before the schedule's factor.
        also_named: every other name by which the model reaches the same parameter; it is stepped once.
    """

    part: str
    parameter: str
    elements: int
    is_table: bool
    is_trainable: bool
    optimizer: str
    learning_rate: float
    weight_decay: float
    also_named: tuple[str, ...] = ()


def optimizer_contract(
    ranker: nn.Module | Inventory,
    optimizers: Mapping[str, torch.optim.Optimizer],
    table_optimizers: Mapping[str, TableOptimizer | None],
) -> list[ParameterContract]:
    """Return who steps what, every parameter and table of the ranker once.

    Args:
        ranker: as `wrap_ranker` returned it, or its inventory.
        optimizers: of the dense parameters, by the name to print. A group's `base_rate`, if it has one, is its rate
            before the schedule's factor.
        table_optimizers: by part; None or no entry for one whose tables are frozen.

    Raises:
        TrainingError: the contract does not hold; names the parameter.
    """
    inventory, stepped = inventory_of(ranker), _stepped(optimizers)
    if not inventory.is_current():
        raise TrainingError(
            "The model's tables were replaced after it was wrapped: no kernel updates the new ones. Wrap the model "
            "after its last change."
        )
    dense = inventory.dense_parameters()
    frozen = tuple(f"{path}." for path in frozen_modules(inventory.module))
    lines = [
        *_dense_lines(inventory.module, dense, stepped, frozen),
        *_table_lines(inventory, table_optimizers, frozen),
    ]
    for line in lines:
        _require_one_or_none(line)
    _require_no_strangers(dense, stepped)
    _require_own_memory(dense)
    _require_kernels_as_declared(inventory, table_optimizers)
    return lines


class _Step(NamedTuple):
    """One entry of one optimizer's group."""

    parameter: Tensor
    optimizer: str
    learning_rate: float
    weight_decay: float


def _stepped(optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[int, list[_Step]]:
    """Return every entry of every group, by the parameter's id."""
    found: dict[int, list[_Step]] = {}
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            rate, decay = group.get("base_rate", group["lr"]), group.get("weight_decay", 0.0)
            for parameter in group["params"]:
                found.setdefault(id(parameter), []).append(_Step(parameter, name, float(rate), float(decay)))
    return found


def _dense_lines(
    module: nn.Module,
    dense: Mapping[str, nn.Parameter],
    stepped: Mapping[int, Sequence[_Step]],
    frozen: tuple[str, ...],
) -> Iterable[ParameterContract]:
    aliases: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
    for name, parameter in dense.items():
        names = aliases[id(parameter)]
        still = [alias for alias in names if f"{alias}.".startswith(frozen)]
        if still and len(still) < len(names):
            learning = next(alias for alias in names if alias not in still)
            raise TrainingError(
                f"`{still[0]}` and `{learning}` are one parameter, and the first belongs to a frozen part while the "
                "second learns: whichever holds, the other's promise is broken. Give each a parameter of its own."
            )
        steps = stepped.get(id(parameter), [])
        yield ParameterContract(
            part=name.split(".")[0],
            parameter=name,
            elements=parameter.numel(),
            is_table=False,
            is_trainable=parameter.requires_grad and not still,
            optimizer=" and ".join(step.optimizer for step in steps) or NOBODY,
            learning_rate=steps[0].learning_rate if steps else 0.0,
            weight_decay=steps[0].weight_decay if steps else 0.0,
            also_named=tuple(alias for alias in names if alias != name),
        )


def _table_lines(
    inventory: Inventory, table_optimizers: Mapping[str, TableOptimizer | None], frozen: tuple[str, ...]
) -> Iterable[ParameterContract]:
    for name, table in inventory.tables.items():
        part = name.split(".")[0]
        optimizer = None if inventory.stays_frozen(name) else table_optimizers.get(part)
        yield ParameterContract(
            part=part,
            parameter=name,
            elements=table.shape[0] * table.shape[1],
            is_table=True,
            is_trainable=not name.startswith(frozen),
            # By its configured name; that the kernel follows it is checked below.
            optimizer=NOBODY if optimizer is None or table.optimizer is None else optimizer.name,
            learning_rate=0.0 if optimizer is None else optimizer.learning_rate,
            weight_decay=0.0,
        )


def _require_one_or_none(line: ParameterContract) -> None:
    if line.is_trainable and line.optimizer == NOBODY:
        raise TrainingError(
            f"`{line.parameter}` learns, but no optimizer steps it: it would stay as it was drawn. Give part "
            f"`{line.part}` an optimizer, or freeze it; if it was added later, make the optimizers after it."
        )
    if not line.is_trainable and line.optimizer != NOBODY:
        raise TrainingError(
            f"`{line.parameter}` is frozen, but {line.optimizer} steps it: weight decay and momentum move a "
            f"parameter without any gradient. Leave part `{line.part}` out of the optimizers."
        )
    if " and " in line.optimizer:
        raise TrainingError(
            f"`{line.parameter}` is stepped {line.optimizer.count(' and ') + 1} times, by {line.optimizer}: its rate "
            "would be their sum. Leave it in one group of one optimizer."
        )


def _require_no_strangers(dense: Mapping[str, nn.Parameter], stepped: Mapping[int, Sequence[_Step]]) -> None:
    known = {id(parameter) for parameter in dense.values()}
    for key, steps in stepped.items():
        if key not in known:
            raise TrainingError(
                f"{steps[0].optimizer} steps a parameter of shape {tuple(steps[0].parameter.shape)} that the model "
                "does not have: it belongs to a module that was replaced. Make the optimizers after the last change of "
                "the model."
            )


def _require_own_memory(dense: Mapping[str, nn.Parameter]) -> None:
    """Two parameters over one memory are stepped twice, although each of them is stepped once."""
    owners: dict[int, str] = {}
    for name, parameter in dense.items():
        if parameter.numel() and owners.setdefault(parameter.data_ptr(), name) != name:
            raise TrainingError(
                f"`{owners[parameter.data_ptr()]}` and `{name}` are two parameters over the same memory: one step "
                "would move it twice. Share the parameter itself, or copy its values."
            )


def _require_kernels_as_declared(inventory: Inventory, table_optimizers: Mapping[str, TableOptimizer | None]) -> None:
    """A kernel is never without an update rule: one that was given none learns by fbgemm's default."""
    for kernel in inventory.kernels():
        table = kernel.tables[0]
        part = table.split(".")[0]
        optimizer = None if inventory.stays_frozen(table) else table_optimizers.get(part)
        if optimizer is None and kernel.learning_rate != 0.0:
            raise TrainingError(
                f"`{table}` has no optimizer, yet its kernel learns by {kernel.optimizer} at rate "
                f"{kernel.learning_rate:g}, which is fbgemm's default: it ignores `requires_grad`. Wrap the model by "
                f"`wrap_ranker`, with None for part `{part}`."
            )
        if optimizer is not None and kernel.optimizer != RULE_NAMES[optimizer.name]:
            raise TrainingError(
                f"`{table}` is to learn by {optimizer.name}, but its kernel does so by {kernel.optimizer}. Give "
                "`wrap_ranker` and the optimizers the same table optimizers."
            )


def contract_summary(lines: Sequence[ParameterContract]) -> list[tuple[str, ...]]:
    """Return the contract in a few rows, `SUMMARY_HEADER` over them: what shares part, optimizer, rate and decay.

    >>> line = ParameterContract("head", "head.output.bias", 1, False, True, "adamw", 0.001, 0.0)
    >>> contract_summary([line])
    [('head', '1', '1', 'yes', 'adamw', '0.001', '0')]
    """
    parameters: Counter[tuple[str, ...]] = Counter()
    elements: Counter[tuple[str, ...]] = Counter()
    for line in lines:
        key = line.part, *_cells(line)
        parameters[key] += 1
        elements[key] += line.elements
    order = sorted(parameters, key=lambda key: [line.part for line in lines].index(key[0]))
    return [(key[0], f"{parameters[key]:,}", f"{elements[key]:,}", *key[1:]) for key in order]


SUMMARY_HEADER = ("part", "parameters", "elements", "trainable", "optimizer", "rate", "weight decay")


def shared_parameters(lines: Sequence[ParameterContract]) -> list[str]:
    """Return one sentence per parameter that has several names."""
    return [
        f"`{line.parameter}` is also `{'`, `'.join(line.also_named)}`: one parameter, stepped once"
        for line in lines
        if line.also_named
    ]


def contract_document(lines: Sequence[ParameterContract]) -> str:
    """Return the contract as Markdown: the summary, what is shared, then every parameter."""
    each = [(f"`{line.parameter}`", f"{line.elements:,}", *_cells(line)) for line in lines]
    shared = [f"- {sentence}" for sentence in shared_parameters(lines)] or ["No parameter has two names."]
    return "\n".join(
        [
            "# Who steps what",
            "",
            "Every parameter that learns is stepped by exactly one optimizer, every frozen one by none. Rates are",
            "those before the schedule's factor.",
            "",
            *_markdown_table(SUMMARY_HEADER, contract_summary(lines)),
            "",
            "## Shared",
            "",
            *shared,
            "",
            "## Every parameter",
            "",
            *_markdown_table(("parameter", *SUMMARY_HEADER[2:]), each),
            "",
        ]
    )


def _cells(line: ParameterContract) -> tuple[str, ...]:
    learns = "yes" if line.is_trainable else "no"
    return learns, line.optimizer, f"{line.learning_rate:g}", f"{line.weight_decay:g}"


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
