"""From a study's verdict to a model: each segment changes the tower as little as the study shows to be enough.

What to change is chosen on validation rows and judged on test rows: of several arms that are equal the one that was
luckiest on some rows looks better on those, and on no others.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from recsys.ablation.arms import Arm, Contrast
from recsys.ablation.bootstrap import MeasuredArm, UserBootstrap, measure_arm
from recsys.ablation.comparison import Comparison, Rules, compare
from recsys.ablation.least_change import Grounds, LeastChange, by_size, least_changes
from recsys.ablation.page import ReportTable
from recsys.ablation.pairing import held_equal
from recsys.ablation.study_tables import differences_table, mean_costs
from recsys.all_segments import ALL
from recsys.artifacts.export import load_scorer
from recsys.config.compose import compose_config, key_of
from recsys.config.overrides import override
from recsys.errors import UsageError
from recsys.evaluation.split_evaluation import predict
from recsys.evaluation.stored_predictions import load_predictions, save_predictions
from recsys.metrics.predictions import Predictions
from recsys.progress import Progress
from recsys.run import prepare
from recsys.run.folder import ARM, RunIdentity, read_record
from recsys.run.serving import MODEL
from recsys.run.session import TEST_EXTRAS
from recsys.run.streams import VALIDATION, scoring_stream, started
from recsys.study import ablate
from recsys.study.execute import train_unfinished
from recsys.study.finished import FinishedArm, by_condition, measure, write_json
from recsys.study.plan import SEED_KEY, StudyGrid, StudyPlan
from recsys.study.tuning import with_values

MODE = "training_mode"
RUNG_OF = {
    "frozen_tower": "frozen",
    "frozen_adapter": "adapter",
    "tower_tables": "tables",
    "tower_dense": "dense",
    "end_to_end": "all",
}
"""What a segment may change of the tower where one training mode did best for it."""

_MIXED = "by_segment"
_VALIDATION_PREDICTIONS = "validation_predictions"
_TOWER_RATE, _COPIES_RATE = "training_mode.rates.embedding_tower", "training_mode.rates.tower_copies"


@dataclass(frozen=True)
class MixedModel:
    """What was chosen, and what it is worth.

    Attributes:
        study: its id.
        choices: what validation rows said, all rows first.
        rungs: segment -> what it may change.
        comparisons: on test rows, the mixed model against the uniform modes of the smallest and the greatest change;
            () where all segments take one mode, which is an arm of the study.
        rules: by which they were judged.
        folders: of the mixed model's runs, one a seed.
    """

    study: str
    choices: tuple[LeastChange, ...]
    rungs: Mapping[str, str]
    comparisons: tuple[Comparison, ...]
    rules: Rules
    folders: tuple[Path, ...]

    def tables(self) -> list[ReportTable]:
        """The path from the table to the choice to its result, for any printer."""
        choice = ReportTable(
            "Chosen on validation rows",
            ("segment", "may change", "by itself it would take", "grounds"),
            tuple(
                (each.segment, self.rungs.get(each.segment, "-"), str(each.choice), str(each.grounds))
                for each in self.choices
            ),
        )
        if not self.comparisons:
            return [choice]
        judged = differences_table(self.comparisons, ablate.DECISIVE, self.rules)
        return [choice, replace(judged, title="The mixed model on test rows")]

    def to_document(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "tables": [asdict(each) for each in self.tables()],
            "study": self.study,
            "choices": [asdict(each) for each in self.choices],
            "rungs": dict(self.rungs),
            "comparisons": [each.to_document() for each in self.comparisons],
            "folders": [str(each) for each in self.folders],
        }


def rungs_of_choices(choices: Sequence[LeastChange], segments: Sequence[str]) -> dict[str, str]:
    """Return every segment's rung: that of its own choice, or of the one for all rows where its evidence is not enough.

    Args:
        choices: as `least_changes` returned them, of training modes in `RUNG_OF`.
    """
    overall = next(each for each in choices if each.segment == ALL)
    own = {each.segment: each.choice for each in choices if each.grounds is not Grounds.OPEN}
    return {segment: RUNG_OF[str(own.get(segment, overall.choice))] for segment in segments}


def run(study: str, overrides: Sequence[str], progress: Progress) -> MixedModel:
    """Choose every segment's rung, train the mixed model with each of the study's seeds, and judge it on test rows.

    The study's page is written anew, with the choice and its result.

    Args:
        study: its id.
        overrides: `data=...` and folders, as for the study; where the study varies other keys, which values to take.

    Raises:
        UsageError: there is no such study here, it has not finished, or it does not compare training modes.
        RecsysError: a run failed; the others have finished, and the same call goes on from there.
    """
    plan, held = _plan_of(study, overrides, progress)
    finished = _arms(plan, held)
    choices = _chosen(plan, finished, progress)
    segments = plan.encoded.contract.schema.segments
    rungs = rungs_of_choices(choices, segments)
    mixed = _trained(plan, finished, choices, rungs, progress) if len(set(rungs.values())) > 1 else []
    comparisons = _judged(plan, finished, mixed, progress) if mixed else ()
    folders = tuple(each.folder for each in mixed)
    found = MixedModel(plan.id, tuple(choices), rungs, comparisons, ablate.rules_of(plan.config), folders)
    write_json(plan.folder / ablate.FROM_STUDY, found.to_document())
    ablate.run(plan.grid.overrides, progress)
    return found


def _plan_of(study: str, overrides: Sequence[str], progress: Progress) -> tuple[StudyPlan, dict[str, str]]:
    """The study's plan, and the values of its other axes that were asked for."""
    asked = {key_of(word): word.partition("=")[2] for word in overrides}
    config = compose_config(overrides)
    runs = config.runtime.runs / config.data.name
    if not (runs / study / ablate.TYPED).is_file():
        there = ", ".join(sorted(path.parent.name for path in runs.glob(f"*/{ablate.TYPED}"))) or "none"
        raise UsageError(
            f"There is no finished study `{study}` in {runs}; there is {there}. Give its id as `recsys ablate` printed "
            "it, and the same data= and runtime.runs= as for the study."
        )
    typed: list[str] = read_record(runs / study / ablate.TYPED, lambda text: list(json.loads(text)))
    axes = StudyGrid(typed).config.ablation.grid
    held = {key: value for key, value in asked.items() if key in axes and key != MODE}
    words = [*typed, *(word for word in overrides if key_of(word) not in axes and word not in typed)]
    plan = StudyPlan(StudyGrid(words), prepare.run(compose_config(words), progress))
    if plan.id != study:
        raise UsageError(
            f"With these overrides the study would be another one, {plan.id}: its arms follow from something else than "
            f"those of {study}. Leave out what the study did not have, or run `recsys ablate {' '.join(words)}` first."
        )
    if MODE not in axes:
        raise UsageError(
            f"Study `{study}` varies {', '.join(axes)}, and no training mode: it does not say for whom the tower "
            "should learn. Run one that does, such as `recsys ablate experiment=least_change`."
        )
    return plan, held


