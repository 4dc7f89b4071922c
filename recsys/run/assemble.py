"""A model ready to learn: in TorchRec's engine, with optimizers and stages; and the budget and settings of its loop."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from recsys.build import build_ranker, build_rates, build_stages
from recsys.build_objective import ORDINAL, RankerObjective, build_objective
from recsys.composition.segment_rungs import COPIES_PART
from recsys.config import RunConfig, TrainingConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.datasets.row_encoder import ABOVE
from recsys.errors import UsageError
from recsys.evaluation.baselines import LOGISTIC, LogisticRanker
from recsys.monitoring.out_of_memory import out_of_memory_explained
from recsys.progress import Progress
from recsys.run import fitted_baselines
from recsys.run.batch_size import largest_batch
from recsys.run.planned_cluster import planning_of
from recsys.run.seen_ids import seen_ids
from recsys.run.streams import TRAIN, divided_days, ranker_stream, started
from recsys.run.warm_start import WarmStart
from recsys.sharding.input_ahead import InputAhead
from recsys.sharding.inventory import WrappedRanker
from recsys.sharding.plan_rules import Planning
from recsys.sharding.processes import ProcessContext, draw_apart
from recsys.sharding.sharding_plan import TableMemory
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from recsys.streaming.loader import BatchStream
from recsys.towers.artifact import TowerArtifact, apply_tower
from recsys.training.budget import budget_for
from recsys.training.loop import LoopSettings
from recsys.training.modes import TOWER, apply_training_mode
from recsys.training.optimizer import RankerOptimizers, RateSchedule
from recsys.training.stages import TrainingStage, TrainingStages, optimizers_in
from recsys.training.weight_average import WeightAverage

_RATED_BATCH, _ROWS_SEEN = 2048, 200_000  # of a ranker whose budget follows the rows
_NORM_POINTS, _SEGMENT_POINTS = 40, 20  # what a short run's charts have at least


@dataclass(frozen=True)
class Assembly:
    """A model ready to learn: sharded, with its optimizers, and in the first of its stages.

    Attributes:
        average: of the weights that learn; None where the training keeps none.
    """

    wrapped: WrappedRanker
    optimizers: RankerOptimizers
    stages: TrainingStages
    average: WeightAverage | None


@dataclass(frozen=True)
class ReadyRanker:
    """The configured ranker before its first step, and what it learns from.

    Attributes:
        config: with the budget settled.
        stream: of the rows that it learns from, at its beginning.
        baselines: by name.
        objective: what it learns by.
        start: answers as the ranker did before its first step: the logistic baseline, or the ranker itself where it
            goes on from weights that have learnt.
    """

    config: RunConfig
    context: ProcessContext
    stream: BatchStream
    baselines: Mapping[str, LogisticRanker]
    start: nn.Module
    assembly: Assembly
    objective: RankerObjective


def ready_ranker(
    config: RunConfig,
    encoded: EncodedDataset,
    artifact: TowerArtifact,
    progress: Progress,
    start: WarmStart | None = None,
) -> ReadyRanker:
    """Fit the baselines, settle the budget, join the processes, and assemble the ranker around its tower.

    Args:
        start: weights to begin with in place of fresh ones, and `config` as its `settled` returned it.

    Raises:
        UsageError, TrainingError: see `assemble_ranker`.
        UsageError: the data lack what `training.objective` learns from.
    """
    objective = build_objective(config.training, encoded.contract)
    baselines = fitted_baselines.run(config, encoded, progress)
    config = with_ranker_budget(config, encoded)
    context = started(config)
    stream = ranker_stream(config, encoded, context)
    logistic = baselines[LOGISTIC]
    assembly = assemble_ranker(config, artifact, start or logistic, encoded, stream.num_batches, context)
    if not config.training.id_dropout:  # the step looks up other ids than those of the batch
        begin_ahead(stream, assembly.wrapped, context)
    first = assembly.wrapped if start else logistic.to(context.device)
    return ReadyRanker(config, context, stream, baselines, first, assembly, objective)


def begin_ahead(stream: BatchStream, ranker: nn.Module, context: ProcessContext) -> None:
    """Let the training stream begin the wrapped ranker's look-ups a batch ahead; a CPU would gain nothing by it."""
    if context.device.type == "cuda":
        stream.prepare = InputAhead(ranker)


