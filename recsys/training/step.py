"""One training step, all or nothing.

Rates, forward, backward up to the tables' outputs, average over processes, unscale, judge, measure, clip, step. The
gate before the tables (`sharding/gate.py`) lets a step be judged before any of it is done: where the loss or any
gradient is not finite, no weight, accumulator or moment of any parameter changes. On a GPU the host does not wait
for the verdict; it reads the count of bad batches, like everything else, when a report is due.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from recsys.errors import TrainingError
from recsys.features.batch import Batch
from recsys.monitoring.gradient_norms import WHOLE, norms_of_squares, squared_gradient_norms
from recsys.monitoring.out_of_memory import out_of_memory_explained
from recsys.monitoring.segment_gradients import SegmentGradients, SegmentView, segment_view
from recsys.sharding.gate import TableGate
from recsys.sharding.inventory import inventory_of
from recsys.sharding.processes import ProcessContext, reads_without_waiting
from recsys.sharding.wrap import average_dense_gradients
from recsys.training.host_copy import HostCopy
from recsys.training.optimizer import RankerOptimizers
from recsys.training.precision import START_SCALE, Precision

_BAD_BATCHES_IN_A_ROW = 3  # one or two may be freak rows; three are a run that has diverged
_SHARED_PART = "embedding_tower"  # the one that every segment's rows pass and that was there before them

Objective = Callable[[nn.Module, Batch], Tensor]
"""Takes the unwrapped ranker and a batch, returns the scalar loss."""


@dataclass
class Counts:
    """What the steps add up to.

    Attributes:
        loss_sum: of the finite losses since they were last forgotten, `losses` of them.
        non_finite_batches: batches without a finite loss and gradient, in all.
        bad_in_a_row: the same, up to the last batch; those not counted that a lower loss scale may mend.
        loss_scale, clean_steps: of float16 alone; see `Precision`.
    """

    loss_sum: float = 0.0
    losses: int = 0
    non_finite_batches: int = 0
    bad_in_a_row: int = 0
    loss_scale: float = START_SCALE
    clean_steps: int = 0


@dataclass(frozen=True)
class StepSettings:
    """What every step does alike.

    Attributes:
        max_gradient_norm: the whole gradient, tables included, is scaled down to this L2 norm; None for no clipping.
            Clipping needs the exact norm in every step, which costs a few per cent.
        precision: "float32", "bfloat16" or "float16"; see `precision.py`.
        segment_view_every: steps from one reading of the tower's gradient by segment to the next; 0 for never.
        segments: the S names in order; () for a model that knows none, which has no such view.
    """

    max_gradient_norm: float | None
    precision: str
    segment_view_every: int
    segments: tuple[str, ...]


@dataclass(frozen=True)
class StepNumbers:
    """What the steps add up to, and what the last of them read.

    Attributes:
        loss_sum: of the finite losses since numbers were last sent for, `losses` of them.
        non_finite_batches: since the run began.
        norms: the last step's gradient norms by name; {} where it kept none, or where its gradient was not finite.
        view: what the segments' gradients said about the tower in the last step; None where nobody looked.
    """

    loss_sum: float
    losses: int
    non_finite_batches: int
    norms: dict[str, float]
    view: SegmentView | None


class Stepper:
    """Takes training steps, and keeps their numbers on the device until they are asked for.

    Args:
        ranker: as `wrap_ranker` returned it.
        counts: so far; `read` brings them up to date.
    """

    def __init__(
        self,
        ranker: nn.Module,
        optimizers: RankerOptimizers,
        objective: Objective,
        settings: StepSettings,
        context: ProcessContext,
        counts: Counts,
    ) -> None:
        self._inventory, self._optimizers, self._objective = inventory_of(ranker), optimizers, objective
        self._settings, self._context, self._totals = settings, context, counts
        self._gate = TableGate(self._inventory)
        self._replicated = [table for tables in self._inventory.replicated().values() for table in tables.values()]
        self._precision = Precision(settings.precision, counts.loss_scale, counts.clean_steps, context.device)
        self._by_segment = None
        if settings.segments and settings.segment_view_every:
            self._by_segment = SegmentGradients(
                self._inventory, _SHARED_PART, self._gate, len(settings.segments), context
            )
        self._loss_sum = torch.tensor(counts.loss_sum, dtype=torch.float64, device=context.device)
        # Finite losses, bad batches, bad batches in a row, and the step at which those were three.
        self._counts = torch.tensor(
            [counts.losses, counts.non_finite_batches, counts.bad_in_a_row, 0], device=context.device
        )
        self._squared_norms: dict[str, Tensor] = {}
        self._has_view = False
        self._products: Tensor | None = None

    def take_step(
        self, step: int, batch: Batch, *, with_norms: bool, with_segments: bool, known: Sequence[float] = ()
    ) -> list[float]:
        """Take one step, and return the sums over all processes of what each knows: the step's exchange carries them.

        Args:
            step: counted from 0.
            with_norms, with_segments: keep the gradient norms, or the tower's gradient by segment (for settings that
                ask for it), until the next step.

        Raises:
            TrainingError: memory ran out, or (on a CPU, where reading costs nothing) as `read` says.
        """
        where = f"in step {step + 1} with {len(batch)} rows in the batch"
        # Forward and backward are not all: the first step makes AdamW's state, and norms and the tables' update take
        # memory by what a batch looks up.
        with out_of_memory_explained(where, "`training.batch_size`", self._context.device):
            return self._take(step, batch, known, with_norms=with_norms, with_segments=with_segments)

    def read(self) -> None:
        """Bring the counts up to date; waits for the device.

        Raises:
            TrainingError: three bad batches in a row.
        """
        losses, non_finite, in_a_row, third_step = self._counts.tolist()
        _refuse_divergence(third_step)
        counts = self._totals
        counts.loss_sum, counts.losses = self._loss_sum.item(), losses
        counts.non_finite_batches, counts.bad_in_a_row = non_finite, in_a_row
        counts.loss_scale, counts.clean_steps = self._precision.state()

    def send_numbers(self) -> Callable[[], StepNumbers]:
        """Send the numbers up to the last step to the host, and begin the sum of losses anew; does not wait.

        What is returned gives the numbers, and waits for no step that comes behind. It raises a `TrainingError` as
        `read` does.
        """
        names, squares = list(self._squared_norms), list(self._squared_norms.values())
        copy = HostCopy([self._loss_sum, self._counts, torch.stack(squares) if squares else None, self._products])
        self._loss_sum.zero_()
        self._counts[0] = 0
        return partial(self._numbers, copy, names, self._has_view)

    def _numbers(self, copy: HostCopy, names: list[str], has_view: bool) -> StepNumbers:
        loss_sum, counts, squares, products = copy.arrived()
        assert loss_sum is not None
        assert counts is not None
        losses, non_finite, _, third_step = counts.tolist()
        _refuse_divergence(third_step)
        norms = {} if squares is None else norms_of_squares(dict(zip(names, squares, strict=True)))
        return StepNumbers(
            loss_sum=loss_sum.item(),
            losses=losses,
            non_finite_batches=non_finite,
            norms=norms if math.isfinite(norms.get(WHOLE, math.nan)) else {},
            view=segment_view(products, len(self._settings.segments)) if has_view else None,
        )

    def close(self) -> None:
        """Take the gate away and forget the last gradients."""
        if self._by_segment is not None:
            self._by_segment.close()
        self._gate.close()
        self._optimizers.zero_grad()

    def _take(
        self, step: int, batch: Batch, known: Sequence[float], *, with_norms: bool, with_segments: bool
    ) -> list[float]:
        optimizers, limit = self._optimizers, self._settings.max_gradient_norm
        optimizers.set_rates(step)  # before the backward pass, whose second half updates the tables
        optimizers.zero_grad()
        loss = self._backward(batch, with_segments=with_segments)
        # Before judging: what overflows under the scale alone is still infinite, and what is finite is seen as it is.
        tables = self._gate.gradients()
        self._precision.unscale(tables)
        # A table's gradient is seen by the processes that hold it alone.
        faults = ~torch.stack([loss.detach().isfinite(), _are_finite(tables, loss)])
        averaged = [*optimizers.dense_parameters, *self._replicated]
        agreed = average_dense_gradients(averaged, self._context, faults, known)
        dense = [parameter.grad for parameter in optimizers.dense_parameters if parameter.grad is not None]
        self._precision.unscale(dense)
        keep = ~agreed.faults.any() & _are_finite(dense, loss)
        may_be_scale = ~agreed.faults[0] & self._precision.can_lower_scale()
        scale, squared = None, {}
        if with_norms or limit is not None:
            # Before clipping: afterwards every part's norm is scaled by the same factor, and a part whose gradient
            # explodes looks as calm as the others.
            squared = squared_gradient_norms(self._inventory, self._gate, self._context)
        self._squared_norms = squared if with_norms else {}
        self._has_view = with_segments
        self._products = self._by_segment.read() if with_segments and self._by_segment is not None else None
        if limit is not None:
            # min(1, limit / (|g| + 1e-6)): the small term is torch.nn.utils.clip_grad_norm_'s, which this equals on an
            # unsharded model (Pascanu et al., "On the difficulty of training recurrent neural networks", algorithm 1).
            scale = (limit / (squared[WHOLE].sqrt() + 1e-6)).clamp(max=1.0).float()
            torch._foreach_mul_(dense, scale)
        optimizers.step(keep)
        self._gate.release(keep, scale)
        self._precision.update(keep)
        self._count(step + 1, loss.detach(), keep, may_be_scale)
        if reads_without_waiting(self._context.device):  # so that divergence is reported at once
            self.read()
        return agreed.sums

    def _backward(self, batch: Batch, *, with_segments: bool) -> Tensor:
        if self._by_segment is not None and with_segments:
            self._by_segment.arm()
        with self._precision.autocast():
            loss = self._objective(self._inventory.module, batch)
        # The segments' gradients are further passes through the same graph.
        self._precision.scaled(loss).backward(retain_graph=with_segments)
        return loss

    def _count(self, step: int, loss: Tensor, keep: Tensor, may_be_scale: Tensor) -> None:
        self._loss_sum += torch.where(keep, loss, 0.0)  # a product with `keep` would let a NaN through
        losses, non_finite, in_a_row, third_step = self._counts.unbind()
        is_bad = ~keep
        in_a_row = (in_a_row + (is_bad & ~may_be_scale)) * is_bad
        third_step = third_step + (in_a_row == _BAD_BATCHES_IN_A_ROW) * (third_step == 0) * step
        self._counts = torch.stack([losses + keep, non_finite + is_bad, in_a_row, third_step])


def _are_finite(gradients: list[Tensor], loss: Tensor) -> Tensor:
    """Whether every number of the gradients is finite, () bool, and true where there are none."""
    norms = torch._foreach_norm(gradients) if gradients else [torch.zeros_like(loss.detach())]
    return torch.stack([norm.float() for norm in norms]).isfinite().all()


def _refuse_divergence(third_step: int) -> None:
    """Raise where three bad batches in a row were counted, the last of them in that step; 0 for none."""
    if third_step:
        raise TrainingError(
            f"Training diverged: the batches of steps {third_step - _BAD_BATCHES_IN_A_ROW + 1} to {third_step} "
            "gave a loss or gradient that is not finite, three in a row. They were skipped, and no weight was "
            "changed by them. Lower the learning rates, set `training.max_gradient_norm`, or look for extreme "
            "values in the dense features."
        )