def _arms(plan: StudyPlan, held: Mapping[str, str]) -> list[FinishedArm]:
    """The finished arms of the circumstance that was asked for, of the modes that stand for a rung."""
    planned = [each for each in plan.planned() if str(each.arm.choices[MODE]) in RUNG_OF]
    others = [key for key in plan.config.ablation.grid if key != MODE]
    wanted = [each for each in planned if all(str(each.arm.choices[key]) == value for key, value in held.items())]
    circumstances = {tuple(str(each.arm.choices[key]) for key in others) for each in wanted}
    if len(circumstances) != 1:
        values = {key: sorted({str(each.arm.choices[key]) for each in planned}) for key in others}
        shown = "; ".join(f"{key}=... one of {', '.join(each)}" for key, each in values.items())
        raise UsageError(f"Study `{plan.id}` compares training modes under more than one circumstance. Give {shown}.")
    if len({each.arm.choices[MODE] for each in wanted}) < 2:
        raise UsageError(
            f"Study `{plan.id}` compares fewer than two of the training modes that a segment may take: "
            f"{', '.join(RUNG_OF)}. Run one that has two or more of them."
        )
    finished = []
    for each in wanted:
        if (result := each.result) is None:
            raise UsageError(f"Arm {each.arm.name} of `{plan.id}` has not finished. Run the study to its end first.")
        finished.append(FinishedArm(each.arm, each.folder, result))
    return finished


def _chosen(plan: StudyPlan, finished: Sequence[FinishedArm], progress: Progress) -> list[LeastChange]:
    """The least change for every segment, by the arms' predictions for validation rows."""
    segments = plan.encoded.contract.schema.segments
    measured: list[MeasuredArm] = []
    bootstrap: UserBootstrap | None = None
    for done, each in enumerate(finished):
        progress("scoring validation rows", done, len(finished))
        predictions = _on_validation(plan, each)
        bootstrap = bootstrap or UserBootstrap(predictions, {}, plan.config.ablation.resamples, seed=0)
        measured.append(measure_arm(each.arm.condition, each.arm.seed, predictions, {}, segments, bootstrap))
    progress("scoring validation rows", len(finished), len(finished))
    # Each segment's choice is a bet that test rows judge, and no claim: it need not share its level with the others.
    rules = replace(ablate.rules_of(plan.config), segments_together=False)
    conditions = {each.arm.condition for each in finished}
    questions = [each for each in plan.grid.questions if each.axis == MODE and {each.first, each.second} <= conditions]
    comparisons = [compare(each, measured, rules) for each in questions or _pairs(finished)]
    return least_changes(comparisons, ablate.DECISIVE, by_size(comparisons, _costs(finished)))


