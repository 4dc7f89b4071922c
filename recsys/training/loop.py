"""The training loop: a plain generator of reports. It logs nothing and writes nothing.

What one step does is in `step.py`. Here is the order of the run: when to report, to validate and to keep a
checkpoint, and when to end.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from recsys.errors import DataError
from recsys.features.batch import Batch
from recsys.monitoring.gradient_norms import EXPERT
from recsys.monitoring.out_of_memory import raise_explained
from recsys.monitoring.throughput import Throughput
from recsys.sharding.inventory import unwrapped
from recsys.sharding.processes import ProcessContext, any_process
from recsys.training.optimizer import RankerOptimizers
from recsys.training.snapshot import BestWeights
from recsys.training.stages import LEAST_GAIN, LOG_LOSS, TrainingStages
from recsys.training.step import Counts, Objective, Stepper, StepSettings
from recsys.training.training_stream import TrainingStream

# What takes memory between the steps: a batch on its way, a validation, what a report or a checkpoint gathers.
_BETWEEN_STEPS = "`training.batch_size` or `evaluation.batch_size`"


@dataclass(frozen=True)
class LoopSettings(StepSettings):
    """How long and how often, counted in steps from the run's beginning; and what every step does alike.

    Attributes:
        validates_start: whether the first weights are measured too, and kept where no later ones are better by more
            than the `LEAST_GAIN` that validation returns. For a model that starts as something fitted.
        patience: validations in a row without a better log loss that end the run.
        norms_every: steps from one reading of the gradient norms to the next; such a step is reported too, as is one
            that reads the tower's gradient by segment.
    """

    max_steps: int
    report_every: int
    norms_every: int
    validate_every: int
    validates_start: bool
    checkpoint_every: int
    patience: int


@dataclass
class LoopState(Counts):
    """How far the loop is; plain numbers, so that a checkpoint can carry it.

    Attributes:
        step: batches taken, bad ones included.
        lowest_log_loss: of all validations; `best_log_loss` is that of the weights which were kept, at `best_step`.
        ended: None while it runs, then "budget", "patience" or "asked".
    """

    step: int = 0
    rows_seen: int = 0
    lowest_log_loss: float | None = None
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
        gradient_norms: of this step's batch, before clipping, as `monitoring.gradient_norms` names them, experts by
            their segments' names; {} where the step was due no reading, or its gradient was not finite.
        segment_shares, segment_cosines: of the tower's gradient by segment name (`monitoring.segment_gradients`); {}
            where the step was due no reading, or its gradient was not finite.
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
    segment_shares: dict[str, float]
    segment_cosines: dict[str, float]
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
    stages: TrainingStages | None = None,
) -> Iterator[StepReport]:
    """Train until the budget is spent, validation stops improving, or `should_stop` says so; yield reports on the way.

    The weights at the end are the last ones; `best.restore()` brings back the best. `state` advances in place: a fresh
    one begins a run, a loaded one goes on, also where it was asked to stop or the budget grew.

    Args:
        ranker: as `wrap_ranker` returned it.
        validate: returns `log_loss` and other figures, the same in every process; may leave evaluation mode on.
        checkpoint: called every `checkpoint_every` steps and at the end, after the step's report was taken.
        should_stop: asked after every step, which is still reported and checkpointed.
        stages: asked after a step's report and before its checkpoint, which so is of the stage that follows.

    Raises:
        TrainingError: memory ran out, or three batches in a row gave a loss or gradient that is not finite.
        DataError: the stream has no batches.
    """
    loop = _Loop(ranker, optimizers, objective, settings, context, state)
    throughput = Throughput(state.rows_seen, stream.wait_seconds)
    try:
        loop.start(validate, best)
        state.ended = _end(state, settings, stages, asked=False)
        while state.ended is None:
            for batch in _epoch(stream, state):
                is_validating, is_reporting = loop.is_due()
                loop.train_on(batch)
                asked = any_process(should_stop(), context)  # so that all stop after the same step
                with throughput.paused():
                    validation = loop.validate(validate, best) if is_validating else None
                state.ended = _end(state, settings, stages, asked=asked)
                if is_reporting or state.ended:
                    speed = throughput.read(state.rows_seen, stream.wait_seconds)
                    report = loop.report(stream.epoch, speed, validation)
                    with throughput.paused():
                        yield report
                if stages is not None and stages.advance(state.step, validation):
                    state.validations_without_gain = 0
                if state.ended or state.step % settings.checkpoint_every == 0:
                    with throughput.paused():
                        loop.stepper.read()
                        checkpoint(state)
                if state.ended:
                    break
    except (RuntimeError, MemoryError) as error:
        raise_explained(error, f"after step {state.step}", _BETWEEN_STEPS, context.device)
    finally:
        loop.stepper.close()


def _epoch(stream: TrainingStream, state: LoopState) -> Iterator[Batch]:
    """Yield what is left of the epoch; where a resumed run finds nothing left, the next one."""
    step = state.step
    yield from stream
    if state.step == step:
        yield from stream
    if state.step == step:
        raise DataError("The training stream has no batches: nothing to train on. Prepare a larger split.")


class _Loop:
    """A run's steps, and the state that they bring forward.

    Attributes:
        stepper: takes the steps; brings the state's counts up to date when it reads.
    """

    def __init__(
        self,
        ranker: nn.Module,
        optimizers: RankerOptimizers,
        objective: Objective,
        settings: LoopSettings,
        context: ProcessContext,
        state: LoopState,
    ) -> None:
        self.stepper = Stepper(ranker, optimizers, objective, settings, context, state)
        self._module, self._optimizers = unwrapped(ranker), optimizers
        self._settings, self._context, self._state = settings, context, state

    def start(self, validate: Callable[[], Mapping[str, float]], best: BestWeights) -> None:
        """Make ready for the first step; measure the weights before it where they count."""
        self._module.train()
        if self._settings.validates_start and self._state.step == 0:
            self.validate(validate, best)

    def is_due(self) -> tuple[bool, bool]:
        """Whether the next step validates, and whether it reports."""
        step, settings = self._state.step + 1, self._settings
        is_validating = step >= settings.max_steps or step % settings.validate_every == 0
        is_reporting = is_validating or step % settings.report_every == 0 or any(self._readings())
        return is_validating, is_reporting

    def train_on(self, batch: Batch) -> None:
        """Take one step."""
        with_norms, with_segments = self._readings()
        self.stepper.take_step(self._state.step, batch, with_norms=with_norms, with_segments=with_segments)
        self._state.step += 1
        self._state.rows_seen += len(batch) * self._context.world_size

    def _readings(self) -> tuple[bool, bool]:
        """Whether the next step reads the gradient norms, and the tower's gradient by segment."""
        step, settings = self._state.step + 1, self._settings
        view_every = settings.segment_view_every if settings.segments else 0
        return step % settings.norms_every == 0, view_every > 0 and step % view_every == 0

    def validate(self, validate: Callable[[], Mapping[str, float]], best: BestWeights) -> dict[str, float]:
        """Validate, and keep the weights if they are the best so far."""
        figures = dict(validate())
        self._module.train()
        state = self._state
        loss, least_gain = figures[LOG_LOSS], figures.pop(LEAST_GAIN, 0.0)
        is_lowest = state.lowest_log_loss is None or loss < state.lowest_log_loss
        if is_lowest:
            state.lowest_log_loss = loss
        # Patience counts from the lowest loss, also where that is too near the start's to be kept.
        state.validations_without_gain = 0 if is_lowest else state.validations_without_gain + 1
        if state.best_log_loss is None or loss < state.best_log_loss - (least_gain if state.best_step == 0 else 0.0):
            state.best_log_loss, state.best_step = loss, state.step
            best.keep()
        return figures

    def report(self, epoch: int, speed: tuple[float, float], validation: dict[str, float] | None) -> StepReport:
        """Read the numbers of this step and begin to count anew."""
        self.stepper.read()
        state = self._state
        sums = torch.tensor([state.loss_sum, state.losses], dtype=torch.float64)
        if self._context.world_size > 1:
            dist.all_reduce(sums)
        self.stepper.forget_losses()
        view = self.stepper.view()
        return StepReport(
            step=state.step,
            epoch=epoch,
            rows_seen=state.rows_seen,
            loss=(sums[0] / sums[1]).item() if sums[1] else None,
            gradient_norms=_with_segment_names(self.stepper.norms(), self._settings.segments),
            segment_shares={} if view is None else _by_name(view.shares, self._settings.segments),
            segment_cosines={} if view is None else _by_name(view.cosines, self._settings.segments),
            learning_rates=self._optimizers.learning_rates(),
            rows_per_second=speed[0],
            data_wait_share=speed[1],
            non_finite_batches=state.non_finite_batches,
            validation=validation,
        )


def _by_name(values: Mapping[int, float], segments: tuple[str, ...]) -> dict[str, float]:
    return {segments[segment]: value for segment, value in values.items()}


def _with_segment_names(norms: Mapping[str, float], segments: tuple[str, ...]) -> dict[str, float]:
    """Return the norms with each expert under its segment's name, where names are known."""
    experts = {f"{EXPERT}/{number}": f"{EXPERT}/{name}" for number, name in enumerate(segments)}
    return {experts.get(name, name): norm for name, norm in norms.items()}


def _end(state: LoopState, settings: LoopSettings, stages: TrainingStages | None, *, asked: bool) -> str | None:
    """Return why the run ends after this step, or None."""
    if state.step >= settings.max_steps:
        return "budget"
    if state.validations_without_gain >= settings.patience and (stages is None or stages.is_last):
        return "patience"
    return "asked" if asked else None
