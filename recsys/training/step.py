"""One training step, all or nothing.

Rates, forward, backward up to the tables' outputs, average over processes, judge, clip, step. The gate before the
tables (`sharding/gate.py`) lets a step be judged before any of it is done: where the loss or any gradient is not
finite, no weight, no accumulator and no moment of any parameter moves. On a GPU the host does not wait for the verdict;
it reads the count of bad batches, like everything else, when a report is due.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.errors import TrainingError
from recsys.features.batch import Batch
from recsys.monitoring.gradient_norms import WHOLE, squared_gradient_norms
from recsys.sharding.fused import unwrapped
from recsys.sharding.gate import TableGate
from recsys.sharding.processes import ProcessContext
from recsys.sharding.wrap import average_dense_gradients
from recsys.training.optimizer import RankerOptimizers

_BAD_BATCHES_IN_A_ROW = 3  # one or two may be freak rows; three are a run that has diverged

Objective = Callable[[nn.Module, Batch], Tensor]
"""Takes the unwrapped ranker and a batch, returns the scalar loss."""


@dataclass(frozen=True)
class Counts:
    """What the steps add up to.

    Attributes:
        loss_sum: of the finite losses since they were last forgotten, `losses` of them.
        non_finite_batches: batches without a finite loss and gradient, in all.
        bad_in_a_row: the same, up to the last batch.
    """

    loss_sum: float
    losses: int
    non_finite_batches: int
    bad_in_a_row: int


class Stepper:
    """Takes training steps, and keeps their numbers on the device until they are asked for.

    Args:
        ranker: as `wrap_ranker` returned it.
        max_gradient_norm: the whole gradient, tables included, is scaled down to this L2 norm; None for no clipping.
        counts: where the run stands.
    """

    def __init__(
        self,
        ranker: nn.Module,
        optimizers: RankerOptimizers,
        objective: Objective,
        max_gradient_norm: float | None,
        context: ProcessContext,
        counts: Counts,
    ) -> None:
        self._module, self._optimizers, self._objective = unwrapped(ranker), optimizers, objective
        self._max_gradient_norm, self._context = max_gradient_norm, context
        self._gate = TableGate(ranker)
        self._loss_sum = torch.tensor(counts.loss_sum, dtype=torch.float64, device=context.device)
        # Finite losses, bad batches, bad batches in a row, and the step at which those were three.
        self._counts = torch.tensor(
            [counts.losses, counts.non_finite_batches, counts.bad_in_a_row, 0], device=context.device
        )
        self._squared_norms: dict[str, Tensor] = {}

    def take(self, step: int, batch: Batch, *, with_norms: bool) -> None:
        """Take one step.

        Args:
            step: counted from 0.
            with_norms: keep the gradient norms for `norms`.
        """
        optimizers = self._optimizers
        optimizers.set_rates(step)
        optimizers.zero_grad()
        loss = self._backward(step, batch)
        average_dense_gradients(optimizers.dense_parameters, self._context)
        dense = [parameter.grad for parameter in optimizers.dense_parameters if parameter.grad is not None]
        keep = self._judge(loss, dense)
        scale, self._squared_norms = None, {}
        if with_norms or self._max_gradient_norm is not None:
            # Before clipping: afterwards every part's norm is scaled by the same factor, and a part whose gradient
            # explodes looks as calm as the others.
            self._squared_norms = squared_gradient_norms(self._module, self._gate, self._context)
        if self._max_gradient_norm is not None:
            # The small term is torch.nn.utils.clip_grad_norm_'s, which this equals on an unsharded model.
            scale = (self._max_gradient_norm / (self._squared_norms[WHOLE].sqrt() + 1e-6)).clamp(max=1.0).float()
            torch._foreach_mul_(dense, scale)
        optimizers.step(keep)
        self._gate.release(keep, scale)
        self._count(step + 1, loss.detach(), keep)
        if self._context.device.type == "cpu":  # reading costs nothing there, so divergence is told at once
            self.read()

    def read(self) -> Counts:
        """Return what the steps add up to; waits for the device.

        Raises:
            TrainingError: three bad batches in a row.
        """
        losses, non_finite, in_a_row, third_step = self._counts.tolist()
        if third_step:
            raise TrainingError(
                f"Training diverged: the batches of steps {third_step - _BAD_BATCHES_IN_A_ROW + 1} to {third_step} "
                "gave a loss or gradient that is not finite, three in a row. They were skipped, and no weight was "
                "changed by them. Lower the learning rates, set `training.max_gradient_norm`, or look for extreme "
                "values in the dense features."
            )
        return Counts(self._loss_sum.item(), losses, non_finite, in_a_row)

    def norms(self) -> dict[str, float]:
        """Return the last step's norms by part and "whole", before clipping, or {} if it kept none; waits once."""
        if not self._squared_norms:
            return {}
        values = torch.stack(list(self._squared_norms.values())).sqrt().tolist()
        return dict(zip(self._squared_norms, values, strict=True))

    def forget_losses(self) -> None:
        """Begin the sum of losses anew."""
        self._loss_sum.zero_()
        self._counts[0] = 0

    def close(self) -> None:
        """Take the gate away and forget the last gradients."""
        self._gate.close()
        self._optimizers.zero_grad()

    def _backward(self, step: int, batch: Batch) -> Tensor:
        try:
            loss = self._objective(self._module, batch)
            loss.backward()
        except torch.OutOfMemoryError as error:
            peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
            raise TrainingError(
                f"Out of memory in step {step + 1} with {len(batch)} rows in the batch (peak so far {peak:.1f} GiB): "
                f"lower `training.batch_size`. The last checkpoint is untouched. ({error})"
            ) from error
        return loss

    def _judge(self, loss: Tensor, dense: list[Tensor]) -> Tensor:
        """Return, () bool, whether the loss and every gradient is finite, in every process."""
        norms = torch._foreach_norm([loss.detach(), *dense, *self._gate.gradients()])
        keep = torch.stack([norm.float() for norm in norms]).isfinite().all()
        if self._context.world_size > 1:
            # A table's gradient is seen by the processes that hold it alone.
            agreed = keep.to(torch.int32)
            dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
            keep = agreed.bool()
        return keep

    def _count(self, step: int, loss: Tensor, keep: Tensor) -> None:
        self._loss_sum += torch.where(keep, loss, 0.0)
        losses, non_finite, in_a_row, third_step = self._counts.unbind()
        is_bad = ~keep
        in_a_row = (in_a_row + 1) * is_bad
        third_step = third_step + (in_a_row == _BAD_BATCHES_IN_A_ROW) * (third_step == 0) * step
        self._counts = torch.stack([losses + keep, non_finite + is_bad, in_a_row, third_step])