def _pairs(finished: Sequence[FinishedArm]) -> list[Contrast]:
    """Every two conditions, where the study itself asks about another axis."""
    modes = {each.arm.condition: str(each.arm.choices[MODE]) for each in finished}
    names = list(modes)
    return [
        Contrast(MODE, first, second, modes[first], modes[second], {})
        for place, first in enumerate(names)
        for second in names[place + 1 :]
    ]


def _on_validation(plan: StudyPlan, arm: FinishedArm) -> Predictions:
    """What the arm says of every validation row; kept beside what it says of test rows."""
    kept = arm.folder / _VALIDATION_PREDICTIONS
    if not kept.is_dir():
        context = started(plan.config)
        ranker = load_scorer(arm.folder / MODEL).ranker.to(context.device)
        save_predictions(
            predict(ranker, scoring_stream(plan.config, plan.encoded, VALIDATION, context, TEST_EXTRAS)), kept
        )
    return load_predictions(kept)


def _trained(
    plan: StudyPlan,
    finished: Sequence[FinishedArm],
    choices: Sequence[LeastChange],
    rungs: Mapping[str, str],
    progress: Progress,
) -> list[FinishedArm]:
    """The mixed model's runs, one for each seed of the study."""
    held = {key: value for key, value in finished[0].arm.choices.items() if key != MODE}
    values = _tuned(plan, finished, choices)
    condition = "/".join([_MIXED, *(str(value) for value in held.values())])
    words = [word for word in plan.grid.overrides if key_of(word).partition(".")[0] != MODE]
    own = [override(key, value) for key, value in held.items()]
    planned = []
    for seed in dict.fromkeys(each.arm.seed for each in finished):
        mixed = [override(MODE, _MIXED), override(f"{MODE}.rungs", dict(rungs)), override(SEED_KEY, seed)]
        config = with_values(compose_config([*words, *own, *mixed]), values)
        arm = Arm(f"{condition}/s{seed}", condition, {**held, MODE: _MIXED}, seed)
        planned.append(plan.beside(arm, config))
    identities = {
        each.arm.name: RunIdentity(each.folder, each.arm.name, each.arm.condition, ARM, plan.id) for each in planned
    }
    return train_unfinished(planned, identities, plan.config, progress)


def _tuned(plan: StudyPlan, finished: Sequence[FinishedArm], choices: Sequence[LeastChange]) -> dict[str, float]:
    """The rates that the study found for the choice for all rows; for a copy of the tower those of one that learns."""
    best = plan.best_trials()
    condition_of = {each.arm.choices[MODE]: each.arm.condition for each in finished}
    overall = next(each.choice for each in choices if each.segment == ALL)
    if condition_of[overall] not in best:
        return {}
    values = dict(best[condition_of[overall]].values)
    own = values.pop(_TOWER_RATE, None)
    others = [best[each].values.get(_TOWER_RATE) for each in condition_of.values() if each in best]
    rate = own if own is not None else next((each for each in others if each is not None), None)
    return values if rate is None else values | {_COPIES_RATE: rate}


def _judged(
    plan: StudyPlan, finished: Sequence[FinishedArm], mixed: Sequence[FinishedArm], progress: Progress
) -> tuple[Comparison, ...]:
    """The mixed model against the smallest and the greatest uniform change, on test rows, paired by seed."""
    costs = _costs(finished)
    order = sorted(costs, key=lambda name: costs[name]["trained_parameters"])
    uniform = [each for each in finished if each.arm.condition in (order[0], order[-1])]
    held_equal([*uniform, *mixed])
    measured = measure(
        [*mixed, *uniform], plan.encoded.contract.schema.segments, plan.config.ablation.resamples, progress
    )
    modes = {each.arm.condition: each.arm.choices[MODE] for each in uniform}
    name = mixed[0].arm.condition
    contrasts = [Contrast(MODE, name, other, _MIXED, modes[other], {}) for other in (order[0], order[-1])]
    return tuple(compare(each, measured, ablate.rules_of(plan.config)) for each in contrasts)


def _costs(finished: Sequence[FinishedArm]) -> Mapping[str, Mapping[str, float]]:
    return mean_costs(by_condition(finished, FinishedArm.costs))
