"""One run: one composition, one training mode, one seed; trained, proven, measured, recorded."""

import argparse
import json
import secrets
from datetime import UTC, datetime
from pathlib import Path

from pipelines import baselines, prepare, pretrain
from pipelines.audit import flow_report, require_flow
from pipelines.console import console, progress_bars, show_table
from pipelines.fitting import (
    TEST,
    TRAIN,
    VALIDATION,
    cached_tower,
    dataset_uses,
    divided_days,
    fitted_ranker,
    require_rows,
    started,
    training_stream,
    with_ranker_budget,
)
from pipelines.job import Job
from pipelines.recording import open_store, run_params
from pipelines.run_folder import CONFIG, RunIdentity, RunResult, load_result
from pipelines.stopping import stoppable
from recsys.config import RunConfig, config_document
from recsys.datasets.encoded import EncodedDataset
from recsys.evaluation.baselines import LOGISTIC
from recsys.files import ensure_writable, write_text_atomically
from recsys.progress import Progress
from recsys.sharding.processes import device_kind, device_name
from recsys.towers.artifact import TowerArtifact
from recsys.tracking import names
from recsys.tracking.run import start_run
from recsys.tracking.store import TrackingStore


def run(config: RunConfig, identity: RunIdentity, progress: Progress, *, resume: bool = False) -> RunResult:
    """Train one ranker in one training mode, and measure its best weights on the test split.

    Raises:
        DataError, TrainingError, CannotWriteError: see the steps; nothing half-written carries a final name.
        SystemExit, KeyboardInterrupt: a signal came; a checkpoint stands, and `resume` goes on from it.

    Args:
        resume: go on with a run that was stopped; one that has finished stays as it is, its record and times too.
    """
    if resume and (finished := load_result(identity.folder)):
        return finished
    # The run's own folder is made later, by what first stands in it: a start that fails leaves none.
    for folder in (identity.folder.parent, config.runtime.towers):
        ensure_writable(folder)
    device_kind(config.runtime.device)
    store = open_store(config)
    encoded = prepare.run(config, progress)
    require_rows(encoded, (TRAIN, VALIDATION, TEST))
    artifact = pretrain.run(config, encoded, progress)
    return fit_and_measure(config, identity, store, encoded, artifact, progress, resume=resume)


def fit_and_measure(
    config: RunConfig,
    identity: RunIdentity,
    store: TrackingStore,
    encoded: EncodedDataset,
    artifact: TowerArtifact,
    progress: Progress,
    *,
    resume: bool,
) -> RunResult:
    """Do what `run` promises, with the rows prepared and the tower made: all that a ranker's result follows from."""
    beside = baselines.run(config, encoded, progress)
    config = with_ranker_budget(config, encoded)
    context = started(config)
    _, days = divided_days(encoded, config.training.tower_day_share)
    stream = training_stream(config, encoded, context, days)
    fitted = fitted_ranker(config, artifact, beside[LOGISTIC], encoded, stream.num_batches, context)
    job = Job(config, identity, encoded, artifact.spec, context, fitted, stream, beside)
    spool = job.load_checkpoint() if resume else ""
    write_text_atomically(identity.folder / CONFIG, json.dumps(config_document(config), indent=2) + "\n")
    with (
        stoppable() as request,
        start_run(
            store,
            identity.name,
            run_params(config, identity.arm, device_name(context.device), identity.unused),
            identity.tags() | {names.TAG_CONTRACT: encoded.contract.fingerprint},
            dataset_uses(encoded, config.data.name, (TRAIN, VALIDATION), days),
            system_metrics=config.tracking.system_metrics,
            resume=spool,
        ) as tracked,
    ):
        job.describe(tracked, artifact)
        require_flow(tracked, flow_report(config, encoded, fitted, context))
        with cached_tower(fitted.wrapped, config.training_mode.cache_megabytes, encoded, context, tracked.attach):
            cost = job.train(tracked, request, progress)
        request.raise_if_asked()
        return job.finish(tracked, cost, progress)


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Train, and print the scores and where everything is."""
    arm = f"{config.training_mode.name}/{config.composition.name}"
    name = names.run_name(arm, seed=config.training.seed)
    if arguments.resume:
        folder = Path(arguments.resume)
        if load_result(folder):
            console.print("This run has finished: nothing is done, and its record stays as it is.")
    else:
        # Two that start within one second must not write into one folder.
        stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        folder = config.runtime.runs / config.data.name / f"{stamp}-{name.replace('/', '-')}"
    with progress_bars() as progress:
        result = run(config, RunIdentity(folder, name, arm, "train"), progress, resume=bool(arguments.resume))
    rows = [(metric, f"{value:.4f}") for metric, value in result.metrics.items() if "support" not in metric]
    show_table(
        f"{result.name}: {result.steps} steps, the best weights from step {result.best_step}", ("metric", "value"), rows
    )
    baselines.show_beside(result.name, result.scores, result.baselines)
    if result.best_step == 0:
        console.print(
            "No validation was better than the start by more than chance, so the ranker is kept as it started: as the "
            "logistic regression of its first-order path.",
            soft_wrap=True,
        )
    for part, proof in result.frozen_proof.items():
        when = f"from step {proof['from_step']} to {proof['to_step']}"
        digests = f"digest {proof['digest_before']} before and {proof['digest_after']} after"
        console.print(f"{part} was unchanged {when}: {digests}", soft_wrap=True)
    console.print(f"Run folder: {folder}\nNext: recsys ui", soft_wrap=True, markup=False)
