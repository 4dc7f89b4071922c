"""Who steps which parameter, at what rate: exactly one optimizer for each that learns, none for one that is frozen.

Dense parameters are stepped by one AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019,
algorithm 2), tables by the fused kernels inside the backward pass. One schedule drives the rates of both, and reaches
them before the forward pass: a fused update uses the rate that it finds when its gradient arrives, so a rate set after
the backward pass would be one step late for tables alone.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recsys.errors import DataError, UsageError
from recsys.sharding.divided_state import DividedTensor, divided_accumulators, undivided
from recsys.sharding.inventory import inventory_of
from recsys.sharding.processes import reads_without_waiting
from recsys.sharding.whole_state import require_shapes
from recsys.sharding.wrap import TableOptimizer
from recsys.training.optimizer_contract import ParameterContract, optimizer_contract

_ADAMW_STATE = ("step", "exp_avg", "exp_avg_sq")
_STATELESS_RULE = "exact_sgd"  # fbgemm's word for what a kernel gets whose tables never learn


@dataclass(frozen=True)
class DenseOptimizer:
    """How a part's dense parameters learn: AdamW with the usual betas 0.9 and 0.999."""

    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class RateSchedule:
    """A factor on every learning rate: a linear rise over `warmup_steps`, then half a cosine down to `final_share`.

    What begins to learn later, at a thaw, rises over as many steps from there, under the same cosine: its optimizer
    state is fresh, and Adam's first steps are of full size whatever the gradient's.

    Source: the cosine of Loshchilov and Hutter, "SGDR" (2017), eq. 5, without restarts.

    >>> schedule = RateSchedule(warmup_steps=2, total_steps=6, final_share=0.0)
    >>> [round(schedule.factor(step), 2) for step in range(7)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15, 0.0]
    >>> [round(schedule.factor(step, since=3), 2) for step in (3, 4, 5)]
    [0.43, 0.5, 0.15]
    """

    warmup_steps: int
    total_steps: int
    final_share: float

    def factor(self, step: int, since: int = 0) -> float:
        """Return the factor of the given step, counted from 0; `final_share` from `total_steps` on.

        Args:
            since: the step at which what the rate is for began to learn.
        """
        rise = min(1.0, (step - since + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if step < self.warmup_steps:
            return rise
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return rise * (self.final_share + (1 - self.final_share) * 0.5 * (1 + math.cos(math.pi * progress)))


class RankerOptimizers:
    """All optimizers of one wrapped ranker, behind one face.

    Attributes:
        learning_since: by name, every dense parameter and table that learns, and the step at which it began to.

    Args:
        ranker: as `wrap_ranker` returned it.
        dense: by part; a part that is missing or None has no dense optimizer and its dense half must be frozen.
        table_optimizers: the mapping that `wrap_ranker` was given, or None in place of what is frozen now and thaws
            later: its kernel keeps its update rule, at rate 0, with an accumulator that stays at zero.

    Raises:
        TrainingError: the contract does not hold (`optimizer_contract.py`); the parameter is named.
    """

    def __init__(
        self,
        ranker: nn.Module,
        dense: Mapping[str, DenseOptimizer | None],
        table_optimizers: Mapping[str, TableOptimizer | None],
        schedule: RateSchedule,
    ) -> None:
        self._inventory = inventory_of(ranker)
        self._parts = [name for name, _ in self._inventory.module.named_children()]
        self._schedule = schedule
        self._step = 0
        self._adamw: torch.optim.AdamW | None = None
        self._names = {id(parameter): name for name, parameter in self._inventory.dense_parameters().items()}
        self.assign(dense, table_optimizers, {})

    def assign(
        self,
        dense: Mapping[str, DenseOptimizer | None],
        table_optimizers: Mapping[str, TableOptimizer | None],
        since: Mapping[str, int],
    ) -> None:
        """Say anew who steps what, as after a thaw. What was stepped already keeps its state, the rest starts afresh.

        Args:
            dense, table_optimizers: as for the constructor; a table's update rule cannot change any more.
            since: the steps at which what began later began to learn, by the names of `learning_rates`.

        Raises:
            TrainingError: the contract does not hold any more; the parameter is named.
        """
        self._since, self._table_optimizers = dict(since), dict(table_optimizers)
        self._dense = {part: optimizer for part, optimizer in dense.items() if optimizer}
        self._table_rates = {part: optimizer.learning_rate for part, optimizer in table_optimizers.items() if optimizer}
        for part in (*self._dense, *self._table_rates):
            if part not in self._parts:
                parts = ", ".join(self._parts)
                raise UsageError(f"An optimizer is given for `{part}`, but the model's parts are {parts}.")
        kernels = [each for each in self._inventory.kernels() if not self._inventory.stays_frozen(each.tables[0])]
        by_part = [(kernel.tables[0].split(".")[0], kernel) for kernel in kernels]
        self._kernels = [(part, kernel) for part, kernel in by_part if part in self._table_rates]
        for part, kernel in by_part:
            if part not in self._table_rates and kernel.optimizer != _STATELESS_RULE:
                kernel.set_learning_rate(0.0)  # it waits for its part's thaw, and no gradient reaches it either
        # A new AdamW and not new groups in the old one: it has no way to give a parameter up.
        groups, before = self._groups(), self._adamw
        self._adamw = torch.optim.AdamW(groups, lr=0.0, fused=True) if groups else None
        self.dense_parameters = [p for group in self._adamw_groups() for p in group["params"]]
        if self._adamw is not None and before is not None:
            stays = set(self.dense_parameters)
            self._adamw.state.update({p: state for p, state in before.state.items() if p in stays})
        self.learning_since = {
            self._names[id(p)]: group["since"] for group in self._adamw_groups() for p in group["params"]
        } | {
            table: self._since.get(_tables_of(part), 0)
            for part in self._table_rates
            for table in self._inventory.under(part).tables
        }
        self.set_rates(self._step)
        self.contract()

    def set_rates(self, step: int) -> None:
        """Give every optimizer its rate for the given step, counted from 0; call it before the forward pass."""
        self._step = step
        for group in self._adamw_groups():
            group["lr"] = group["base_rate"] * self._schedule.factor(step, group["since"])
        rates = self.learning_rates()
        for part, kernel in self._kernels:
            kernel.set_learning_rate(rates[_tables_of(part)])

    def zero_grad(self) -> None:
        """Forget every dense gradient: None, not zero, so that what the next batch does not reach is unchanged."""
        for parameter in self.dense_parameters:
            parameter.grad = None

    def step(self, keep: Tensor) -> None:
        """Step the dense parameters that have a gradient, or none at all where `keep` (() bool) is false."""
        if self._adamw is None:
            return
        if reads_without_waiting(keep.device):
            if keep:
                self._adamw.step()
            return
        # Read by the fused step on the device, so that the host need not wait; the same door as GradScaler's.
        self._adamw.found_inf = (~keep).float()  # type: ignore[attr-defined]
        self._adamw.step()

    def learning_rates(self) -> dict[str, float]:
        """Return the current rates: `<part>` for its dense parameters, `<part>_tables` for its tables."""
        full = {part: optimizer.learning_rate for part, optimizer in self._dense.items()}
        full |= {_tables_of(part): rate for part, rate in self._table_rates.items()}
        return {name: rate * self._schedule.factor(self._step, self._since.get(name, 0)) for name, rate in full.items()}

    def contract(self) -> list[ParameterContract]:
        """Return who steps what, every parameter and table of the ranker once, as it is now.

        Raises:
            TrainingError: a parameter that learns is not stepped by exactly one, or a frozen one by some; names it.
        """
        return optimizer_contract(
            self._inventory, {} if self._adamw is None else {"adamw": self._adamw}, self._table_optimizers
        )

    def parts(self) -> dict[str, DividedTensor]:
        """Return all optimizer state that this process holds, by parameter name; the next step changes it.

        Moments have the shape of their parameter, accumulators that of `divided_accumulators`, step counts ().
        """
        return undivided(self.dense_state()) | divided_accumulators(self._inventory)

    def room(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, DividedTensor]:
        """Return `parts` for the caller to fill, within `Inventory.writing`, with what was saved of others.

        What had no state then has none now.

        Args:
            shapes: of the saved state's whole tensors, by name.

        Raises:
            DataError: the state belongs to other parameters or another optimizer.
        """
        accumulators = divided_accumulators(self._inventory)
        require_shapes(accumulators, shapes)
        known = {f"{self._names[id(parameter)]}.{key}" for parameter in self.dense_parameters for key in _ADAMW_STATE}
        unknown = sorted(set(shapes) - known - set(accumulators))
        if unknown:
            raise DataError(
                f"The saved optimizer state holds `{unknown[0]}`, which no optimizer here keeps: it was saved in "
                "another training mode or of another model. Resume with the configuration of the saved run."
            )
        if self._adamw is not None:
            self._adamw.state.clear()
            for parameter in self.dense_parameters:
                if f"{self._names[id(parameter)]}.step" in shapes:
                    step = torch.zeros((), dtype=torch.float32, device=parameter.device)
                    moments = {key: torch.zeros_like(parameter.detach()) for key in _ADAMW_STATE[1:]}
                    self._adamw.state[parameter] = {_ADAMW_STATE[0]: step, **moments}
        dense = undivided(self.dense_state())
        require_shapes(dense, shapes)
        return dense | accumulators

    def local_state(self) -> dict[str, Tensor]:
        """Return the state that this process holds, as it lies in memory, by parameter name: what a digest reads.

        Shaped as `parts` says, a sharded table's as its shard.
        """
        pieces = {
            f"{shard.table}.sum ({shard.rows.start}, {shard.columns.start})": shard.state
            for shard in self._inventory.shards()
            if shard.state is not None
        }
        return self.dense_state() | pieces

    def dense_state(self) -> dict[str, Tensor]:
        """Return AdamW's state as it lies in memory, by parameter name: moments as their parameter, step counts ()."""
        if self._adamw is None:
            return {}
        return {
            f"{self._names[id(parameter)]}.{key}": state[key]
            for parameter, state in self._adamw.state.items()
            for key in _ADAMW_STATE
        }

    def _groups(self) -> list[dict[str, Any]]:
        """Return AdamW's groups: the parameters that share rate, decay and beginning; each group costs a kernel."""
        shared: dict[tuple[float, float, int], list[nn.Parameter]] = {}
        grouped: set[int] = set()  # a parameter that two parts share is stepped once, as the first one's
        for part, optimizer in self._dense.items():
            since = self._since.get(part, 0)
            for name, parameter in self._inventory.under(part).dense_parameters().items():
                if parameter.requires_grad and id(parameter) not in grouped:
                    grouped.add(id(parameter))
                    decay = self._decay(name, parameter, optimizer)
                    shared.setdefault((optimizer.learning_rate, decay, since), []).append(parameter)
        return [
            {"params": parameters, "weight_decay": decay, "base_rate": rate, "since": since}
            for (rate, decay, since), parameters in shared.items()
        ]

    def _decay(self, name: str, parameter: nn.Parameter, optimizer: DenseOptimizer) -> float:
        """The weight decay of a parameter: its module's own where that has one, else the part's."""
        module = self._inventory.module.get_submodule(name.rpartition(".")[0])
        own: float = getattr(module, "weight_decay", optimizer.weight_decay)
        return own if _decays(name, parameter) else 0.0

    def _adamw_groups(self) -> list[dict[str, Any]]:
        return [] if self._adamw is None else self._adamw.param_groups


def _tables_of(part: str) -> str:
    """The name of a part's tables among the rates; the part's own name is that of its dense half."""
    return f"{part}_tables"


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: the matrices of linear layers only.

    Biases, normalisations and gates mean something at their own scale; pulling a gate's logits to zero would pull it
    towards the plain average of the branches.
    """
    return parameter.dim() >= 2 and name.split(".")[-1] == "weight"
