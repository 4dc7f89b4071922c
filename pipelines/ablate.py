"""A study: every arm through `train.run`, the paired comparison, the verdict."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from pipelines import prepare
from pipelines.baselines import shortfall
from pipelines.console import console, progress_bars, show_table, warn
from pipelines.fitting import RANKING_TEST, TEST, dataset_uses, scoring_stream, started, with_ranker_budget
from pipelines.job import RANKING_EXTRAS
from pipelines.recording import CUTOFF, STUDY, Curves, charted_values, open_store, study_params
from pipelines.run_folder import CURVES
from pipelines.study import FinishedArm, auc_intervals, by_condition, measure, write_json
from pipelines.study_outlook import outlook
from pipelines.study_plan import StudyGrid, StudyPlan
from pipelines.study_report import Origin, gather
from pipelines.study_runs import check_pairs, finish_arms
from recsys.ablation.bootstrap import MeasuredArm
from recsys.ablation.comparison import Comparison, Rules, compare
from recsys.ablation.pairing import HeldEqual
from recsys.ablation.report import study_report
from recsys.ablation.study_tables import BySeed, arms_table, mean_costs
from recsys.ablation.verdict import verdict_paragraph
from recsys.all_segments import ALL
from recsys.config import RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.evaluation.ranking import evaluate_ranking
from recsys.evaluation.scores import column_score
from recsys.files import ensure_writable, write_text_atomically, writing
from recsys.metrics.auc import AUC
from recsys.metrics.grouped_auc import GROUPED_AUC
from recsys.metrics.log_loss import LOG_LOSS
from recsys.metrics.ranked_lists import RECALL, name_at
from recsys.metrics.registry import study_metrics
from recsys.progress import Progress
from recsys.scheduling.stage import held_lock
from recsys.sharding.processes import device_kind
from recsys.tracking import names
from recsys.tracking.chart_views import study_views
from recsys.tracking.run import start_run

DECISIVE = AUC.name
_LEVEL = 0.05
_DOTS_PER_INCH = 150


@dataclass(frozen=True)
class Study:
    """A finished study: its arms, baselines, comparisons, and where its files are."""

    id: str
    folder: Path
    arms: tuple[FinishedArm, ...]
    baselines: Mapping[str, Mapping[str, float]]
    comparisons: tuple[Comparison, ...]
    rules: Rules
    verdict: str

    @property
    def scores(self) -> BySeed:
        """The rows of its table: each condition's seeds, then baselines."""
        beside = {name: [scores] for name, scores in self.baselines.items()}
        return {**by_condition(self.arms, lambda each: each.result.scores), **beside}


def run(overrides: Sequence[str], progress: Progress) -> Study:
    """Train every arm that has not finished yet, compare, and record the study.

    Args:
        overrides: as on the command line; an arm is these and its own.

    Raises:
        UsageError: the grid cannot be used.
        RecsysError: some arms failed; the others have finished, and the same call goes on from there.
        TrainingError: arms that must be pairs are none.
        BusyError: another process works on this study.
    """
    grid = StudyGrid(overrides)
    ensure_writable(grid.config.runtime.runs)
    device_kind(grid.config.runtime.device)
    plan = StudyPlan(grid, prepare.run(grid.config, progress))
    with held_lock(plan.folder.parent / f".{plan.id}.lock", f"Study {plan.id}"):
        return _run(plan, overrides, progress)


def _run(plan: StudyPlan, overrides: Sequence[str], progress: Progress) -> Study:
    config, encoded, ablation = plan.config, plan.encoded, plan.config.ablation
    finished = finish_arms(plan, progress)
    held = check_pairs(plan, finished)
    segments = encoded.contract.schema.segments
    measured = measure(finished, segments, ablation.resamples, progress)
    rules = Rules(level=_LEVEL, margins={DECISIVE: ablation.margin, GROUPED_AUC.name: ablation.margin})
    comparisons = tuple(compare(question, measured, rules) for question in plan.grid.questions)
    costs = mean_costs(by_condition(finished, FinishedArm.costs))
    verdict = verdict_paragraph(comparisons, DECISIVE, rules, costs)
    # Fitted on the rows that all arms have, so any arm's will do.
    beside = {f"baseline: {name}": scores for name, scores in finished[0].result.baselines.items()}
    beside |= _ranking_baselines(config, encoded, progress)
    study = Study(plan.id, plan.folder, tuple(finished), beside, comparisons, rules, verdict)
    _record(plan, study, measured, held, overrides)
    return study


def show(study: Study) -> None:
    """Print the study's tables and verdict; what is too wide for a terminal stands in the report."""
    table = arms_table(study.scores, study_metrics(CUTOFF))
    # Seeds are the second column, the same for every arm.
    rows = [(row[0], *(cell.replace(" ± ", "±") for cell in row[2:])) for row in table.rows]
    show_table(table.title, (table.header[0], *table.header[2:]), rows)
    for comparison in study.comparisons:
        contrast = comparison.contrast
        held = ", ".join(str(value) for value in contrast.held.values())
        title = f"{contrast.first_value} minus {contrast.second_value}, AUC{f' ({held})' if held else ''}"
        show_table(title, ("segment", "users", "difference", "95 % interval", "verdict"), _difference_rows(comparison))
    for sentence in _shortfalls(study):
        warn(sentence)
    console.print(f"\n[bold]Verdict.[/bold] {study.verdict}\n")
    console.print(f"Report: {study.folder / 'report.html'}", soft_wrap=True)


