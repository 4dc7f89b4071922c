"""The training loop: a plain generator of reports. It logs nothing and writes nothing.

What one step does is in `step.py`. Here is the order of the run: when to report, to validate and to keep a
checkpoint, and when to end.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import nn

from recsys.errors import DataError
from recsys.features.batch import Batch
from recsys.monitoring.device_idle import device_idle
from recsys.monitoring.out_of_memory import raise_explained
from recsys.monitoring.throughput import Throughput
from recsys.sharding.inventory import unwrapped
from recsys.sharding.processes import ProcessContext, gathered, wait_for_device
from recsys.training.optimizer import RankerOptimizers
from recsys.training.reports import Reporter, StepReport
from recsys.training.snapshot import BestWeights
from recsys.training.stages import LEAST_GAIN, LOG_LOSS, TrainingStages
from recsys.training.step import Counts, Objective, Stepper, StepSettings
from recsys.training.training_stream import TrainingStream
from recsys.training.weight_average import WeightAverage

# What takes memory between the steps: a batch on its way, a validation, what a report or a checkpoint gathers.
_BETWEEN_STEPS = "`training.batch_size` or `evaluation.batch_size`"


@dataclass(frozen=True)
class LoopSettings(StepSettings):
    """How long and how often, counted in steps from the run's beginning; and what every step does alike.

    Attributes:
        report_every: steps from one report to the next, where `report_seconds` is None.
        report_seconds: seconds of training from one report to the next; a report is then read a step late, so that a
            GPU has that step to compute meanwhile. What training does, and which steps read norms, is the same.
        validates_start: whether the first weights are measured too, and kept where no later ones are better by more
            than the `LEAST_GAIN` that validation returns. For a model that starts as something fitted.
        patience: validations in a row without a better log loss that end the run.
        norms_every: steps from one reading of the gradient norms to the next; such a step is reported too, as is one
            that reads the tower's gradient by segment.
    """

    max_steps: int
    report_every: int
    report_seconds: float | None
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
class _Due:
    """What follows a step.

    Attributes:
        end: whether some process was asked to stop.
        settled: whether the device is waited for, so that none of what is queued runs in time that is not training's.
    """

    validation: bool
    report: bool
    checkpoint: bool
    end: bool
    settled: bool


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
    average: WeightAverage | None = None,
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
        average: is validated, and kept as the best, in place of the weights, with which training goes on.

    Raises:
        TrainingError: memory ran out, or three batches in a row gave a loss or gradient that is not finite.
        DataError: the stream has no batches.
    """
    loop = _Loop(ranker, optimizers, objective, settings, context, state, average)
    try:
        loop.start(validate, best)
        throughput = Throughput(state.rows_seen, stream.wait_seconds, loop.idle)
        reporter = Reporter(loop.stepper, optimizers, stream, throughput, stages, settings.segments, context)
        state.ended = _end(state, settings, stages, asked=False)
        while state.ended is None:
            for batch in _epoch(stream, state):
                asks = loop.train_on(batch, throughput, should_stop)
                due, validation = loop.due(asks), None
                if due.validation:
                    with throughput.paused():
                        validation = loop.validate(validate, best)
                state.ended = _end(state, settings, stages, asked=due.end)
                if due.report:
                    reporter.begin(state.step, state.rows_seen, validation)
                yield from reporter.ready(state.step, is_settled=due.settled)
                if stages is not None and stages.advance(state.step, validation):
                    state.validations_without_gain = 0
                if due.checkpoint or state.ended:
                    loop.save(checkpoint, throughput)
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
        idle: measures the device between them.
    """

    def __init__(
        self,
        ranker: nn.Module,
        optimizers: RankerOptimizers,
        objective: Objective,
        settings: LoopSettings,
        context: ProcessContext,
        state: LoopState,
        average: WeightAverage | None,
    ) -> None:
        self.stepper = Stepper(ranker, optimizers, objective, settings, context, state)
        self.idle = device_idle(context.device)
        self._module = unwrapped(ranker)
        self._settings, self._context, self._state, self._average = settings, context, state, average

    def start(self, validate: Callable[[], Mapping[str, float]], best: BestWeights) -> None:
        """Make ready for the first step; measure the weights before it where they count."""
        self._module.train()
        if self._settings.validates_start and self._state.step == 0:
            self.validate(validate, best)

    def train_on(self, batch: Batch, throughput: Throughput, should_stop: Callable[[], bool]) -> list[bool]:
        """Take one step, and return whether any process was asked to stop, and whether a report is late.

        Several processes tell one another in the step's own exchange, so what comes during a step counts after the
        next; alone it counts at once.
        """
        by_seconds = self._settings.report_seconds

        def asks() -> list[bool]:
            return [should_stop(), by_seconds is not None and throughput.seconds() >= by_seconds]

        is_alone = self._context.world_size == 1
        with_norms, with_segments = self._readings(self._state.step + 1)
        with self.idle.step():
            rows, *asked = self.stepper.take_step(
                self._state.step,
                batch,
                with_norms=with_norms,
                with_segments=with_segments,
                known=[len(batch), *([] if is_alone else asks())],
            )
            if self._average is not None:
                self._average.update(self._state.step)
        self._state.step += 1
        self._state.rows_seen += int(rows)
        return asks() if is_alone else [number > 0 for number in asked]

    def due(self, asks: Sequence[bool]) -> _Due:
        """Return what follows the step just taken, the same in every process; waits for the device to settle it."""
        step, settings = self._state.step, self._settings
        by_seconds = settings.report_seconds
        asked, is_late = asks
        is_validating = step >= settings.max_steps or step % settings.validate_every == 0
        is_saving = step % settings.checkpoint_every == 0
        is_in_turn = is_late if by_seconds is not None else step % settings.report_every == 0
        is_reporting = is_validating or asked or is_in_turn or any(self._readings(step))
        is_settled = is_validating or asked or is_saving or (is_reporting and by_seconds is None)
        if is_settled:
            wait_for_device(self._context.device)
        return _Due(is_validating, is_reporting, is_saving, asked, is_settled)

    def _readings(self, step: int) -> tuple[bool, bool]:
        """Whether a step, counted from 1, reads the gradient norms, and the tower's gradient by segment."""
        settings = self._settings
        view_every = settings.segment_view_every if settings.segments else 0
        return step % settings.norms_every == 0, view_every > 0 and step % view_every == 0

    def validate(self, validate: Callable[[], Mapping[str, float]], best: BestWeights) -> dict[str, float]:
        """Validate, and keep the weights, or their average, if they are the best so far."""
        with nullcontext() if self._average is None else self._average.in_place():
            return self._validated(validate, best)

    def save(self, checkpoint: Callable[[LoopState], None], throughput: Throughput) -> None:
        """Keep a checkpoint of the state, its counts up to date."""
        with throughput.paused():
            self.stepper.read()
            checkpoint(self._state)

    def _validated(self, validate: Callable[[], Mapping[str, float]], best: BestWeights) -> dict[str, float]:
        # The first process's: another machine may round differently, and all must judge alike.
        figures = dict(gathered(dict(validate()))[0])
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


def _end(state: LoopState, settings: LoopSettings, stages: TrainingStages | None, *, asked: bool) -> str | None:
    """Return why the run ends after this step, or None."""
    if state.step >= settings.max_steps:
        return "budget"
    if state.validations_without_gain >= settings.patience and (stages is None or stages.is_last):
        return "patience"
    return "asked" if asked else None
