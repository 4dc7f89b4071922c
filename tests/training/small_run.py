"""A whole run over the small ranker: wrapped, with optimizers and a stream that counts what was consumed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys.composition.conditional import SegmentGatedComposition
from recsys.features.batch import Batch
from recsys.sharding.plan_rules import Planning
from recsys.sharding.processes import ProcessContext
from recsys.sharding.sharding_plan import TableMemory
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from recsys.training.loop import LoopSettings, LoopState, train_steps
from recsys.training.modes import apply_training_mode
from recsys.training.objectives.label_log_loss import log_loss_objective
from recsys.training.optimizer import DenseOptimizer, RankerOptimizers, RateSchedule
from recsys.training.reports import StepReport
from recsys.training.snapshot import BestWeights
from recsys.training.stages import TrainingStage, TrainingStages, optimizers_in
from recsys.training.weight_average import WeightAverage
from tests.small_model import ROWS, SEGMENTS, batch_of, small_ranker

CONSTANT = RateSchedule(warmup_steps=0, total_steps=1, final_share=1.0)
PARTS = ("embedding_tower", "interaction_network", "composition", "head")


@dataclass
class Batches:
    """A stream over a list of batches, the same every epoch."""

    batches: list[Batch]
    epoch: int = 0
    wait_seconds: float = 0.0
    consumed: int = 0

    def __iter__(self) -> Iterator[Batch]:
        while self.consumed < len(self.batches):
            self.consumed += 1
            yield self.batches[self.consumed - 1]
        self.epoch, self.consumed = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "consumed": self.consumed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.consumed = state["epoch"], state["consumed"]


def small_batches() -> list[Batch]:
    """Three batches; the second has no row of segment 1."""
    return [batch_of(ROWS[2:]), batch_of(ROWS[:3]), batch_of(ROWS[::-1])]


@dataclass
class SmallRun:
    """Everything that `train_steps` needs, and what it left."""

    ranker: DistributedModelParallel
    optimizers: RankerOptimizers
    context: ProcessContext
    stages: TrainingStages | None = None
    stream: Batches = field(default_factory=lambda: Batches(small_batches()))
    state: LoopState = field(default_factory=LoopState)
    log_losses: list[float] = field(default_factory=list)  # what validation will say, in order; then 0.5 for ever
    checkpoints: list[int] = field(default_factory=list)  # at which steps
    on_checkpoint: Callable[[LoopState], None] = lambda state: None
    reports: list[StepReport] = field(default_factory=list)
    asked_at: int | None = None
    average: WeightAverage | None = None

    def __post_init__(self) -> None:
        self.best = BestWeights(self.ranker)
        self.validated: Callable[[], dict[str, float]] = lambda: {
            "log_loss": self.log_losses.pop(0) if self.log_losses else 0.5
        }

    def train(self, steps: int, objective: Any = log_loss_objective, **settings: Any) -> list[StepReport]:
        """Train up to the given step and return the reports."""
        chosen = LoopSettings(
            **{
                "max_steps": steps,
                "report_every": 1,
                "report_seconds": None,
                "norms_every": settings.get("report_every", 1),
                "segment_view_every": 0,
                "segments": SEGMENTS,
                "precision": "float32",
                "validate_every": 1000,
                "validates_start": False,
                "checkpoint_every": 1000,
                "patience": 3,
                "max_gradient_norm": None,
                **settings,
            }
        )
        for report in train_steps(
            self.ranker,
            self.optimizers,
            self.stream,
            objective,
            chosen,
            self.context,
            state=self.state,
            best=self.best,
            validate=lambda: self.validated(),
            checkpoint=self._checkpoint,
            should_stop=lambda: self.asked_at is not None and self.state.step >= self.asked_at,
            stages=self.stages,
            average=self.average,
        ):
            self.reports.append(report)
        return self.reports

    def _checkpoint(self, state: LoopState) -> None:
        self.checkpoints.append(state.step)
        self.on_checkpoint(state)


def gated_ranker(seed: int = 0) -> nn.Module:
    """The small ranker with gates and an expert per segment."""
    return small_ranker(lambda p: SegmentGatedComposition(p, len(SEGMENTS), [4]), seed=seed)


def small_run(
    context: ProcessContext,
    mode: str = "end_to_end",
    *,
    ranker: nn.Module | None = None,
    schedule: RateSchedule = CONSTANT,
    rate: float = 0.05,
    weight_decay: float = 0.1,
    table_precision: str = "float32",
    memory: Mapping[str, TableMemory] | None = None,
    planning: Planning | None = None,
) -> SmallRun:
    """Build a run in one mode; every row-wise Adagrad and AdamW learns at `rate`."""
    stages = [TrainingStage(mode)]
    run = staged_run(
        context,
        stages,
        ranker=ranker,
        schedule=schedule,
        rate=rate,
        weight_decay=weight_decay,
        table_precision=table_precision,
        memory=memory,
        planning=planning,
    )
    assert run.stages is not None
    run.stages.proof.close()  # whoever wants a proof makes one
    run.stages = None
    return run


def staged_run(
    context: ProcessContext,
    stages: Sequence[TrainingStage],
    *,
    ranker: nn.Module | None = None,
    schedule: RateSchedule = CONSTANT,
    rate: float = 0.05,
    weight_decay: float = 0.1,
    table_precision: str = "float32",
    memory: Mapping[str, TableMemory] | None = None,
    planning: Planning | None = None,
) -> SmallRun:
    """Build a run that goes from stage to stage."""
    torch.manual_seed(0)
    module = gated_ranker() if ranker is None else ranker
    apply_training_mode(module, stages[0].mode)
    parts = [name for name, _ in module.named_children()]
    tables = {part: TableOptimizer("rowwise_adagrad", rate) for part in parts if part != "composition"}
    dense = {part: DenseOptimizer(rate, weight_decay) for part in parts}
    learning = optimizers_in(stages[-1].mode, dense, tables)[1]
    wrapped = wrap_ranker(module, learning, context, table_precision=table_precision, memory=memory, planning=planning)
    optimizers = RankerOptimizers(wrapped, *optimizers_in(stages[0].mode, dense, tables), schedule)
    return SmallRun(wrapped, optimizers, context, TrainingStages(wrapped, optimizers, stages, dense, tables))