def plan(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Print what the study would do."""
    found = outlook(arguments.overrides)
    show_table(found.arms.title, found.arms.header, found.arms.rows)
    for sentence in found.sentences:
        console.print(sentence, soft_wrap=True, markup=False)


def _difference_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    entries = [entry for entry in comparison.differences if entry.metric == DECISIVE]
    return [
        (
            entry.segment,
            f"{entry.users:,}",
            f"{entry.difference:+.4f}",
            "-" if entry.low is None else f"{entry.low:+.4f} to {entry.high:+.4f}",
            str(entry.verdict),
        )
        for entry in entries
    ]


def main(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Run the study, and print it."""
    with progress_bars() as progress:
        study = run(arguments.overrides, progress)
    show(study)
    console.print("Next: recsys ui")


def _ranking_baselines(config: RunConfig, encoded: EncodedDataset, progress: Progress) -> dict[str, dict[str, float]]:
    """Rank the test candidates by the plain columns that the data's configuration names; scores by the rule's name."""
    rules = getattr(config.data, "ranking_baselines", {})
    if not rules or not config.evaluation.ranking or not encoded.rows(RANKING_TEST):
        return {}
    dense = tuple(feature.name for feature in encoded.contract.schema.dense)
    scores = {name: column_score(dense, *columns) for name, columns in rules.items()}
    stream = scoring_stream(config, encoded, RANKING_TEST, started(config), RANKING_EXTRAS)
    ranked = evaluate_ranking(scores, stream, encoded.contract.schema.segments, CUTOFF, progress)
    return {name: ranking.flat_metrics("") for name, ranking in ranked.items()}


def _shortfalls(study: Study) -> list[str]:
    """Where a condition's mean over seeds is no better than a baseline that predicts for the same rows."""
    found = []
    for condition in dict.fromkeys(each.arm.condition for each in study.arms):
        scores = [each.result.scores for each in study.arms if each.arm.condition == condition]
        mean = {name: fmean(each[name] for each in scores) for name in scores[0] if all(name in s for s in scores)}
        found += [shortfall(condition, mean, name, beside) for name, beside in study.arms[0].result.baselines.items()]
    return [sentence for sentence in found if sentence]


def _charted(study: Study) -> list[str]:
    """Names of everything that an arm's chart page can show."""
    curves = Curves.load(study.arms[0].folder / CURVES)
    steps = [name for name in curves if "/" in name]
    followed = [names.TRAIN_LOSS, names.score(names.VALIDATION, LOG_LOSS.name), names.auc(names.VALIDATION)]
    followed += [names.grad_norm(names.WHOLE), names.ROWS_PER_SECOND, names.DATA_WAIT_SHARE, names.TRAIN_SECONDS]
    return [*steps, *followed, *(name for name in study.arms[0].result.metrics if "support" not in name)]


def _record(
    plan: StudyPlan,
    study: Study,
    measured: Sequence[MeasuredArm],
    held: Sequence[HeldEqual],
    typed: Sequence[str],
) -> None:
    """Write the report beside the arms and attach everything to a run of the study's own."""
    config, encoded = plan.config, plan.encoded
    title = f"{config.ablation.name} on {config.data.name}"
    intervals = auc_intervals(measured, (ALL, *encoded.contract.schema.segments))
    origin = Origin(encoded, plan.code, typed, config.ablation.seeds)
    evidence = gather(study.arms, study.scores, intervals, [line.sentence() for line in held], origin)
    report = study_report(title, study.comparisons, study_metrics(CUTOFF), study.rules, evidence)
    markdown = report.to_markdown()
    comparisons = [comparison.to_document() for comparison in study.comparisons]
    tags = {
        names.TAG_KIND: STUDY,
        names.TAG_ABLATION_ID: study.id,
        names.TAG_VERDICT: study.verdict,
        names.TAG_NOTE: markdown,
    }
    arms = [with_ranker_budget(each.config, encoded) for each in plan.planned()]
    # Its arms have learnt; the study itself compares what they say of the test rows, and ranks by its plain rules.
    has_ranked = any(f"{name_at(RECALL.name, CUTOFF)}/{ALL}" in scores for scores in study.baselines.values())
    uses = dataset_uses(encoded, config.data.name, (TEST, RANKING_TEST) if has_ranked else (TEST,))
    with start_run(open_store(config), f"study/{study.id}", study_params(config, arms), tags, uses) as tracked:
        for picture in report.pictures:
            place = study.folder / picture.file
            place.parent.mkdir(exist_ok=True)
            with writing(place):
                picture.figure.savefig(place, dpi=_DOTS_PER_INCH, bbox_inches="tight")
            tracked.attach(picture.file, place)
        for name, text in (("report.md", markdown), ("report.html", report.to_html())):
            write_text_atomically(study.folder / name, text)
            tracked.attach(name, text)
        tracked.attach("comparisons.json", write_json(study.folder / "comparisons.json", comparisons))
        held_document = [asdict(line) for line in held]
        tracked.attach("held_equal.json", write_json(study.folder / "held_equal.json", held_document))
        tracked.attach("arms.json", json.dumps([each.result.name for each in study.arms]))
        drawn = charted_values(Curves.load(each.folder / CURVES) for each in study.arms)
        for view in study_views(study.id, _charted(study), drawn):
            tracked.save_chart_view(view)
