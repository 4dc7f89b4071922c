"""What starting a study would do: its arms, those that have finished, and how long the others will take."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from recsys.ablation.page import ReportTable
from recsys.config import RunConfig
from recsys.run import prepare
from recsys.run.folder import CONFIG, RESULT, read_record
from recsys.study.execute import processes_of, threads_of
from recsys.study.plan import PlannedArm, StudyGrid, StudyPlan
from recsys.study.tuning import load_trials

_NEWEST = 20  # runs to learn from: older ones may have been of another size


@dataclass(frozen=True)
class Outlook:
    """What a dry run shows: a row for each arm, and sentences."""

    arms: ReportTable
    sentences: tuple[str, ...]


def outlook(overrides: Sequence[str]) -> Outlook:
    """Say what a study would do; nothing is made or trained.

    Raises:
        UsageError: the grid cannot be used.
    """
    grid = StudyGrid(overrides)
    encoded = prepare.prepared(grid.config)
    plan = None if encoded is None else StudyPlan(grid, encoded)
    planned = {} if plan is None else {each.arm.name: each for each in plan.planned()}
    finished = {name for name, each in planned.items() if each.result is not None}
    rows = [(arm.name, "finished" if arm.name in finished else _state(planned.get(arm.name))) for arm in grid.arms]
    left, tuned = len(grid.arms) - len(finished), sum(len(trials) for trials in _trials(plan).values())
    trials = grid.config.ablation.tune.trials * len(grid.conditions) - tuned
    sentences = [
        f"{len(grid.conditions)} conditions, {len(grid.arms)} arms: {len(finished)} finished, {left} to train, "
        f"{processes_of(grid.config, left)} at once with {_each(grid.config)} each."
    ]
    if trials:
        sentences.append(f"{trials} trials come first: {grid.config.ablation.tune.trials} for every condition.")
    if plan is None:
        sentences.append("The data are not prepared yet; what has finished is known once they are.")
    sentences.append(_duration(grid, plan, left, trials))
    return Outlook(ReportTable("Arms", ("arm", "state"), tuple(rows)), tuple(sentences))


def _each(config: RunConfig) -> str:
    threads, per_arm = f"{threads_of(config)} thread(s)", config.ablation.processes_per_arm
    return threads if per_arm == 1 else f"{per_arm} processes and {threads}"


def _state(planned: PlannedArm | None) -> str:
    if planned is None:
        return "to do"
    return "to go on with" if any(planned.folder.glob("checkpoints/step-*")) else "to do"


def _trials(plan: StudyPlan | None) -> dict[str, Sequence[object]]:
    searches = {} if plan is None else plan.searches()
    return {name: load_trials(search.folder)[: search.trials] for name, search in searches.items()}


def _duration(grid: StudyGrid, plan: StudyPlan | None, arms: int, trials: int) -> str:
    """How long it will take, by what this study's arms, or else other runs on these data, have taken."""
    folder = grid.config.runtime.runs / grid.config.data.name
    own = [] if plan is None else _minutes(plan.folder.glob(f"*/{RESULT}"))
    known = own or _minutes([*folder.glob(f"*/{RESULT}"), *folder.glob(f"*/*/{RESULT}")])
    if not arms + trials:
        return "Only the comparison is left: seconds."
    if not known:
        return "How long it takes is not known: no run on these data has finished here yet."
    whose = "this study's finished arms" if own else f"the newest {len(known)} runs on these data"
    processes = processes_of(grid.config, arms)
    # A trial is an arm without its measurement, and the trials of one condition follow one another.
    rounds = -(-arms // processes) + -(-trials // min(processes, len(grid.conditions)))
    return f"About {rounds * mean(known):.1f} minutes, by {whose} ({mean(known):.1f} minutes each)."


def _minutes(results: Iterable[Path]) -> list[float]:
    """How long the newest of these runs took from start to end; those that were broken off are left out."""
    newest = sorted(results, key=lambda path: path.stat().st_mtime)[-_NEWEST:]
    durations = []
    for path in newest:
        began, ended = (path.parent / CONFIG).stat().st_mtime, path.stat().st_mtime
        trained = read_record(path, lambda text: float(json.loads(text)["cost"]["wall_seconds"]))
        if ended - began >= trained:
            durations.append((ended - began) / 60)
    return durations
