"""What a training run says of itself on its way: the host's numbers at once, the device's when they have come over."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist

from recsys.monitoring.gradient_norms import ADAPTER, EXPERT
from recsys.monitoring.throughput import Throughput
from recsys.sharding.processes import ProcessContext
from recsys.training.optimizer import RankerOptimizers
from recsys.training.stages import TrainingStages
from recsys.training.step import StepNumbers, Stepper
from recsys.training.training_stream import TrainingStream


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
        gpu_idle_share: share of its time that the device stood idle between steps, of those that it ended since the
            last report (`monitoring.device_idle`); None on a CPU.
        non_finite_batches: since the run began.
        stage: that the step was of, counted from 0.
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
    gpu_idle_share: float | None
    non_finite_batches: int
    stage: int
    validation: dict[str, float] | None


class Reporter:
    """Makes reports, each in two halves: begun right after its step, and read when the device's numbers have come.

    Args:
        stepper: takes the steps.
        stages: that the run goes through; None for one that has but one.
        segments: the S names in order; () where none are known.
    """

    def __init__(
        self,
        stepper: Stepper,
        optimizers: RankerOptimizers,
        stream: TrainingStream,
        throughput: Throughput,
        stages: TrainingStages | None,
        segments: tuple[str, ...],
        context: ProcessContext,
    ) -> None:
        self._stepper, self._optimizers, self._stream, self._throughput = stepper, optimizers, stream, throughput
        self._stages, self._segments, self._context = stages, segments, context
        self._begun: list[tuple[int, Callable[[], StepReport]]] = []  # with the steps that they are of

    def begin(self, step: int, rows_seen: int, validation: dict[str, float] | None) -> None:
        """Take the host's numbers of the step just taken, send for the device's, and begin to count anew."""
        rows_per_second, data_wait_share, gpu_idle_share = self._throughput.read(rows_seen, self._stream.wait_seconds)
        of_host = partial(
            StepReport,
            step=step,
            epoch=self._stream.epoch,
            rows_seen=rows_seen,
            learning_rates=self._optimizers.learning_rates(),
            rows_per_second=rows_per_second,
            data_wait_share=data_wait_share,
            gpu_idle_share=gpu_idle_share,
            stage=self._stages.state.stage if self._stages else 0,
            validation=validation,
        )
        self._begun.append((step, partial(self._read, of_host, self._stepper.send_numbers())))

    def ready(self, step: int, *, is_settled: bool) -> Iterator[StepReport]:
        """Yield what was begun before this step, and what was begun after it if the device has been waited for.

        A report waits for its own step alone: the device has this one to compute meanwhile. Every process calls it.

        Raises:
            TrainingError: three batches in a row were bad.
        """
        ready = [read for of, read in self._begun if is_settled or of < step]
        self._begun = self._begun[len(ready) :]
        for read in ready:
            report = read()
            # Where the device computes on, the time is training's, whatever the host does.
            with self._throughput.paused() if is_settled else nullcontext():
                yield report

    def _read(self, of_host: Callable[..., StepReport], sent: Callable[[], StepNumbers]) -> StepReport:
        numbers = sent()
        sums = torch.tensor([numbers.loss_sum, numbers.losses], dtype=torch.float64)
        if self._context.world_size > 1:
            dist.all_reduce(sums)
        view = numbers.view
        return of_host(
            loss=(sums[0] / sums[1]).item() if sums[1] else None,
            gradient_norms=_with_segment_names(numbers.norms, self._segments),
            segment_shares={} if view is None else _by_name(view.shares, self._segments),
            segment_cosines={} if view is None else _by_name(view.cosines, self._segments),
            non_finite_batches=numbers.non_finite_batches,
        )


def _by_name(values: Mapping[int, float], segments: tuple[str, ...]) -> dict[str, float]:
    return {segments[segment]: value for segment, value in values.items()}


def _with_segment_names(norms: Mapping[str, float], segments: tuple[str, ...]) -> dict[str, float]:
    """Return the norms with each expert under its segment's name, where names are known."""
    named = {f"{kind}/{number}": f"{kind}/{name}" for kind in (EXPERT, ADAPTER) for number, name in enumerate(segments)}
    return {named.get(name, name): norm for name, norm in norms.items()}
