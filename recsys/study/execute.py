"""Run a study's towers, trials and arms: several at once, each once, going on where an interrupted study was."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from recsys.ablation.pairing import HeldEqual, held_equal
from recsys.ablation.trial_sampling import at_an_edge
from recsys.config import RunConfig
from recsys.errors import RecsysError
from recsys.files import write_text_atomically
from recsys.progress import Progress
from recsys.run import fitted_baselines as baselines
from recsys.run import pretrain
from recsys.run.folder import ARM, RunIdentity, read_record
from recsys.run.record import open_store
from recsys.study.arm import make_tower, train_arm
from recsys.study.finished import FinishedArm
from recsys.study.plan import PlannedArm, StudyPlan
from recsys.study.tuning import Search, load_trials, trials_table, tune
from recsys.study.workers import Job, free_processes, run_side_by_side
from recsys.tracking.figures import arm_colours

_CONDITIONS = "conditions.json"


def threads_of(config: RunConfig) -> int:
    """Threads that an arm computes with: by default one, so that results do not depend on how many run at once.

    The processes of an arm divide them, and each has one at least.
    """
    return max(config.runtime.threads or 1, config.ablation.processes_per_arm)


def processes_of(config: RunConfig, jobs: int) -> int:
    """How many of the jobs to run at once."""
    per_arm, device = config.ablation.processes_per_arm, config.runtime.device
    free = config.ablation.processes or free_processes(threads_of(config), jobs, device, per_arm)
    return min(free, max(1, jobs))


def finish_arms(plan: StudyPlan, progress: Progress) -> list[FinishedArm]:
    """Make the towers, run the trials and train the arms that have not finished yet.

    Raises:
        RecsysError: some arms failed; the others have finished. Its exit code is that of the first one.
        BusyError: another process works on this study.
    """
    _open_store_once(plan.config)
    _make_towers(plan, progress)
    # Fitted before several processes would fit them at once.
    baselines.run(plan.config, plan.encoded, progress)
    searches = [search for search in plan.searches().values() if len(load_trials(search.folder)) < search.trials]
    _run_all([_tuning(search, plan) for search in searches], plan.config, progress, "searches")
    planned = plan.planned()
    return train_unfinished(planned, _identities(plan, planned), plan.config, progress)


def train_unfinished(
    planned: Sequence[PlannedArm], identities: Mapping[str, RunIdentity], config: RunConfig, progress: Progress
) -> list[FinishedArm]:
    """Train the arms that have not finished yet, as many at once as the machine carries, and return all of them.

    Args:
        identities: by the name of the arm.
        config: of the study, which says how many run at once.

    Raises:
        RecsysError: see `finish_arms`.
    """
    unfinished = [each for each in planned if each.result is None]
    jobs = [
        Job(
            each.arm.name,
            train_arm,
            (_with_threads(each.config), identities[each.arm.name]),
            each.folder.parent / "logs" / f"{each.folder.name}.log",
        )
        for each in unfinished
    ]
    _run_all(jobs, config, progress, "arms")
    finished = []
    for each in planned:
        result = each.result
        assert result is not None
        finished.append(FinishedArm(each.arm, each.folder, result))
    return finished


def _make_towers(plan: StudyPlan, progress: Progress) -> None:
    if plan.config.ablation.processes_per_arm == 1:
        for config in plan.towers():
            pretrain.run(config, plan.encoded, progress)
        return
    jobs = [
        Job(f"tower {config.tower.name}", make_tower, (_with_threads(config),), plan.folder / "logs" / "towers.log")
        for config in plan.towers()
        if not pretrain.is_made(config, plan.encoded)
    ]
    _run_all(jobs, plan.config, progress, "towers")


def check_pairs(plan: StudyPlan, finished: Sequence[FinishedArm]) -> tuple[HeldEqual, ...]:
    """Check that arms of one seed were pairs; return the table of what was held equal, and of what was not.

    Raises:
        TrainingError: two were none.
    """
    encoded = plan.encoded
    data = f"contract {encoded.contract.fingerprint}, {encoded.rows('train'):,} rows of the training split"
    return (HeldEqual("Data", True, data), *held_equal(finished), *_tuned(plan))


def _tuned(plan: StudyPlan) -> list[HeldEqual]:
    if not (best := plan.best_trials()):
        return []
    tuning = plan.config.ablation.tune
    found = []
    for condition, trial in best.items():
        values = ", ".join(f"{key.rsplit('.', 1)[-1]} {value:.3g}" for key, value in trial.values.items())
        ranges = {key: both for key, both in tuning.searched.items() if key in trial.values}
        edges = [key.rsplit(".", 1)[-1] for key in at_an_edge(trial, ranges)]
        found.append(f"{condition}: {values}" + (f" ({' and '.join(edges)} at an end of the range)" if edges else ""))
    budget = f"{tuning.trials} trials for every condition, judged by validation log loss, with seed {tuning.seed}"
    rates = HeldEqual("Rates", len({tuple(trial.values.items()) for trial in best.values()}) == 1, "; ".join(found))
    return [HeldEqual("Tuning", True, budget), rates]


def _tuning(search: Search, plan: StudyPlan) -> Job:
    search = replace(search, config=_with_threads(search.config))
    return Job(search.name, tune, (search,), plan.folder / "logs" / f"tuning-{search.folder.name}.log")


def _run_all(jobs: Sequence[Job], config: RunConfig, progress: Progress, label: str) -> None:
    """Run all jobs; raise one error at the end that names all that failed.

    Raises:
        RecsysError: see `finish_arms`.
    """
    if not jobs:
        return
    at_once, per_arm = processes_of(config, len(jobs)), config.ablation.processes_per_arm
    failures = run_side_by_side(jobs, at_once, progress, label, config.runtime.device, per_arm)
    if not failures:
        return
    logs = {job.name: job.log for job in jobs}
    lines = [f"  {each.name}: {each.message} (log: {logs[each.name]})" for each in failures]
    others = "what the others did is kept, and the same command goes on from there"
    error = RecsysError(f"{len(failures)} of {len(jobs)} {label} failed; {others}.\n" + "\n".join(lines))
    error.exit_code = failures[0].exit_code
    raise error


def _with_threads(config: RunConfig) -> RunConfig:
    return replace(config, runtime=replace(config.runtime, threads=threads_of(config)))


def _identities(plan: StudyPlan, planned: Sequence[PlannedArm]) -> dict[str, RunIdentity]:
    """What each arm's run is called, and what is attached to it."""
    colours = _colours(plan)
    searches = plan.searches()
    notes = {}
    for condition, search in searches.items():
        trials = load_trials(search.folder)[: search.trials]
        document = [trial.to_document() for trial in trials]
        table = trials_table(trials, search.ranges)
        notes[condition] = {"tuning.md": table.to_markdown() + "\n", "tuning.json": json.dumps(document, indent=1)}
    return {
        each.arm.name: RunIdentity(
            each.folder,
            each.arm.name,
            each.arm.condition,
            ARM,
            plan.id,
            colours[each.arm.condition],
            notes.get(each.arm.condition, {}),
        )
        for each in planned
    }


def _colours(plan: StudyPlan) -> dict[str, str]:
    """A colour for each condition; one that joins the study later takes a new one and leaves the others theirs."""
    path = plan.folder / _CONDITIONS
    known = read_record(path, lambda text: [str(name) for name in json.loads(text)]) if path.is_file() else []
    conditions = list(dict.fromkeys([*known, *plan.grid.conditions]))
    if conditions != known:
        write_text_atomically(path, json.dumps(conditions) + "\n")
    return arm_colours(conditions)


def _open_store_once(config: RunConfig) -> None:
    """Create a fresh store before several processes would; a server is there or is waited for by the runs' spools."""
    store = open_store(config)
    if not store.is_server:
        store.experiment_id(store.open())