def assemble(
    model: nn.Module,
    training: TrainingConfig,
    stages: Sequence[TrainingStage],
    rates: Mapping[str, float],
    total_steps: int,
    context: ProcessContext,
    planning: Planning | None,
) -> Assembly:
    """Shard the model, put it into its first stage, and give every part that learns its optimizers.

    Args:
        model: its children are its parts, one of them the embedding tower.
        rates: shares of the training's rates, by the names of `TrainingModeConfig.rates`.
        planning: how the tables are divided among several processes, as `planning_of` returned it.

    Raises:
        UsageError: the stages do not fit the tower, averaged weights lie in the host's memory, or see `Planning`.
        TrainingError: a parameter that learns would be stepped by none, or a frozen one by some; or the tables do not
            fit into memory.
    """
    apply_training_mode(model, stages[0].mode)
    dense, tables = build_rates(training, rates, [name for name, _ in model.named_children()])
    schedule = RateSchedule(
        warmup_steps=round(training.warmup_share * total_steps),
        total_steps=total_steps,
        final_share=training.final_rate_share,
    )
    # A kernel's update rule is attached when it is made: tables that thaw later need theirs from the start.
    widths = "the widths of the tower's or the network's vectors, set `training.table_kernels`, or use more processes"
    kernels = training.table_kernels.items()
    memory = {str(part): TableMemory(kernel, training.table_cache_share) for part, kernel in kernels}
    memory[COPIES_PART] = memory[TOWER]
    learning = optimizers_in(stages[-1].mode, dense, tables)[1]
    if training.average_decay is not None and context.device.type == "cuda":
        _require_near(memory, learning, planning)
    with out_of_memory_explained("while the tables were placed", widths, context.device):
        precision = training.table_precision
        wrapped = wrap_ranker(model, learning, context, None, precision, memory, planning)
    optimizers = RankerOptimizers(wrapped, *optimizers_in(stages[0].mode, dense, tables), schedule)
    average = None if training.average_decay is None else WeightAverage(wrapped, optimizers, training.average_decay)
    return Assembly(wrapped, optimizers, TrainingStages(wrapped, optimizers, stages, dense, tables), average)


def assemble_ranker(
    config: RunConfig,
    artifact: TowerArtifact,
    start: LogisticRanker | WarmStart,
    encoded: EncodedDataset,
    batches_per_epoch: int,
    context: ProcessContext,
) -> Assembly:
    """Build the configured ranker around its pre-trained tower, ready to learn in the first stage of its training mode.

    Args:
        start: what its first-order path begins as; or all of it but the tower.

    Raises:
        UsageError: the stages use up the budget or do not fit the tower, or the routes do not fit the data; the
            weights to start from do not fit the ranker; or see `planning_of`.
    """
    mode, training = config.training_mode, config.training
    seen = seen_ids(config, encoded, artifact.spec, context)
    ranker = build_ranker(
        config.network,
        config.composition,
        artifact.spec,
        encoded.contract,
        training.seed,
        adapter_rank=mode.adapter_rank,
        is_ordinal=training.objective == ORDINAL,
        rungs=None if seen is None else seen.rungs,
    )
    apply_tower(ranker.embedding_tower, artifact)
    if seen is not None:
        seen.start(ranker)
    if isinstance(start, WarmStart):
        start.load_into(ranker, encoded)
    else:
        offsets = _log_odds_from_answer(encoded) if training.objective == ORDINAL else ()
        ranker.head.start_from(float(start.intercept), start.dense_weights, start.id_weights, offsets)
    ranker.id_dropout = training.id_dropout
    ranker.interaction_network.fields.embedding_dropout.p = training.embedding_dropout
    steps = loop_settings(training, batches_per_epoch).max_steps
    rates = {str(name): share for name, share in mode.rates.items()}
    stages = build_stages(mode, batches_per_epoch, steps)
    planning = planning_of(config, encoded.contract.schema, context)
    assembly = assemble(ranker, training, stages, rates, steps, context, planning)
    draw_apart(context, training.seed)
    return assembly


