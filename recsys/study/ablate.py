"""A study: every arm through `train.run`, the paired comparison, the verdict."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from recsys.ablation.bootstrap import MeasuredArm
from recsys.ablation.comparison import Comparison, Rules, compare
from recsys.ablation.page import ReportTable
from recsys.ablation.pairing import HeldEqual
from recsys.ablation.study_report import study_report
from recsys.ablation.study_tables import BySeed, mean_costs
from recsys.ablation.verdict import verdict_paragraph
from recsys.all_segments import ALL
from recsys.config import RunConfig
from recsys.datasets.encoded import EncodedDataset
from recsys.evaluation.ranking import evaluate_ranking
from recsys.evaluation.scores import column_score
from recsys.files import ensure_writable, write_text_atomically, writing
from recsys.locks import held_lock
from recsys.metrics.auc import AUC
from recsys.metrics.grouped_auc import GROUPED_AUC
from recsys.metrics.ranked_lists import RECALL, name_at
from recsys.metrics.registry import study_metrics
from recsys.progress import Progress
from recsys.run import prepare
from recsys.run.assemble import with_ranker_budget
from recsys.run.curves import charted_values, load_curves
from recsys.run.fitted_baselines import shortfall
from recsys.run.folder import read_record
from recsys.run.record import CUTOFF, FOLLOWED, STUDY, final_metrics, open_store, study_params
from recsys.run.session import RANKING_EXTRAS
from recsys.run.streams import RANKING_TEST, TEST, dataset_uses, scoring_stream, started
from recsys.sharding.processes import device_kind
from recsys.study.execute import check_pairs, finish_arms
from recsys.study.finished import FinishedArm, auc_intervals, by_condition, measure, write_json
from recsys.study.plan import StudyGrid, StudyPlan
from recsys.study.report import Origin, gather
from recsys.tracking import names
from recsys.tracking.chart_views import study_views
from recsys.tracking.run import start_run

DECISIVE = AUC.name
TYPED, FROM_STUDY = "typed.json", "from_study.json"
"""Files of a study: the words that it was started with; and the mixed model that was made of it, once there is one."""

_LEVEL = 0.05
_DOTS_PER_INCH = 150


@dataclass(frozen=True)
class FinishedStudy:
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
        baselines = {name: [scores] for name, scores in self.baselines.items()}
        return {**by_condition(self.arms, lambda each: each.result.scores), **baselines}

    def shortfalls(self) -> list[str]:
        """Where a condition's mean over seeds is no better than a baseline that predicts for the same rows."""
        found = []
        baselines = self.arms[0].result.baselines
        for condition in dict.fromkeys(each.arm.condition for each in self.arms):
            seeds = [each.result.scores for each in self.arms if each.arm.condition == condition]
            mean = {name: fmean(each[name] for each in seeds) for name in seeds[0] if all(name in s for s in seeds)}
            found += [shortfall(condition, mean, name, scores) for name, scores in baselines.items()]
        return [sentence for sentence in found if sentence]


def run(overrides: Sequence[str], progress: Progress) -> FinishedStudy:
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


def _run(plan: StudyPlan, overrides: Sequence[str], progress: Progress) -> FinishedStudy:
    config, encoded, ablation = plan.config, plan.encoded, plan.config.ablation
    finished = finish_arms(plan, progress)
    held = check_pairs(plan, finished)
    segments = encoded.contract.schema.segments
    measured = measure(finished, segments, ablation.resamples, progress)
    rules = rules_of(config)
    comparisons = tuple(compare(question, measured, rules) for question in plan.grid.questions)
    costs = mean_costs(by_condition(finished, FinishedArm.costs))
    verdict = verdict_paragraph(comparisons, DECISIVE, rules, costs)
    # Fitted on the rows that all arms have, so any arm's will do.
    baselines = {f"baseline: {name}": scores for name, scores in finished[0].result.baselines.items()}
    baselines |= _ranking_baselines(config, encoded, progress)
    study = FinishedStudy(plan.id, plan.folder, tuple(finished), baselines, comparisons, rules, verdict)
    _record(plan, study, measured, held, overrides)
    return study


def rules_of(config: RunConfig) -> Rules:
    """Return the rules by which a study judges."""
    margin = config.ablation.margin
    return Rules(level=_LEVEL, margins={DECISIVE: margin, GROUPED_AUC.name: margin})


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


def _charted(study: FinishedStudy) -> list[str]:
    """Names of everything that an arm's chart page can show."""
    followed = [*FOLLOWED, names.grad_norm(names.WHOLE), names.ROWS_PER_SECOND, names.DATA_WAIT_SHARE]
    sections = ("train/", "perf/", f"{names.VALIDATION}/")
    curves = load_curves(study.arms[0].folder)
    steps = [name for name in curves if name not in followed and not name.startswith(sections)]
    followed += [names.TRAIN_SECONDS, *({names.GPU_IDLE_SHARE} & curves.keys())]
    scored = final_metrics(study.arms[0].result.scores).values()
    return [*steps, *followed, *(name for named in scored for name in named if "support" not in name)]


def _record(
    plan: StudyPlan,
    study: FinishedStudy,
    measured: Sequence[MeasuredArm],
    held: Sequence[HeldEqual],
    typed: Sequence[str],
) -> None:
    """Write the report beside the arms and attach everything to a run of the study's own."""
    config, encoded = plan.config, plan.encoded
    title = f"{config.ablation.name} on {config.data.name}"
    intervals = auc_intervals(measured, (ALL, *encoded.contract.schema.segments))
    write_json(study.folder / TYPED, list(typed))
    origin = Origin(encoded, plan.code, typed, config.ablation.seeds)
    evidence = gather(study.arms, study.scores, intervals, [line.sentence() for line in held], origin)
    if (mixed := study.folder / FROM_STUDY).is_file():
        tables = read_record(mixed, lambda text: [ReportTable(**each) for each in json.loads(text)["tables"]])
        evidence = replace(evidence, mixed=tables)
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
        drawn = charted_values(load_curves(each.folder) for each in study.arms)
        for view in study_views(study.id, _charted(study), drawn):
            tracked.save_chart_view(view)
