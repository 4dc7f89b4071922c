"""One run: one composition, one training mode, one seed; trained, proven, measured, recorded."""

import json
from functools import partial

from recsys.build_objective import build_objective
from recsys.config import RunConfig, config_document
from recsys.datasets.encoded import EncodedDataset
from recsys.files import clear_leftovers, ensure_writable, write_text_atomically
from recsys.progress import Progress
from recsys.run import prepare, pretrain
from recsys.run.assemble import ready_ranker
from recsys.run.audit import audited, probes_of, require_flow
from recsys.run.cached_tower import cached_tower
from recsys.run.folder import CHECKPOINTS, CONFIG, RunIdentity, RunResult, load_result
from recsys.run.imported_vectors import attach_receipt
from recsys.run.record import open_store, recorded_by_first, run_params
from recsys.run.session import Session
from recsys.run.stopping import stoppable
from recsys.run.streams import (
    TEST,
    TRAIN,
    VALIDATION,
    dataset_uses,
    divided_days,
    require_rows,
)
from recsys.run.warm_start import WarmStart
from recsys.sharding.first_process import by_first
from recsys.sharding.processes import device_kind, device_name
from recsys.towers.artifact import TowerArtifact
from recsys.tracking import names
from recsys.tracking.run import TrackedRun, start_run
from recsys.tracking.store import TrackingStore
from recsys.training.compiled_layers import CompiledLayers, require_compiler


def run(config: RunConfig, identity: RunIdentity, progress: Progress, *, resume: bool = False) -> RunResult:
    """Train one ranker in one training mode, and measure its best weights on the test split.

    Raises:
        DataError, TrainingError, CannotWriteError: see the steps; nothing half-written carries a final name.
        SystemExit, KeyboardInterrupt: a signal came; a checkpoint is written, and `resume` goes on from it.

    Args:
        resume: go on with a run that was stopped; one that has finished stays as it is, its record and times too.
    """
    if resume and (finished := load_result(identity.folder)):
        return finished
    # The run's own folder is made later, by the first file in it: a start that fails leaves none.
    for folder in (identity.folder.parent, config.runtime.towers):
        by_first(partial(ensure_writable, folder))
    device_kind(config.runtime.device)
    if config.training.compile:
        require_compiler()
    store = open_store(config)
    encoded = prepare.run(config, progress)
    require_rows(encoded, (TRAIN, VALIDATION, TEST))
    build_objective(config.training, encoded.contract)  # refuses data without what it learns from before they are used
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
    start: WarmStart | None = None,
) -> RunResult:
    """Do what `run` promises, with the rows prepared and the tower made: all that a ranker's result follows from.

    Args:
        start: weights to begin with. Then `config` is as its `settled` returned it, `encoded` was prepared with what it
            knows, and `artifact` is its tower. A run that is resumed goes on with its checkpoint's weights.
    """
    ready = ready_ranker(config, encoded, artifact, progress, start)
    config, context, assembly = ready.config, ready.context, ready.assembly
    _, days = divided_days(encoded, config.training.tower_day_share)
    session = Session(identity, encoded, artifact, ready)
    spool = session.load_checkpoint() if resume else ""
    document = json.dumps(config_document(config), indent=2) + "\n"
    by_first(lambda: write_text_atomically(identity.folder / CONFIG, document))
    about = {names.TAG_CONTRACT: encoded.contract.fingerprint} | ({names.TAG_START: start.digest} if start else {})

    def record() -> TrackedRun:
        return start_run(
            store,
            identity.name,
            run_params(config, identity.arm, device_name(context.device), identity.unused),
            identity.tags() | about,
            dataset_uses(encoded, config.data.name, (TRAIN, VALIDATION), days),
            system_metrics=config.tracking.system_metrics,
            resume=spool,
        )

    with stoppable() as request, recorded_by_first(record) as tracked:
        # The run is ours alone by now: what a killed one had under way here is nobody's.
        by_first(lambda: clear_leftovers(identity.folder, identity.folder / CHECKPOINTS))
        session.describe(tracked)
        probes = probes_of(config, encoded, assembly, context)
        require_flow(tracked, audited(assembly, probes, build_objective(config.training, encoded.contract).loss))
        attach_receipt(tracked, artifact, assembly.wrapped, [probe.batch for probe in probes])
        layers = CompiledLayers(assembly.wrapped) if config.training.compile else None
        with cached_tower(assembly.wrapped, config, encoded, context, tracked.attach):
            cost = session.train(tracked, request, progress)
        # The last checkpoint holds all that was learnt, and a pass over the test split may take longer than a scheduler
        # waits before it kills.
        request.agree()
        request.obey_at_once()
        result = session.finish(tracked, cost, progress)
        if layers is not None:
            tracked.log_final({names.COMPILED_GRAPHS: float(layers.graphs)})
        return result
