"""One run while it lasts: its steps, its checkpoints, its measurement and its record."""

import json
import logging
from pathlib import Path
from typing import Any

from torch import nn

from recsys.artifacts.checkpoint import newest_checkpoint
from recsys.artifacts.checkpoint_writer import CheckpointWriter
from recsys.build import build_table_l2
from recsys.config import config_document
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import DataError
from recsys.evaluation.ranking import RankingEvaluation, evaluate_ranking, save_ranking
from recsys.evaluation.scores import ranker_score
from recsys.evaluation.split_evaluation import Evaluation, evaluate, predict
from recsys.evaluation.stored_predictions import save_predictions
from recsys.files import canonical_json, write_text_atomically
from recsys.monitoring.cost import Cost, CostMeter
from recsys.progress import Progress
from recsys.run.assemble import ReadyRanker, loop_settings
from recsys.run.curves import CurveFile, load_curves
from recsys.run.drift_report import drift_report, record_drift
from recsys.run.drift_watch import DriftWatch, watched
from recsys.run.evidence import StageContracts, restore_proven
from recsys.run.fitted_baselines import evaluated, validation_of
from recsys.run.folder import ARM, CHECKPOINTS, PREDICTIONS, QUERIES, RESULT, TABLE_PLAN, RunIdentity, RunResult
from recsys.run.provenance import StartOfRun, WatchedStream, counts_of_all
from recsys.run.rank_nearest import RankedNearest, nearest_layout, rank_nearest
from recsys.run.record import (
    CUTOFF,
    attach_calibration,
    attach_gates,
    attach_gradient_norms,
    attach_learning_curves,
    attach_plan,
    cost_metrics,
    final_metrics,
    step_metrics,
)
from recsys.run.serving import export_run
from recsys.run.stopping import StopRequest
from recsys.run.streams import RANKING_TEST, TEST, dataset_uses, scoring_memory, scoring_stream
from recsys.sharding.plan_document import plan_document
from recsys.towers.artifact import TowerArtifact
from recsys.towers.version import version_of
from recsys.tracking import names
from recsys.tracking.run import TrackedRun
from recsys.training import snapshot
from recsys.training.loop import LoopState, train_steps
from recsys.training.snapshot import BestWeights
from recsys.training.table_l2 import with_table_l2

_MODEL_NAME = "ranker"
logger = logging.getLogger("recsys.run")
TEST_EXTRAS = ("user_key", "true_probability")
RANKING_EXTRAS = ("query", "user_key", "is_new_to_user", "log_sampling_rate")


