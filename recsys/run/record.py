"""How runs are recorded: the store, the params, the tracked names of what is measured, and the plots."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from recsys.all_segments import ALL
from recsys.config import KINDS, RunConfig, TrainingModeConfig, config_document
from recsys.errors import DataError
from recsys.evaluation.split_evaluation import Evaluation
from recsys.metrics import registry
from recsys.metrics.auc import AUC
from recsys.metrics.log_loss import LOG_LOSS
from recsys.metrics.ranked_lists import CANDIDATES_RECALL, COVERAGE, SCOPES, SHORT_CUTOFF, TOWER, name_at
from recsys.monitoring.cost import Cost
from recsys.monitoring.gradient_norms import WHOLE
from recsys.run.folder import TABLE_PLAN
from recsys.run.streams import RANKING_TEST, TEST
from recsys.sharding.first_process import by_first
from recsys.sharding.plan_document import plan_document, plan_in_brief
from recsys.sharding.table_plan import TablePlan
from recsys.tracking import figures, names
from recsys.tracking.drift_names import is_drift
from recsys.tracking.gate_names import branch_and_segment
from recsys.tracking.run import TrackedRun
from recsys.tracking.store import TrackingStore
from recsys.tracking.untracked import UntrackedRun
from recsys.training.reports import StepReport

CUTOFF = 20
FOLLOWED = (names.TRAIN_LOSS, names.score(names.VALIDATION, LOG_LOSS.name), names.auc(names.VALIDATION))
"""The curves of a run that its learning is judged by."""
STUDY = "study"
"""The arm, and the kind, of a study's own run."""
RATES = ("embedding_tower", "embedding_tower_tables", "interaction_network", "interaction_network_tables")
_SLOW = {names.EPOCH, names.ROWS_SEEN, names.SKIPPED_BATCHES, *map(names.learning_rate, RATES)}


def open_store(config: RunConfig) -> TrackingStore:
    """The configured store, or SQLite in the runs folder."""
    return TrackingStore.in_folder(config.runtime.runs, config.tracking.experiment, config.tracking.uri)


def recorded_store(config: RunConfig) -> TrackingStore:
    """The same, for a command that only reads.

    Raises:
        DataError: it is a SQLite store, and nothing has been recorded in it yet.
    """
    store = open_store(config)
    if not store.is_server and not store.database.is_file():
        raise DataError(
            f"No runs are recorded in {store.database.parent}: there is no {store.database.name}. Make some with "
            "`recsys demo`, or name the place with runtime.runs=<folder> or tracking.uri=<address>."
        )
    return store


def recorded_by_first(start: Callable[[], TrackedRun]) -> TrackedRun:
    """Return the run that `start` starts, in the first process; in the others one that records nothing.

    Raises:
        RecsysError: the first process could not start it.
    """
    runs: list[TrackedRun] = []
    by_first(lambda: runs.append(start()))
    return runs[0] if runs else UntrackedRun()


def run_params(config: RunConfig, arm: str, device: str, without: Sequence[str] = ()) -> dict[str, str | int | float]:
    """The resolved config as flat params, and the few that people group runs by under short names.

    Args:
        device: that computes, as `device_name` calls it; "none" for a study's own run.
        without: keys, or groups, of what the run does not do: all runs have the same params, and there they say "none".
    """
    document = config_document(config)
    for kinds in KINDS:
        # The knobs of the other kinds as well, so that a table of runs has its columns whatever they compare.
        document[kinds.group] = dict.fromkeys(kinds.every_knob) | document[kinds.group]
    # In one param each, so that runs of all modes have the same params.
    document["training_mode"] |= {
        "stages": _stages(config.training_mode),
        "rates": _pairs(config.training_mode.rates.items()),
    }
    limit = config.training_mode.max_drift
    document["training_mode"]["max_drift"] = limit and f"{limit.measure} {limit.limit:g}, {limit.action}"
    document["network"]["field_widths"] = _pairs(config.network.field_widths.items())
    document["composition"]["inner"] = _inner(document["composition"]["inner"])
    if arm != STUDY:
        # The grid and the rest are params of the study's own run: arms that join it later must not differ by them.
        document["ablation"] = {"name": config.ablation.name}
    params: dict[str, str | int | float] = {
        **names.flattened(document),
        names.PARAM_ARM: arm,
        names.PARAM_MODE: config.training_mode.name,
        names.PARAM_COMPOSITION: config.composition.name,
        names.PARAM_TOWER: config.tower.name,
        names.PARAM_NETWORK: config.network.name,
        names.PARAM_SEED: config.training.seed,
        names.PARAM_DATA: config.data.name,
        names.PARAM_DEVICE: device,
    }
    unused = [key for key in params if any(key == each or key.startswith(f"{each}.") for each in without)]
    return params | dict.fromkeys(unused, names.NONE)


