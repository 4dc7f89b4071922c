"""The embedding tower: pre-trained here on the training split's positives, or imported; kept once made."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recsys.artifacts.pretrained_tower import load_tower, save_tower
from recsys.build import build_spec
from recsys.config import (
    HistoryTowerConfig,
    ImportedTowerConfig,
    PretrainedTowerConfig,
    RunConfig,
    SequenceTowerConfig,
    TowerConfig,
    TrainingConfig,
    TwoTowerConfig,
)
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import DataError
from recsys.progress import Progress
from recsys.run.assemble import Assembly, assemble, begin_ahead, loop_settings, with_budget
from recsys.run.imported_vectors import SPLITS, attributes_of, require_learning, traffic_of
from recsys.run.planned_cluster import planning_of
from recsys.run.pretrain_history import grades_of, history_objective
from recsys.run.pretrain_judged import retrieval_quality, validation_loss
from recsys.run.pretrain_sequences import SequenceTask, sequence_task
from recsys.run.record import attach_plan, open_store, recorded_by_first, run_params, step_metrics
from recsys.run.result_keys import code_of, rows_of, settings_of
from recsys.run.streams import (
    TRAIN,
    VALIDATION,
    dataset_uses,
    divided_days,
    require_rows,
    scoring_stream,
    started,
    training_stream,
)
from recsys.run.together import run_stage_together
from recsys.run.warm_start import WarmStart
from recsys.scheduling.stage import Stage, input_fingerprint, is_up_to_date
from recsys.sharding.divided_state import divided_state
from recsys.sharding.first_process import is_first
from recsys.sharding.processes import ProcessContext, device_name
from recsys.sharding.whole_state import whole_in_first
from recsys.streaming.loader import BatchStream
from recsys.towers.any_tower import build_tower
from recsys.towers.artifact import TowerArtifact
from recsys.towers.embedding import EmbeddingTower
from recsys.towers.history import HistoryTower
from recsys.towers.history_pretraining import HistoryObjective
from recsys.towers.imported import import_tower
from recsys.towers.pretraining import TwoTowerObjective, count_positives, log_popularity
from recsys.towers.sequence import SequenceTower
from recsys.towers.version import version_of, with_version
from recsys.tracking import names
from recsys.tracking.run import TrackedRun, start_run
from recsys.training.loop import LoopState, train_steps
from recsys.training.modes import END_TO_END
from recsys.training.snapshot import BestWeights
from recsys.training.stages import LOG_LOSS, TrainingStage

_TOWER = "tower"
_LARGEST_BATCH = 4096  # every row of a batch is a negative for the others, so more help
_ROWS_SEEN = 2_000_000
# A tower is made before the ranker is, and not measured on the test split.
_NO_EFFECT_ON_TOWER = (
    *("data", "network", "composition", "training_mode", "evaluation.ranking", "ablation", "daily"),
    *("training.table_precision", "training.largest_batch", "training.compile"),
    *("training.table_l2", "training.id_dropout", "training.embedding_dropout", "training.average_decay"),
    *("training.objective", "training.listwise_log_loss"),
)
# It has no segments, checkpoints or lists to rank either, so its params have "none" there.
_NOT_RECORDED = (
    *(key for key in _NO_EFFECT_ON_TOWER if key != "data"),
    *(f"training.{key}" for key in ("segment_view_every", "checkpoint_every", "keep_checkpoints")),
)
_RATES = ("embedding_tower", "embedding_tower_tables")
PRETRAIN = "pretrain"
"""The arm, and the kind, of a pre-training's own run."""


def run(
    config: RunConfig, encoded: EncodedDataset, progress: Progress, start: WarmStart | None = None
) -> TowerArtifact:
    """Make the configured tower for this data, or load it where it is made already.

    Args:
        start: its model's tower, with rows for the new ids, takes the place of one that is made.

    Raises:
        DataError: the vectors to import are missing or damaged.
        UsageError: the start's tower is another than the configured one.
        BusyError: another process makes the same tower now.
    """
    require_rows(encoded, (TRAIN, VALIDATION))
    require_learning(config)
    stage = stage_of(config, encoded, start)

    def work(folder: Path) -> None:
        if not is_first():
            # What is learnt is learnt in all processes; the rest is the first one's.
            if start is None and not isinstance(config.tower, ImportedTowerConfig):
                _pretrain(config, encoded, progress)
            return
        if start is not None:
            artifact = start.tower(config, encoded)
        elif isinstance(config.tower, ImportedTowerConfig):
            artifact = _import(config, encoded)
        else:
            artifact = _pretrain(config, encoded, progress)
        vocabularies = {table: encoded.vocabulary(table) for table in encoded.contract.table_rows}
        versioned = with_version(artifact, version_of(artifact))
        save_tower(folder / _TOWER, versioned, encoded.contract, vocabularies)

    return load_tower(run_stage_together(stage, _place(config, stage), work).path / _TOWER, encoded.contract)


