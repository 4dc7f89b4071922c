"""A condition's budget of trials: each trains with other rates and is judged on validation; test rows are not read."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from recsys.ablation.page import ReportTable
from recsys.ablation.trial_sampling import Ranges, Trial, best_trial, next_values
from recsys.build import build_table_l2
from recsys.config import RunConfig, config_document, config_from
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import TrainingError
from recsys.files import write_text_atomically
from recsys.progress import Progress, silent
from recsys.run import prepare, pretrain
from recsys.run.assemble import loop_settings, ready_ranker
from recsys.run.cached_tower import cached_tower
from recsys.run.fitted_baselines import validation_of
from recsys.run.folder import read_record
from recsys.run.stopping import StopRequest, stoppable
from recsys.sharding.first_process import by_first
from recsys.study.job_processes import run_in_processes
from recsys.towers.artifact import TowerArtifact
from recsys.training.compiled_layers import CompiledLayers
from recsys.training.loop import LoopState, train_steps
from recsys.training.snapshot import BestWeights
from recsys.training.table_l2 import with_table_l2

TRIALS = "trials.json"


@dataclass(frozen=True)
class Search:
    """A condition's search.

    Attributes:
        name: shown with its progress.
        config: the condition's, with the trials' seed.
        ranges: of keys that it has.
        folder: where its trials are kept.
    """

    name: str
    config: RunConfig
    ranges: Ranges
    trials: int
    sampler: str
    folder: Path

    @property
    def configured(self) -> dict[str, float]:
        """The values that the configuration has."""
        return {key: float(value_at(config_document(self.config), key)) for key in self.ranges}


def value_at(document: Mapping[str, object], key: str) -> float:
    """Return the number at a dotted key of a configuration.

    Raises:
        KeyError: there is none.
    """
    value: object = document
    for step in key.split("."):
        if not isinstance(value, Mapping):
            raise KeyError(key)
        value = value[step]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise KeyError(key)
    return value


def ranges_of(config: RunConfig, searched: Ranges) -> dict[str, tuple[float, float]]:
    """Return those of the ranges whose key the configuration has."""
    document = config_document(config)
    found = {}
    for key, both in searched.items():
        try:
            value_at(document, key)
        except KeyError:
            continue
        found[key] = both
    return found


def load_trials(folder: Path) -> list[Trial]:
    """Return the trials that have ended so far.

    Raises:
        DataError: the file is damaged or of another version.
    """
    path = folder / TRIALS
    return read_record(path, lambda text: [Trial(**each) for each in json.loads(text)]) if path.is_file() else []


def tune(search: Search, progress: Progress) -> None:
    """Run the trials that are left of the budget, each in as many processes as an arm; it is stored as soon as it ends.

    Raises:
        UsageError: a configured value is out of its range.
    """
    run_in_processes(search.config, search.name, _tune, (search,), progress)


def _tune(search: Search, progress: Progress) -> None:
    encoded = prepare.run(search.config, progress)
    artifact = pretrain.run(search.config, encoded, progress)
    trials = load_trials(search.folder)
    with stoppable() as request:
        while len(trials) < search.trials:
            progress(search.name, len(trials), search.trials)
            seed = search.config.training.seed
            values = next_values(search.ranges, search.configured, trials, search.sampler, seed)
            trials.append(try_values(with_values(search.config, values), values, encoded, artifact, request))
            text = json.dumps([trial.to_document() for trial in trials], indent=1)
            by_first(partial(write_text_atomically, search.folder / TRIALS, text + "\n"))
    progress(search.name, search.trials, search.trials)


def with_values(config: RunConfig, values: Mapping[str, float]) -> RunConfig:
    """Return the configuration with other values at these dotted keys."""
    document = config_document(config)
    for key, value in values.items():
        *path, last = key.split(".")
        group = document
        for step in path:
            group = group[step]
        group[last] = value
    return config_from(document)


def trials_table(trials: Sequence[Trial], ranges: Ranges) -> ReportTable:
    """A row a trial; the best one is marked."""
    best = best_trial(trials)
    rows = [
        (
            str(number) + (" (best)" if trial is best else ""),
            *(f"{trial.values[key]:.3g}" for key in ranges),
            trial.failure or f"{trial.log_loss:.5f}",
            f"{trial.steps:,}",
            f"{trial.seconds:.1f}",
        )
        for number, trial in enumerate(trials)
    ]
    return ReportTable("Trials", ("trial", *ranges, "validation log loss", "steps", "seconds"), tuple(rows))


def try_values(
    config: RunConfig,
    values: Mapping[str, float],
    encoded: EncodedDataset,
    artifact: TowerArtifact,
    request: StopRequest,
) -> Trial:
    """Train with these values, already in the configuration, and judge the result on validation."""
    state, began = LoopState(), time.perf_counter()
    failure = ""
    try:
        _fit(config, encoded, artifact, request, state)
    except TrainingError as error:  # a rate at which training diverges is an answer, and spends the budget
        failure = str(error)
    request.raise_if_asked()
    return Trial(
        values=dict(values),
        log_loss=None if failure else state.best_log_loss,
        steps=state.step,
        seconds=time.perf_counter() - began,
        failure=failure,
    )


def _fit(
    config: RunConfig, encoded: EncodedDataset, artifact: TowerArtifact, request: StopRequest, state: LoopState
) -> None:
    """Train as an arm is trained, and keep nothing but the state of the loop."""
    ready = ready_ranker(config, encoded, artifact, silent)
    config, context, stream, assembly = ready.config, ready.context, ready.stream, ready.assembly
    segments = encoded.contract.schema.segments
    settings = loop_settings(config.training, stream.num_batches, segments)
    # A trial records no gradients, so it need not read them.
    settings = replace(settings, norms_every=settings.max_steps + 1, segment_view_every=0)
    if config.training.compile:
        CompiledLayers(assembly.wrapped)
    with cached_tower(assembly.wrapped, config, encoded, context, lambda name, text: None):
        for _ in train_steps(
            assembly.wrapped,
            assembly.optimizers,
            stream,
            with_table_l2(ready.objective.loss, build_table_l2(config.training)),
            settings,
            context,
            state=state,
            best=BestWeights(assembly.wrapped),
            validate=validation_of(assembly.wrapped, ready.start, config, encoded, context),
            checkpoint=lambda _: None,
            should_stop=request,
            stages=assembly.stages,
            average=assembly.average,
        ):
            pass
