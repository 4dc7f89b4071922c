"""A ranker in the project's own wrapper and loop, as the benchmarks train it, the batches that it trains on over and
over, and the clock that its steps are timed by."""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.features.batch import Batch
from recsys.sharding.processes import ProcessContext
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from recsys.training.loop import LoopSettings, LoopState, train_steps
from recsys.training.objectives.label_log_loss import weighted_log_loss
from recsys.training.optimizer import DenseOptimizer, RankerOptimizers, RateSchedule
from recsys.training.reports import StepReport
from recsys.training.snapshot import BestWeights
from recsys.training.training_stream import TrainingStream

DENSE_RATE, TABLE_RATE = 1e-3, 0.02
NEVER = 10**9


def add_device(parser: argparse.ArgumentParser) -> None:
    """Let the caller say what computes."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: by the clock, see the text")


def moment(device: torch.device) -> float:
    """Seconds of this process's processors, or on a GPU of the clock once all that was asked of the GPU is done."""
    return time.process_time() if device.type == "cpu" else clock(device)


def clock(device: torch.device) -> float:
    """Seconds of the clock once all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Repeated:
    """The same batches over and over, in one endless epoch.

    What TorchRec computes from a batch's ids and keeps there is forgotten, as it is where every batch is new.
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches, self.epoch, self.wait_seconds = itertools.cycle(batches), 0, 0.0

    def __iter__(self) -> Iterator[Batch]:
        return map(_fresh, self._batches)


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    """The log loss of any model that gives one logit a row."""
    return weighted_log_loss(model(batch), batch.label, batch.weight)


class TrainingRun:
    """A ranker in the project's wrapper, with row-wise Adagrad on its tables and AdamW on its layers.

    Args:
        frozen: the parts that do not learn; `apply_training_mode` names them.
    """

    def __init__(self, ranker: nn.Module, context: ProcessContext, frozen: Sequence[str] = ()) -> None:
        parts = [name for name, _ in ranker.named_children()]
        tables: Mapping[str, TableOptimizer | None] = {
            part: None if part in frozen else TableOptimizer("rowwise_adagrad", TABLE_RATE) for part in parts
        }
        dense = {part: None if part in frozen else DenseOptimizer(DENSE_RATE, 0.0) for part in parts}
        self.wrapped = wrap_ranker(ranker, tables, context)
        schedule = RateSchedule(warmup_steps=0, total_steps=1, final_share=1.0)
        self.optimizers = RankerOptimizers(self.wrapped, dense, tables, schedule)
        self._context, self._state = context, LoopState()

    @property
    def rows_seen(self) -> int:
        """Rows trained on so far."""
        return self._state.rows_seen

    def steps(
        self,
        stream: TrainingStream,
        count: int,
        *,
        report_every: int = NEVER,
        report_seconds: float | None = None,
        norms_every: int = NEVER,
        precision: str = "float32",
        after_step: Callable[[], None] = lambda: None,
    ) -> Iterator[StepReport]:
        """Take `count` steps more through the loop; yield its reports, the last step's among them."""

        def go_on() -> bool:
            after_step()
            return False

        settings = LoopSettings(
            max_steps=self._state.step + count,
            report_every=report_every,
            report_seconds=report_seconds,
            norms_every=norms_every,
            segment_view_every=0,
            validate_every=NEVER,
            validates_start=False,
            checkpoint_every=NEVER,
            patience=NEVER,
            max_gradient_norm=None,
            precision=precision,
            segments=(),
        )
        return train_steps(
            self.wrapped,
            self.optimizers,
            stream,
            _loss,
            settings,
            self._context,
            state=self._state,
            best=BestWeights(nn.Identity()),
            validate=lambda: {"log_loss": 0.0},
            checkpoint=lambda _: None,
            should_stop=go_on,
        )


def _fresh(batch: Batch) -> Batch:
    ids = batch.sparse
    sparse = KeyedJaggedTensor(
        keys=ids.keys(),
        values=ids.values(),
        lengths=ids.lengths(),
        stride=len(batch),
        length_per_key=ids.length_per_key_or_none(),  # where the host knows it of itself, it does of every batch
    )
    # A new object: of look-ups that were begun and ids that were joined, none is there.
    return replace(batch, sparse=sparse)