def study_params(config: RunConfig, arms: Sequence[RunConfig]) -> dict[str, str | int | float]:
    """The params of a study's own run: what all of its arms have in common, and the settings of `ablation`.

    What differs between arms reads "varied": the study's run is none of them.
    """
    every = [run_params(each, STUDY, names.NONE, ("daily", "ablation")) for each in arms]
    keys = dict.fromkeys(key for params in every for key in params)
    found = {key: {str(params.get(key)) for params in every} for key in keys}
    shared = {key: values.pop() if len(values) == 1 else names.VARIED for key, values in found.items()}
    own = run_params(config, STUDY, names.NONE)
    return shared | {key: value for key, value in own.items() if key.startswith("ablation.")}


def _stages(mode: TrainingModeConfig) -> list[str]:
    ends = {
        stage: {} if end is None else {name: value for name, value in asdict(end).items() if value is not None}
        for stage, end in mode.stages_in_order()
    }
    return [" ".join([stage, *(f"{value} {name}" for name, value in end.items())]) for stage, end in ends.items()]


def _pairs(values: Iterable[tuple[str, float]]) -> list[str]:
    return [f"{name} {value}" for name, value in values]


def _inner(composition: Mapping[str, Any] | None) -> list[str]:
    """An inner composition in words: its kind, its knobs, then what it stands on."""
    if composition is None:
        return []
    knobs = {name: value for name, value in composition.items() if name not in ("name", "head_hidden", "inner")}
    own = [f"{name} {json.dumps(value)}" for name, value in knobs.items()]
    return [composition["name"], *own, *_inner(composition.get("inner"))]


def step_metrics(report: StepReport, rates: Sequence[str] = RATES) -> dict[str, float]:
    """Name one report's numbers; a frozen part has rate and gradient norm 0, so that all charts line up.

    Args:
        rates: of the parts that there are, as `RankerOptimizers.learning_rates` names them.

    Gradient norms and the view by segment are there in the steps that read them, and only there or where the run was
    validated are the counts and rates that move slowly: they would be half of all that is stored.
    """
    measured = names.training_metrics(
        loss=float("nan") if report.loss is None else report.loss,
        gradient_norms=report.gradient_norms,
        learning_rates={name: report.learning_rates.get(name, 0.0) for name in rates},
        rows_seen=report.rows_seen,
        epoch=report.epoch,
        rows_per_second=report.rows_per_second,
        data_wait_share=report.data_wait_share,
        gpu_idle_share=report.gpu_idle_share,
        skipped_batches=report.non_finite_batches,
    )
    for name, value in (report.validation or {}).items():
        metric, _, segment = name.partition("/")
        named = names.auc(names.VALIDATION, segment or ALL) if metric == AUC.name else None
        named = name if branch_and_segment(name) or is_drift(name) else named
        measured[named or names.score(names.VALIDATION, metric)] = value
    if not report.gradient_norms and not report.validation:
        measured = {name: value for name, value in measured.items() if name not in _SLOW}
    return measured | _by_segment(report)


def _by_segment(report: StepReport) -> dict[str, float]:
    shares = {names.segment_share(segment): share for segment, share in report.segment_shares.items()}
    return shares | {names.segment_cosine(segment): cosine for segment, cosine in report.segment_cosines.items()}


def validation_figures(evaluation: Evaluation) -> dict[str, float]:
    """What is followed while a run learns: log loss, AUC, and each segment's AUC as "auc/<segment>"."""
    figures_of = {name: evaluation.overall[name] for name in (LOG_LOSS.name, AUC.name)}
    figures_of |= {f"{AUC.name}/{segment}": metrics.get(AUC.name) for segment, metrics in evaluation.by_segment.items()}
    return {name: value for name, value in figures_of.items() if value is not None}