def is_made(config: RunConfig, encoded: EncodedDataset) -> bool:
    """Whether the configured tower is there already.

    Raises:
        DataError: the vectors to import are missing.
    """
    stage = stage_of(config, encoded)
    return is_up_to_date(stage, _place(config, stage))


def _place(config: RunConfig, stage: Stage) -> Path:
    return config.runtime.towers / f"{config.data.name}-{config.tower.name}-{stage.key}"


def stage_of(config: RunConfig, encoded: EncodedDataset, start: WarmStart | None = None) -> Stage:
    """What the configured tower follows from.

    Raises:
        DataError: the vectors to import are missing.
    """
    parameters, vectors = tower_settings(config), _vectors_of(config.tower)
    if start is not None:
        inputs = rows_of(encoded, ()) | vectors | {"start": start.digest}
        return Stage("pretrain", inputs, parameters, code_of(WarmStart, save_tower))
    if not isinstance(config.tower, ImportedTowerConfig):
        inputs = rows_of(encoded, (TRAIN, VALIDATION)) | vectors
        return Stage("pretrain", inputs, parameters, code_of(_pretrain, save_tower))
    # The vectors are the same whatever the rows; the receipt tells of these.
    return Stage("pretrain", rows_of(encoded, SPLITS) | vectors, parameters, code_of(_import, save_tower))


def _vectors_of(tower: TowerConfig) -> dict[str, str]:
    """The fingerprint of the vectors to import; nothing for a tower that has none."""
    if isinstance(tower, ImportedTowerConfig):
        file, key = tower.vectors, "vectors"
    elif isinstance(tower, HistoryTowerConfig) and tower.vectors is not None:
        file, key = tower.vectors.file, "vectors.file"
    else:
        return {}
    if not file.is_file():
        raise DataError(
            f"There is no file of vectors at {file} (`tower.{key}`), as seen from {Path.cwd()}. "
            f"Set tower.{key}=... to the file to import, or pre-train a tower here with tower=two_tower."
        )
    return {"vectors": input_fingerprint(file)}


