"""Who steps which parameter, at what rate: exactly one optimizer for each that learns, none for one that is frozen.

Dense parameters are stepped by one AdamW (Loshchilov and Hutter 2019), tables by the fused kernels inside the backward
pass. One schedule drives the rates of both, and reaches them before the forward pass: a fused update uses the rate that
stands when its gradient arrives, so a rate set after the backward pass would be one step late for tables alone.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recsys.errors import DataError, UsageError
from recsys.sharding.fused import (
    FusedKernel,
    dense_parameters,
    fused_kernels,
    load_table_optimizer_state,
    table_optimizer_state,
    table_shards,
    unwrapped,
)
from recsys.sharding.wrap import TableOptimizer
from recsys.training.contract import ParameterContract, optimizer_contract

_ADAMW_STATE = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class DenseOptimizer:
    """How a part's dense parameters learn: AdamW with the usual betas 0.9 and 0.999."""

    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class RateSchedule:
    """A factor on every learning rate: a linear rise over `warmup_steps`, then half a cosine down to `final_share`.

    Source: the cosine of Loshchilov and Hutter, "SGDR" (2017), eq. 5, without restarts.

    >>> schedule = RateSchedule(warmup_steps=2, total_steps=6, final_share=0.0)
    >>> [round(schedule.factor(step), 2) for step in range(7)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15, 0.0]
    """

    warmup_steps: int
    total_steps: int
    final_share: float

    def factor(self, step: int) -> float:
        """Return the factor of the given step, counted from 0; `final_share` from `total_steps` on."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return self.final_share + (1 - self.final_share) * 0.5 * (1 + math.cos(math.pi * progress))


class RankerOptimizers:
    """All optimizers of one wrapped ranker, behind one face.

    Args:
        ranker: as `wrap_ranker` returned it.
        dense: by part; a part that is missing or None has no dense optimizer and must be frozen.
        table_optimizers: the mapping that `wrap_ranker` was given.

    Raises:
        TrainingError: the contract does not hold (`contract.py`); the parameter is named.
    """

    def __init__(
        self,
        ranker: nn.Module,
        dense: Mapping[str, DenseOptimizer | None],
        table_optimizers: Mapping[str, TableOptimizer | None],
        schedule: RateSchedule,
    ) -> None:
        self._ranker = unwrapped(ranker)
        self._schedule = schedule
        self._table_optimizers = dict(table_optimizers)
        self._table_rates = {part: optimizer.learning_rate for part, optimizer in table_optimizers.items() if optimizer}
        self._kernels: list[tuple[str, FusedKernel]] = [
            (part, kernel) for part in self._table_rates for kernel in fused_kernels(self._part(part))
        ]
        self._dense = {part: optimizer for part, optimizer in dense.items() if optimizer}
        groups = self._groups()
        self._adamw = torch.optim.AdamW(groups, lr=0.0, fused=True) if groups else None
        self._names = {id(parameter): name for name, parameter in dense_parameters(self._ranker).items()}
        self.dense_parameters = [p for group in self._adamw_groups() for p in group["params"]]
        self.set_rates(0)
        self.contract()

    def set_rates(self, step: int) -> None:
        """Give every optimizer its rate for the given step, counted from 0; call it before the forward pass."""
        self._factor = factor = self._schedule.factor(step)
        for group in self._adamw_groups():
            group["lr"] = group["base_rate"] * factor
        for part, kernel in self._kernels:
            kernel.set_learning_rate(self._table_rates[part] * factor)

    def zero_grad(self) -> None:
        """Forget every dense gradient: None, not zero, so that what the next batch does not reach stands still."""
        for parameter in self.dense_parameters:
            parameter.grad = None

    def step(self, keep: Tensor) -> None:
        """Step the dense parameters that have a gradient, or none at all where `keep` (() bool) is false."""
        if self._adamw is None:
            return
        if keep.device.type == "cpu":
            if keep:
                self._adamw.step()
            return
        # Read by the fused step on the device, so that the host need not wait; the same door as GradScaler's.
        self._adamw.found_inf = (~keep).float()  # type: ignore[attr-defined]
        self._adamw.step()

    def learning_rates(self) -> dict[str, float]:
        """Return the current rates: `<part>` for its dense parameters, `<part>_tables` for its tables."""
        rates = {part: optimizer.learning_rate * self._factor for part, optimizer in self._dense.items()}
        return rates | {f"{part}_tables": rate * self._factor for part, rate in self._table_rates.items()}

    def contract(self) -> list[ParameterContract]:
        """Return who steps what, every parameter and table of the ranker once, as it stands now.

        Raises:
            TrainingError: a parameter that learns is not stepped by exactly one, or a frozen one by some; names it.
        """
        return optimizer_contract(
            self._ranker, {} if self._adamw is None else {"adamw": self._adamw}, self._table_optimizers
        )

    def state(self) -> dict[str, Tensor]:
        """Return a copy of all optimizer state on the CPU, whole tables' included, by parameter name.

        Every process calls it and receives all.
        """
        return {name: value.cpu().clone() for name, value in self._adamw_state().items()} | table_optimizer_state(
            self._ranker
        )

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Write what `state` returned back. A parameter that had no state has none afterwards.

        Raises:
            DataError: the state belongs to other parameters or another optimizer.
        """
        load_table_optimizer_state(self._ranker, state)
        known = {f"{self._names[id(parameter)]}.{key}" for parameter in self.dense_parameters for key in _ADAMW_STATE}
        unknown = sorted(set(state) - known - set(table_optimizer_state(self._ranker)))
        if unknown:
            raise DataError(
                f"The saved optimizer state holds `{unknown[0]}`, which no optimizer here keeps: it was saved in "
                "another training mode or of another model. Resume with the configuration of the saved run."
            )
        if self._adamw is None:
            return
        self._adamw.state.clear()
        for parameter in self.dense_parameters:
            name = self._names[id(parameter)]
            if f"{name}.step" in state:
                self._adamw.state[parameter] = {
                    key: state[f"{name}.{key}"].to(parameter.device, copy=True) for key in _ADAMW_STATE
                }

    def local_state(self) -> dict[str, Tensor]:
        """Return the state that this process holds, as it lies in memory, by parameter name: what a digest reads."""
        pieces = {
            f"{shard.table}.sum ({shard.rows.start}, {shard.columns.start})": shard.state
            for shard in table_shards(self._ranker)
            if shard.state is not None
        }
        return self._adamw_state() | pieces

    def _part(self, part: str) -> nn.Module:
        if part not in dict(self._ranker.named_children()):
            raise UsageError(
                f"An optimizer is given for `{part}`, but the model's parts are "
                f"{', '.join(name for name, _ in self._ranker.named_children())}."
            )
        return self._ranker.get_submodule(part)

    def _groups(self) -> list[dict[str, Any]]:
        """Return AdamW's groups: the parameters that share rate and decay, whatever their part; each costs a kernel."""
        shared: dict[tuple[float, float], list[nn.Parameter]] = {}
        grouped: set[int] = set()  # a parameter that two parts share is stepped once, as the first one's
        for part, optimizer in self._dense.items():
            for name, parameter in dense_parameters(self._part(part)).items():
                if parameter.requires_grad and id(parameter) not in grouped:
                    grouped.add(id(parameter))
                    decay = optimizer.weight_decay if _decays(name, parameter) else 0.0
                    shared.setdefault((optimizer.learning_rate, decay), []).append(parameter)
        return [
            {"params": parameters, "weight_decay": decay, "base_rate": rate}
            for (rate, decay), parameters in shared.items()
        ]

    def _adamw_groups(self) -> list[dict[str, Any]]:
        return [] if self._adamw is None else self._adamw.param_groups

    def _adamw_state(self) -> dict[str, Tensor]:
        if self._adamw is None:
            return {}
        return {
            f"{self._names[id(parameter)]}.{key}": state[key]
            for parameter, state in self._adamw.state.items()
            for key in _ADAMW_STATE
        }


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: the matrices of linear layers only.

    Biases, normalisations and gates mean something at their own scale; pulling a gate's logits to zero would pull it
    towards the plain average of the branches.
    """
    return parameter.dim() >= 2 and name.split(".")[-1] == "weight"