class Session:
    """One run's parts while it lasts."""

    def __init__(
        self, identity: RunIdentity, encoded: EncodedDataset, artifact: TowerArtifact, ready: ReadyRanker
    ) -> None:
        self._identity, self._encoded, self._artifact = identity, encoded, artifact
        self._config, self._context, self._baselines = ready.config, ready.context, ready.baselines
        self._objective = ready.objective
        assembly, stream = self._assembly, self._stream = ready.assembly, ready.stream
        self._state, self._best, self._average = LoopState(), BestWeights(assembly.wrapped), assembly.average
        self._spool, self._contracts = "", StageContracts(assembly.stages, assembly.optimizers)
        self._start, self._watched = StartOfRun(assembly.wrapped, stream), WatchedStream(stream)
        # Before a checkpoint is loaded: what later weights are held against is how the run began.
        self._validate = validation_of(assembly.wrapped, ready.start, ready.config, encoded, ready.context)
        moves = ready.config.training_mode.moves_tower
        self._drift = DriftWatch(assembly.wrapped, ready.config, encoded, ready.context) if moves else None
        self._spent: Cost | None = None  # by the parts of the run before this one
        self._meter = CostMeter(ready.context.device)

    @property
    def _wrapped(self) -> nn.Module:
        return self._assembly.wrapped

    def load_checkpoint(self) -> str:
        """Go to the newest complete checkpoint of the run's folder; return the id of its tracked run.

        An arm of a study that was stopped before its first checkpoint starts afresh: the id is empty.

        Raises:
            DataError: there is none, and the run is no arm.
        """
        folder = self._identity.folder / CHECKPOINTS
        saved = newest_checkpoint(folder, self._encoded.contract, logger.warning)
        if saved is None:
            if self._identity.kind == ARM:
                return ""
            raise DataError(f"{folder} holds no checkpoint to resume from. Start the run afresh without --resume.")
        stages = self._assembly.stages
        stages.go_to(saved.facts["stages"])  # first, since it says which optimizer state there is
        optimizers = self._assembly.optimizers
        state = snapshot.load_state_dict(saved, self._wrapped, optimizers, self._watched, self._best, self._average)
        stages.confirm()  # a checkpoint that holds another tower is found out before the first step
        self._state = LoopState.from_document(state)
        self._spent = Cost(**saved.facts["cost"])
        spool: str = saved.facts["spool"]
        return spool

    def describe(self, tracked: TrackedRun) -> None:
        """Attach what the run is made of."""
        self._spool = tracked.spool_id
        tracked.attach("config.json", json.dumps(config_document(self._config), indent=2))
        self._contracts.attach(tracked)
        plan = self._assembly.wrapped.table_plan
        attach_plan(tracked, plan)
        if plan and self._context.is_first:
            write_text_atomically(self._identity.folder / TABLE_PLAN, canonical_json(plan_document(plan)))
        tracked.attach("tower_provenance.json", json.dumps(dict(self._artifact.provenance), indent=2, default=str))
        tracked.attach("contract.json", self._encoded.contract.to_json())
        for name, text in self._identity.notes.items():
            tracked.attach(name, text)

    def train(self, tracked: TrackedRun, request: StopRequest, progress: Progress) -> Cost:
        """Take the steps; return what they cost, those before the checkpoint that this run goes on from included."""
        folder, keep = self._identity.folder / CHECKPOINTS, self._config.training.keep_checkpoints
        with CheckpointWriter(folder, self._encoded.contract, keep, self._context) as writer:
            return self._take_steps(writer, tracked, request, progress)

    def _take_steps(
        self, writer: CheckpointWriter, tracked: TrackedRun, request: StopRequest, progress: Progress
    ) -> Cost:
        segments = self._encoded.contract.schema.segments
        settings = loop_settings(self._config.training, self._stream.num_batches, segments)
        stages = self._assembly.stages
        self._meter = CostMeter(self._context.device, self._spent)
        curves = CurveFile(self._identity.folder, self._state.step) if self._context.is_first else None
        label = f"training {self._identity.name}"
        for report in train_steps(
            self._wrapped,
            self._assembly.optimizers,
            self._watched,
            with_table_l2(self._objective.loss, build_table_l2(self._config.training)),
            settings,
            self._context,
            state=self._state,
            best=self._best,
            validate=watched(self._validate, self._drift, self._state, tracked),
            checkpoint=lambda state: self._save_checkpoint(writer, state),
            should_stop=lambda: writer.went_well() and request(),
            stages=stages,
            average=self._average,
        ):
            progress(label, report.step, settings.max_steps)
            self._contracts.attach(tracked)
            metrics = step_metrics(report) | {names.STAGE: float(report.stage)}
            tracked.log_step(report.step, metrics)
            if curves is not None:
                curves.add(report.step, metrics)
        if self._state.ended != "asked":
            progress(label, settings.max_steps, settings.max_steps)
        writer.wait()  # its time is the run's as well
        return self._meter.read()

    def finish(self, tracked: TrackedRun, cost: Cost, progress: Progress) -> RunResult:
        """Prove that what was frozen is unchanged, measure the best weights, and write the result."""
        proof = restore_proven(tracked, lambda: self._assembly.stages.record(self._state.step), self._best)
        config, encoded, folder = self._config, self._encoded, self._identity.folder
        stream = scoring_stream(config, encoded, TEST, self._context, TEST_EXTRAS)
        with scoring_memory(config, self._context):
            predictions = predict(self._wrapped, stream)
        evaluation = evaluate(predictions, encoded.contract.schema.segments)
        scores = evaluation.flat_metrics("")
        if ranking := self._rank(progress):
            if self._context.is_first:
                save_ranking(ranking.ranker if isinstance(ranking, RankedNearest) else ranking, folder / QUERIES)
            scores |= ranking.flat_metrics() if isinstance(ranking, RankedNearest) else ranking.flat_metrics("")
        lines = self._assembly.optimizers.contract()
        budget = loop_settings(config.training, self._stream.num_batches).max_steps
        result = RunResult(
            name=self._identity.name,
            spool_id=tracked.spool_id,
            scores=scores,
            frozen_proof=proof,
            best_step=self._state.best_step or 0,
            learning_parameters=sum(line.elements for line in lines if line.is_trainable),
            cost=cost,
            record=self._start.record(self._watched, budget, self._state),
            optimizers=self._contracts.summaries,
            baselines=evaluated(self._baselines, config, encoded, TEST, self._context),
        )
        progress(f"exporting {self._identity.name}", 0, 0)
        model, version = export_run(folder, config, self._artifact, self._wrapped, encoded)
        counts = counts_of_all(self._stream)
        moved = self._drift.measure() if self._drift else {}
        if not self._context.is_first:
            return result
        save_predictions(predictions, folder / PREDICTIONS)
        write_text_atomically(folder / "evaluation.json", evaluation.to_json())
        tracked.set_tags({names.TAG_TOWER_VERSION: version.version, names.TAG_TOWER_DIGEST: version.digest})
        if self._drift:
            items, limit = self._drift.items, config.training_mode.max_drift
            report = drift_report(moved, items, encoded, version_of(self._artifact), version, limit)
            record_drift(tracked, report, moved, items, encoded, folder)
        self._record(tracked, result, evaluation, model, counts)
        write_text_atomically(folder / RESULT, result.to_json())
        return result

    def _rank(self, progress: Progress) -> RankingEvaluation | RankedNearest | None:
        """Rank the test queries, whose candidates were prepared or are looked for now; None where there are none."""
        config, encoded = self._config, self._encoded
        if not config.evaluation.ranking:
            return None
        if layout := nearest_layout(encoded):
            return rank_nearest(config, encoded, layout, self._wrapped, self._context, TEST, CUTOFF, progress)
        if not encoded.rows(RANKING_TEST):
            return None
        stream = scoring_stream(self._config, self._encoded, RANKING_TEST, self._context, RANKING_EXTRAS)
        schema = self._encoded.contract.schema
        scores = {"ranker": ranker_score(self._wrapped)}
        return evaluate_ranking(scores, stream, schema.segments, CUTOFF, progress, schema.item)["ranker"]

    def _record(
        self, tracked: TrackedRun, result: RunResult, evaluation: Evaluation, model: Path, counts: dict[str, int]
    ) -> None:
        tracked.log_model(_MODEL_NAME, model)
        for split, metrics in final_metrics(result.scores).items():
            # Lists that were made of test queries after training have no rows of their own.
            of = split if self._encoded.rows(split) else TEST
            (use,) = dataset_uses(self._encoded, self._config.data.name, (of,))
            tracked.log_dataset(use)
            tracked.log_final(metrics, dataset=use, model=_MODEL_NAME)
        tracked.log_final(cost_metrics(result.cost))
        tracked.log_final(names.baseline_metrics(result.baselines))
        if counts:
            tracked.log_final(names.stream_metrics(counts))
            tracked.attach("data_counts.json", canonical_json(counts))
        tracked.attach("evaluation.json", evaluation.to_json())
        name = self._identity.name
        curves = load_curves(self._identity.folder)
        attach_learning_curves(tracked, name, curves)
        attach_gradient_norms(tracked, name, curves)
        attach_gates(tracked, curves)
        attach_calibration(tracked, self._identity.name, evaluation)

    def _save_checkpoint(self, writer: CheckpointWriter, state: LoopState) -> None:
        parts = self._wrapped, self._assembly.optimizers, self._watched, self._best
        facts: dict[str, Any] = {"stages": self._assembly.stages.to_document(), "spool": self._spool}
        facts |= {"cost": self._meter.read().to_document()}
        writer.save(state.step, lambda: snapshot.state_dict(*parts, state.to_document(), self._average), facts)