def final_metrics(scores: Mapping[str, float], cutoff: int = CUTOFF) -> dict[str, dict[str, float]]:
    """Name a run's final scores for the tracking store, by the split whose rows they are of.

    Args:
        scores: as "<metric>/<segment>", what is undefined being absent; of these the registered metrics are recorded,
            over all rows, AUC and support by segment as well.
    """
    by_metric: dict[str, dict[str, float]] = {}
    for name, value in scores.items():
        metric, _, segment = name.partition("/")
        by_metric.setdefault(metric, {})[segment] = value
    overall = {name: found[ALL] for name, found in by_metric.items() if ALL in found}
    of_rows = {
        each.name: overall[each.name] for each in registry.row_metrics() if each.is_recorded and each.name in overall
    }
    segments = {name: {AUC.name: value} for name, value in by_metric.get(AUC.name, {}).items() if name != ALL}
    support = {names.score(names.TEST, "support", name): rows for name, rows in by_metric.get("support", {}).items()}
    of_lists = {
        names.ranking(f"{start}{metric}@{at}", scope): overall[name]
        for start in ("", f"{TOWER}_")
        for at in (cutoff, SHORT_CUTOFF)
        for scope in SCOPES
        for metric in (*(each.name for each in registry.ranking_metrics() if each.is_recorded), COVERAGE)
        if (name := f"{start}{name_at(metric, at, scope)}") in overall
    }
    if (recall := overall.get(CANDIDATES_RECALL)) is not None:
        of_lists[names.ranking(CANDIDATES_RECALL, ALL)] = recall
    of_test = names.evaluation_metrics(names.TEST, of_rows, segments) | support
    return {TEST: of_test} | ({RANKING_TEST: of_lists} if of_lists else {})


def attach_plan(run: TrackedRun, plan: TablePlan | None) -> None:
    """Attach where the run's tables lie, and say it in its tags; nothing where one process has all without a plan."""
    if plan is not None:
        run.attach(TABLE_PLAN, json.dumps(plan_document(plan), indent=1))
        run.set_tags({names.TAG_PROCESSES: str(plan.cluster.world_size), names.TAG_TABLE_PLAN: plan_in_brief(plan)})


def cost_metrics(cost: Cost) -> dict[str, float]:
    """What training cost; what this machine does not tell is absent."""
    named = {
        names.TRAIN_SECONDS: cost.wall_seconds,
        names.CPU_SECONDS: cost.cpu_seconds,
        names.PEAK_MEMORY: cost.peak_memory_bytes,
        names.PEAK_GPU_MEMORY: cost.peak_gpu_memory_bytes,
        names.ENERGY: cost.energy_joules,
    }
    return {name: float(value) for name, value in named.items() if value is not None}


def attach_learning_curves(run: TrackedRun, label: str, curves: Mapping[str, figures.Curve]) -> None:
    """Draw one run's learning curves and attach them to it."""
    of_one_seed = {name: {label: [curve]} for name, curve in curves.items()}
    run.attach(names.LEARNING_CURVES_FILE, figures.learning_curves(of_one_seed))


def attach_gradient_norms(run: TrackedRun, label: str, curves: Mapping[str, figures.Curve]) -> None:
    """Draw one run's gradient norms by part and attach them to it."""
    parts = {names.part_of_norm(name): curve for name, curve in curves.items()}
    shown = {part: curve for part, curve in parts.items() if part not in ("", WHOLE) and "/" not in part}
    norms = {part: {label: [curve]} for part, curve in shown.items()}
    run.attach(names.GRADIENT_NORMS_FILE, figures.gradient_norms(norms))


def attach_gates(run: TrackedRun, curves: Mapping[str, figures.Curve]) -> None:
    """Draw one run's gates by branch and segment and attach them to it; nothing where its composition has none."""
    gates: dict[str, dict[str, figures.Curve]] = {}
    for name, curve in curves.items():
        if of := branch_and_segment(name):
            gates.setdefault(of[0], {})[of[1]] = curve
    if gates:
        run.attach(names.GATES_FILE, figures.branch_gates(gates))


def attach_calibration(run: TrackedRun, label: str, evaluation: Evaluation) -> None:
    """Draw predicted against observed and attach it to the run."""
    bins = [(b.predicted, b.observed, b.weight) for b in evaluation.reliability]
    run.attach(names.CALIBRATION_FILE, figures.calibration({label: bins}))