def tower_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings that the configured tower follows from; vectors to import count by what is in them."""
    if isinstance(config.tower, ImportedTowerConfig):
        return settings_of(config, (*_NO_EFFECT_ON_TOWER, "training", "evaluation", "runtime", "tower.vectors"))
    of_file = ("tower.vectors.file",) if isinstance(config.tower, HistoryTowerConfig) and config.tower.vectors else ()
    pretraining = replace(config, training=_training_of(config.tower, config.training))
    return settings_of(pretraining, (*_NO_EFFECT_ON_TOWER, *of_file))


def _import(config: RunConfig, encoded: EncodedDataset) -> TowerArtifact:
    tower, schema = config.tower, encoded.contract.schema
    assert isinstance(tower, ImportedTowerConfig)
    vocabulary = encoded.vocabulary(schema.feature(schema.item).table)
    return import_tower(
        tower.vectors,
        vocabulary,
        schema,
        width=tower.width,
        id_column=tower.id_column,
        vector_column=tower.vector_column,
        missing=tower.missing_vectors,
        attributes=attributes_of(encoded) if tower.missing_vectors == "attributes" else None,
        traffic=traffic_of(encoded),
    )


def _pretrain(config: RunConfig, encoded: EncodedDataset, progress: Progress) -> TowerArtifact:
    """By the tower's own objective, with early stopping on validation.

    Every process calls it; of several the first has the weights.
    """
    tower_config = config.tower
    assert not isinstance(tower_config, ImportedTowerConfig)
    days, _ = divided_days(encoded, config.training.tower_day_share)
    rows = sum(encoded.days(TRAIN)[day] for day in days)
    training = _training_of(tower_config, config.training)
    config = replace(config, training=with_budget(training, rows, _LARGEST_BATCH, _ROWS_SEEN, _LARGEST_BATCH))
    context = started(config)
    task = _task(tower_config, encoded, days, config, context)
    settings = loop_settings(config.training, task.stream.num_batches)
    assembly = _assembly(task.objective, config, encoded, settings.max_steps, context)
    if isinstance(task.stream, BatchStream):
        begin_ahead(task.stream, assembly.wrapped, context)
    best, state = BestWeights(assembly.wrapped), LoopState()

    def validate() -> dict[str, float]:
        return {LOG_LOSS: validation_loss(assembly.wrapped, task.validation)}

    with recorded_by_first(lambda: _record_of(config, encoded, days, context)) as tracked:
        attach_plan(tracked, assembly.wrapped.table_plan)
        for report in train_steps(
            assembly.wrapped,
            assembly.optimizers,
            task.stream,
            lambda module, batch: module(batch),
            settings,
            context,
            state=state,
            best=best,
            average=assembly.average,
            validate=validate,
            checkpoint=lambda _: None,
            should_stop=lambda: False,
        ):
            progress("pre-training the tower", report.step, settings.max_steps)
            tracked.log_step(report.step, step_metrics(report, _RATES))
        best.restore()
        progress("pre-training the tower", settings.max_steps, settings.max_steps)
        tower = task.objective.embedding_tower
        weights = whole_in_first(divided_state(tower))
        if isinstance(task, SequenceTask):
            weights = task.with_attributes(weights, context.device)
        quality = retrieval_quality(config, encoded, tower, weights, context)
        tracked.log_final({f"pretrain/{name}": value for name, value in quality.items()})
    provenance = {
        "made_by": "pre-training on the training split",
        "objective": task.objective.says,
        "validation_loss": state.best_log_loss,
        **{f"validation_{name}": value for name, value in quality.items()},
        "best_step": state.best_step,
        "data": encoded.contract.fingerprint,
    }
    return TowerArtifact(tower.spec, weights, provenance)


def _assembly(
    objective: nn.Module, config: RunConfig, encoded: EncodedDataset, steps: int, context: ProcessContext
) -> Assembly:
    planning = planning_of(config, encoded.contract.schema, context)
    return assemble(objective, config.training, [TrainingStage(END_TO_END)], {}, steps, context, planning)


def _training_of(tower: PretrainedTowerConfig, training: TrainingConfig) -> TrainingConfig:
    """The loop's budget and rates for pre-training; what the tower does not say is as in training.

    Its tables are float32 in any case: a ranker in which they stay frozen keeps their bits.
    """
    return replace(
        training,
        table_precision="float32",
        average_decay=tower.average_decay if isinstance(tower, HistoryTowerConfig) else None,
        seed=tower.seed,
        batch_size=tower.batch_size,
        epochs=tower.epochs,
        learning_rate=tower.learning_rate,
        table_learning_rate=tower.table_learning_rate,
        weight_decay=training.weight_decay if isinstance(tower, TwoTowerConfig) else tower.weight_decay,
        # An epoch of sequences has a step for hundreds of users, and teaches all of their events.
        validations_per_epoch=1 if isinstance(tower, SequenceTowerConfig) else training.validations_per_epoch,
    )


@dataclass(frozen=True)
class _RowTask:
    """What a tower learns from the rows as they are, and by."""

    stream: BatchStream
    validation: BatchStream
    objective: TwoTowerObjective | HistoryObjective


def _record_of(config: RunConfig, encoded: EncodedDataset, days: Sequence[str], context: ProcessContext) -> TrackedRun:
    return start_run(
        open_store(config),
        f"pretrain/{config.tower.name}",
        run_params(config, PRETRAIN, device_name(context.device), _NOT_RECORDED),
        {names.TAG_KIND: PRETRAIN, names.TAG_CONTRACT: encoded.contract.fingerprint},
        dataset_uses(encoded, config.data.name, (TRAIN, VALIDATION), days),
        system_metrics=config.tracking.system_metrics,
    )


def _task(
    tower: PretrainedTowerConfig,
    encoded: EncodedDataset,
    days: Sequence[str],
    config: RunConfig,
    context: ProcessContext,
) -> _RowTask | SequenceTask:
    torch.manual_seed(tower.seed)
    module = build_tower(build_spec(tower, encoded.contract.schema), encoded.contract)
    if isinstance(module, SequenceTower):
        return sequence_task(config, module, encoded, days, context)
    extras = grades_of(encoded) if isinstance(tower, HistoryTowerConfig) else ()
    stream = training_stream(config, encoded, context, days, extras)
    if isinstance(tower, HistoryTowerConfig):
        assert isinstance(module, HistoryTower)
        objective: TwoTowerObjective | HistoryObjective = history_objective(tower, module, encoded)
    else:
        assert isinstance(tower, TwoTowerConfig)
        assert isinstance(module, EmbeddingTower)
        objective = _two_tower_objective(tower, module, encoded, days, config)
    # The items of a batch are one another's negatives, so the processes share the batches that one would read.
    validation = scoring_stream(config, encoded, VALIDATION, context, extras, in_step=context.world_size > 1)
    return _RowTask(stream, validation, objective.to(context.device))


def _two_tower_objective(
    tower: TwoTowerConfig, module: EmbeddingTower, encoded: EncodedDataset, days: Sequence[str], config: RunConfig
) -> TwoTowerObjective:
    contract, schema = encoded.contract, encoded.contract.schema
    # Counted over all ranks' rows by each of them, so that all correct by the same popularity.
    alone = replace(started(config), rank=0, world_size=1)
    counts = count_positives(
        scoring_stream(config, encoded, TRAIN, alone, days=days),
        schema.item,
        contract.table_rows[schema.feature(schema.item).table],
    )
    return TwoTowerObjective(module, schema.item, log_popularity(counts), tower.temperature)