def _log_odds_from_answer(encoded: EncodedDataset) -> list[float]:
    """How much greater the log-odds of each threshold of the graded label are than the label's, over training rows."""
    graded, rows = encoded.contract.schema.graded, encoded.rows(TRAIN)
    assert graded is not None
    above = encoded.profile(TRAIN)
    counts = [above.get(ABOVE + name, 0) for name in graded.names]
    # Each count is raised by one: nobody may be above the last threshold.
    log_odds = [math.log((count + 1) / (rows - count + 1)) for count in counts]
    return [each - log_odds[graded.place] for each in log_odds]


def with_budget(
    training: TrainingConfig,
    rows: int,
    largest_batch: int,
    rows_seen: int = _ROWS_SEEN,
    rated_batch: int = _RATED_BATCH,
) -> TrainingConfig:
    """Return the training with its batch size and epochs settled for so many rows, and the rates that go with them.

    Args:
        rated_batch: the batch size that the rates are meant for.
    """
    budget = budget_for(rows, largest_batch, rows_seen, rated_batch)
    if training.batch_size is None:
        training = replace(
            training,
            batch_size=budget.batch_size,
            learning_rate=training.learning_rate * budget.rate_factor,
            table_learning_rate=training.table_learning_rate * budget.rate_factor,
        )
    return replace(training, epochs=training.epochs or budget.epochs)


def with_ranker_budget(config: RunConfig, encoded: EncodedDataset) -> RunConfig:
    """Return the run with its budget settled for the rows that the ranker learns from."""
    days = encoded.days(TRAIN)
    rows = sum(days[day] for day in divided_days(encoded, config.training.tower_day_share)[1])
    training = config.training
    largest = training.batch_size or largest_batch(config, encoded)
    return replace(config, training=with_budget(training, rows, largest))


def loop_settings(training: TrainingConfig, batches_per_epoch: int, segments: tuple[str, ...] = ()) -> LoopSettings:
    """Turn epochs and validations per epoch into steps.

    Args:
        segments: the schema's, for a ranker; none where no tower is to be seen by segment.
    """
    assert training.epochs is not None  # settled by `with_budget`
    max_steps = batches_per_epoch * training.epochs
    return LoopSettings(
        max_steps=max_steps,
        report_every=training.report_every,
        report_seconds=training.report_seconds,
        norms_every=_often_enough(training.norms_every, max_steps, _NORM_POINTS),
        segment_view_every=_often_enough(training.segment_view_every, max_steps, _SEGMENT_POINTS),
        validate_every=max(1, batches_per_epoch // training.validations_per_epoch),
        validates_start=bool(segments),
        checkpoint_every=training.checkpoint_every,
        patience=training.patience,
        max_gradient_norm=training.max_gradient_norm,
        precision=training.precision,
        segments=segments,
    )


def _require_near(
    memory: Mapping[str, TableMemory], learning: Mapping[str, TableOptimizer | None], planning: Planning | None
) -> None:
    """Refuse to average tables that a GPU has in the host's memory: each step would read and write them whole."""
    far = {
        f"training.table_kernels.{part}": memory[part].kernel
        for part, table_optimizer in learning.items()
        if table_optimizer is not None and part in memory and memory[part].kernel != "fused"
    }
    if planning:
        kernels = planning.rules.table_kernels.items()
        far |= {f"sharding.tables.{name}.kernel": " or ".join(each) for name, each in kernels if each != ("fused",)}
    for key, kernel in far.items():
        raise UsageError(
            f"`training.average_decay` averages whole tables in every step, and `{key}` is {kernel}, which puts tables "
            f"into the host's memory. Let it be fused, or set `training.average_decay=null`."
        )


def _often_enough(every: int, steps: int, points: int) -> int:
    """Return `every`, or less where the run is too short to give a chart that many points; 0 stays 0."""
    return min(every, max(1, steps // points))
