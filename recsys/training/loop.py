"""The training loop: a plain generator of reports. It logs nothing and writes nothing.

One step is: rates, forward, backward up to the tables' outputs, average over processes, judge, step. The gate before
the tables (`sharding/gate.py`) makes a step all or nothing: where the loss or any gradient is not finite, no weight, no
accumulator and no moment of any parameter moves. On a GPU the host does not wait for that judgement; it reads the
count of bad batches, like everything else, on reporting steps.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.errors import DataError, TrainingError
from recsys.features.batch import Batch
from recsys.monitoring.gradient_norms import WHOLE, squared_gradient_norms
from recsys.monitoring.throughput import Throughput
from recsys.sharding.fused import unwrapped
from recsys.sharding.gate import TableGate
from recsys.sharding.processes import ProcessContext
from recsys.sharding.wrap import average_dense_gradients
from recsys.training.optimizer import RankerOptimizers
from recsys.training.snapshot import BestWeights

LOG_LOSS = "log_loss"
"""The validation figure that early stopping watches; lower is better."""

_BAD_BATCHES_IN_A_ROW = 3  # one or two may be freak rows; three are a run that has diverged

Objective = Callable[[nn.Module, Batch], Tensor]
"""Takes the unwrapped ranker and a batch, returns the scalar loss."""


class TrainingStream(Protocol):
    """Batches of one epoch after another; iterating yields what is left of the current epoch."""

    epoch: int
    wait_seconds: float

    def __iter__(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class LoopSettings:
    """How long and how often, counted in steps from the run's beginning.

    Attributes:
        patience: validations in a row without a better log loss that end the run.
        max_gradient_norm: the whole gradient, tables included, is scaled down to this L2 norm; None for no clipping.
            Clipping needs the exact norm in every step, which costs a few per cent.
    """

    max_steps: int
    report_every: int
    validate_every: int
    checkpoint_every: int
    patience: int
    max_gradient_norm: float | None


@dataclass
class LoopState:
    """Where the loop stands; plain numbers, so that a checkpoint can carry it.

    Attributes:
        step: batches taken, bad ones included.
        loss_sum: of the finite losses since the last report, `losses` of them.
        bad_in_a_row: batches without a finite loss and gradient, up to the last one.
        ended: None while it runs, then "budget", "patience" or "asked".
    """

    step: int = 0
    rows_seen: int = 0
    loss_sum: float = 0.0
    losses: int = 0
    non_finite_batches: int = 0
    bad_in_a_row: int = 0
    best_log_loss: float | None = None
    best_step: int | None = None
    validations_without_gain: int = 0
    ended: str | None = None

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values that `from_document` reads back."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "LoopState":
        """Read what `to_document` wrote.

        Raises:
            DataError: the keys are others, as after a change of version.
        """
        if set(document) != {field.name for field in fields(cls)}:
            raise DataError(
                f"The saved loop state has the keys {sorted(document)}; expected "
                f"{sorted(field.name for field in fields(cls))}. It was written by another version: start afresh."
            )
        return cls(**document)


@dataclass(frozen=True)
class StepReport:
    """What one reporting step says.

    Attributes:
        loss: mean over the batches since the last report, and over processes; None where none was finite.
        gradient_norms: of this step's batch by part and "whole", before clipping; {} where the batch was not finite.
        learning_rates: that this step used.
        data_wait_share: share of the training time since the last report that was spent waiting for data.
        non_finite_batches: since the run began.
        validation: what `validate` returned, on validating steps.
    """

    step: int
    epoch: int
    rows_seen: int
    loss: float | None
    gradient_norms: dict[str, float]
    learning_rates: dict[str, float]
    rows_per_second: float
    data_wait_share: float
    non_finite_batches: int
    validation: dict[str, float] | None


def train_steps(
    ranker: nn.Module,
    optimizers: RankerOptimizers,
    stream: TrainingStream,
    objective: Objective,
    settings: LoopSettings,
    context: ProcessContext,
    *,
    state: LoopState,
    best: BestWeights,
    validate: Callable[[], Mapping[str, float]],
    checkpoint: Callable[[LoopState], None],
    should_stop: Callable[[], bool],
) -> Iterator[StepReport]:
    """Train until the budget is spent, validation stops improving, or `should_stop` says so; yield reports on the way.

    The weights at the end are the last ones; `best.restore()` brings back those of the best validation. `state` is
    brought forward in place: a fresh `LoopState()` begins a run, and a loaded one goes on with it, also where it was
    asked to stop or its budget has been raised since.

    Args:
        ranker: as `wrap_ranker` returned it.
        validate: returns validation figures, `log_loss` among them, the same in every process; it may leave the ranker
            in evaluation mode.
        checkpoint: called every `checkpoint_every` steps and at the end, after the step's report was taken.
        should_stop: asked after every step; the step in hand is finished, reported and checkpointed.

    Raises:
        TrainingError: three batches in a row gave a loss or gradient that is not finite (nothing moved in them), or
            memory ran out.
        DataError: the stream has no batches.
    """
    loop = _Loop(ranker, optimizers, objective, settings, context, state)
    throughput = Throughput()
    unwrapped(ranker).train()
    state.ended = _end(state, settings, asked=False)
    empty_epochs = 0
    try:
        while state.ended is None:
            empty_epochs += 1
            for batch in stream:
                empty_epochs = 0
                is_last = state.step + 1 >= settings.max_steps
                is_validating = is_last or (state.step + 1) % settings.validate_every == 0
                is_reporting = is_validating or (state.step + 1) % settings.report_every == 0
                loop.train_on(batch, is_reporting=is_reporting)
                asked = loop.anyone_asks(should_stop())
                with throughput.paused():
                    validation = loop.validate(validate, best) if is_validating else None
                state.ended = _end(state, settings, asked=asked)
                if is_reporting or state.ended:
                    speed = throughput.read(state.rows_seen, stream.wait_seconds)
                    report = loop.report(stream.epoch, speed, validation)
                    with throughput.paused():
                        yield report
                if state.ended or state.step % settings.checkpoint_every == 0:
                    with throughput.paused():
                        loop.read_counters()
                        checkpoint(state)
                if state.ended:
                    break
            if empty_epochs > 1:  # a resumed run may find the rest of its epoch empty, but not the next one
                raise DataError("The training stream has no batches: nothing to train on. Prepare a larger split.")
    finally:
        loop.close()


class _Loop:
    """One run's step, and the numbers that stay on the device between reports."""

    def __init__(
        self,
        ranker: nn.Module,
        optimizers: RankerOptimizers,
        objective: Objective,
        settings: LoopSettings,
        context: ProcessContext,
        state: LoopState,
    ) -> None:
        self._module = unwrapped(ranker)
        self._optimizers, self._objective = optimizers, objective
        self._settings, self._context, self._state = settings, context, state
        self._gate = TableGate(ranker)
        device = context.device
        self._loss_sum = torch.tensor(state.loss_sum, dtype=torch.float64, device=device)
        # finite losses since the report, bad batches in all, bad in a row, and the step at which those were three
        self._counts = torch.tensor([state.losses, state.non_finite_batches, state.bad_in_a_row, 0], device=device)
        self._squared_norms: dict[str, Tensor] = {}

    def train_on(self, batch: Batch, *, is_reporting: bool) -> None:
        """Take one step; on reporting steps keep the norms for `report`."""
        state, settings, optimizers = self._state, self._settings, self._optimizers
        optimizers.set_rates(state.step)
        optimizers.zero_grad()
        loss = self._backward(batch)
        average_dense_gradients(optimizers.dense_parameters, self._context)
        dense = [parameter.grad for parameter in optimizers.dense_parameters if parameter.grad is not None]
        keep = self._judge(loss, dense)
        scale = None
        if is_reporting or settings.max_gradient_norm is not None:
            # Before clipping: afterwards every part's norm is scaled by the same factor, and a part whose gradient
            # explodes looks as calm as the others.
            self._squared_norms = squared_gradient_norms(self._module, self._gate, self._context)
        if settings.max_gradient_norm is not None:
            # The small term is torch.nn.utils.clip_grad_norm_'s, which this equals on an unsharded model.
            scale = (settings.max_gradient_norm / (self._squared_norms[WHOLE].sqrt() + 1e-6)).clamp(max=1.0).float()
            torch._foreach_mul_(dense, scale)
        optimizers.step(keep)
        self._gate.release(keep, scale)
        state.step += 1
        state.rows_seen += len(batch) * self._context.world_size
        self._count(loss.detach(), keep)
        if self._context.device.type == "cpu":  # reading costs nothing there
            self.read_counters()

    def anyone_asks(self, asked: bool) -> bool:
        """Return whether any process asks to stop, so that all of them stop after the same step."""
        if self._context.world_size == 1:
            return asked
        flag = torch.tensor(int(asked))  # on the CPU: the host knows it, and the device need not be waited for
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)

    def validate(self, validate: Callable[[], Mapping[str, float]], best: BestWeights) -> dict[str, float]:
        """Validate, and keep the weights if they are the best so far."""
        figures = dict(validate())
        self._module.train()
        state = self._state
        if state.best_log_loss is None or figures[LOG_LOSS] < state.best_log_loss:
            state.best_log_loss, state.best_step = figures[LOG_LOSS], state.step
            state.validations_without_gain = 0
            best.keep()
        else:
            state.validations_without_gain += 1
        return figures

    def report(self, epoch: int, speed: tuple[float, float], validation: dict[str, float] | None) -> StepReport:
        """Read the numbers of this step and begin to count anew."""
        self.read_counters()
        state = self._state
        sums = torch.tensor([state.loss_sum, state.losses], dtype=torch.float64)
        if self._context.world_size > 1:
            dist.all_reduce(sums)
        loss = (sums[0] / sums[1]).item() if sums[1] else None
        norms: dict[str, float] = {}
        if state.bad_in_a_row == 0 and self._squared_norms:
            values = torch.stack(list(self._squared_norms.values())).sqrt().tolist()
            norms = dict(zip(self._squared_norms, values, strict=True))
        self._loss_sum.zero_()
        self._counts[0] = 0
        self._squared_norms = {}
        return StepReport(
            step=state.step,
            epoch=epoch,
            rows_seen=state.rows_seen,
            loss=loss,
            gradient_norms=norms,
            learning_rates=self._optimizers.learning_rates(),
            rows_per_second=speed[0] * self._context.world_size,
            data_wait_share=speed[1],
            non_finite_batches=state.non_finite_batches,
            validation=validation,
        )

    def read_counters(self) -> None:
        """Bring the device's counts into the state.

        Raises:
            TrainingError: three bad batches in a row.
        """
        state = self._state
        state.loss_sum = self._loss_sum.item()
        state.losses, state.non_finite_batches, state.bad_in_a_row, third_step = self._counts.tolist()
        if third_step:
            raise TrainingError(
                f"Training diverged: the batches of steps {third_step - _BAD_BATCHES_IN_A_ROW + 1} to {third_step} "
                "gave a loss or gradient that is not finite, three in a row. They were skipped, and no weight was "
                "changed by them. Lower the learning rates, set `training.max_gradient_norm`, or look for extreme "
                "values in the dense features."
            )

    def close(self) -> None:
        self._gate.close()
        self._optimizers.zero_grad()

    def _backward(self, batch: Batch) -> Tensor:
        try:
            loss = self._objective(self._module, batch)
            loss.backward()
        except torch.OutOfMemoryError as error:
            peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
            raise TrainingError(
                f"Out of memory in step {self._state.step + 1} with {len(batch)} rows in the batch (peak so far "
                f"{peak:.1f} GiB): lower `training.batch_size`. The last checkpoint is untouched. ({error})"
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

    def _count(self, loss: Tensor, keep: Tensor) -> None:
        self._loss_sum += torch.where(keep, loss, 0.0)
        losses, bad, in_a_row, third_step = self._counts.unbind()
        is_bad = ~keep
        in_a_row = (in_a_row + 1) * is_bad
        third_step = third_step + (in_a_row == _BAD_BATCHES_IN_A_ROW) * (third_step == 0) * self._state.step
        self._counts = torch.stack([losses + keep, bad + is_bad, in_a_row, third_step])


def _end(state: LoopState, settings: LoopSettings, *, asked: bool) -> str | None:
    """Return why the run ends where it stands, or None."""
    if state.step >= settings.max_steps:
        return "budget"
    if state.validations_without_gain >= settings.patience:
        return "patience"
    return "asked" if asked else None
