"""A study: every arm through `train.run`, the paired comparison, the verdict."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import recsys
from pipelines import prepare, train
from pipelines.compose import compose_config
from pipelines.console import console, progress_bars, show_table
from pipelines.fitting import RANKING_TEST, dataset_uses, scoring_stream, started
from pipelines.job import RANKING_EXTRAS
from pipelines.recording import CUTOFF, Curves, open_store, run_params
from pipelines.run_folder import CURVES, RunIdentity, load_result
from pipelines.study import FinishedArm, auc_intervals, measure, write_json
from pipelines.study_report import Origin, gather
from recsys.ablation.arms import Arm, contrasts, expand_grid, study_id
from recsys.ablation.comparison import Comparison, Rules, compare
from recsys.ablation.report import study_report
from recsys.ablation.resampling import ALL, MeasuredArm
from recsys.ablation.tables import ArmResult, arms_table, mean_costs
from recsys.ablation.verdict import verdict_paragraph
from recsys.config import RunConfig, config_document
from recsys.datasets.encoded import EncodedDataset
from recsys.errors import TrainingError
from recsys.evaluation.ranking import evaluate_ranking
from recsys.evaluation.scores import column_score
from recsys.files import ensure_writable, fingerprint_of, write_text_atomically
from recsys.progress import Progress
from recsys.scheduling.stage import code_version_of
from recsys.tracking import figures, names
from recsys.tracking.run import start_run
from recsys.tracking.views import study_views

SEED_KEY = "training.seed"
DECISIVE = "auc"
SHOWN = ("auc", "log_loss", "grouped_auc", "recall_20", "ndcg_20", "recall_20_new", "ndcg_20_new")
_SHORT = {"frozen_tower": "frozen", "end_to_end": "end-to-end", "parallel_conditional": "parallel+conditional"}
_LEVEL = 0.05
_DOTS_PER_INCH = 150
# What may differ between two starts of the same study without making it another one.
_NOT_OF_THE_STUDY = ("runtime", "tracking", "daily")


@dataclass(frozen=True)
class Study:
    """A finished study: its arms, baselines, comparisons, and where its files are."""

    id: str
    folder: Path
    arms: tuple[FinishedArm, ...]
    baselines: tuple[ArmResult, ...]
    comparisons: tuple[Comparison, ...]
    rules: Rules
    verdict: str

    @property
    def results(self) -> list[ArmResult]:
        """The rows of its table: arms, then baselines."""
        return [*(each.figures() for each in self.arms), *self.baselines]


def run(overrides: Sequence[str], progress: Progress) -> Study:
    """Train every arm that has not finished yet, compare, and record the study.

    Args:
        overrides: as on the command line; an arm is these and its own.

    Raises:
        UsageError: the grid cannot be used.
        TrainingError: arms that must share their budget did not.
    """
    config = compose_config(overrides)
    ablation = config.ablation
    ensure_writable(config.runtime.runs)
    encoded = prepare.run(config, progress)
    arms = expand_grid(ablation.grid, ablation.seeds, _SHORT)
    questions = contrasts(arms, ablation.contrast)
    fingerprint = _fingerprint(config, encoded)
    identity = study_id(ablation.name, fingerprint, ablation.grid)
    folder = config.runtime.runs / config.data.name / identity
    finished = _train_all(overrides, arms, identity, fingerprint, folder, progress)
    held_equal = _held_equal(finished, encoded)
    segments = encoded.contract.schema.segments
    measured = measure(finished, segments, ablation.resamples, progress)
    rules = Rules(level=_LEVEL, margins={DECISIVE: ablation.margin, "grouped_auc": ablation.margin})
    comparisons = tuple(compare(question, measured, rules) for question in questions)
    costs = mean_costs([each.figures() for each in finished])
    verdict = verdict_paragraph(comparisons, DECISIVE, rules, costs)
    baselines = _baselines(config, encoded, progress)
    study = Study(identity, folder, tuple(finished), tuple(baselines), comparisons, rules, verdict)
    _record(config, encoded, study, measured, held_equal, overrides)
    return study


def show(study: Study) -> None:
    """Print the study's tables and verdict; what is too wide for a terminal stands in the report."""
    table = arms_table([ArmResult(each.condition, each.seed, each.metrics) for each in study.results], SHOWN)
    # Seeds are the second column, the same for every arm.
    rows = [(row[0], *(cell.replace(" ± ", "±") for cell in row[2:])) for row in table.rows]
    show_table(table.title, (table.header[0], *table.header[2:]), rows)
    for comparison in study.comparisons:
        contrast = comparison.contrast
        held = ", ".join(str(value) for value in contrast.held.values())
        title = f"{contrast.first_value} minus {contrast.second_value}, AUC{f' ({held})' if held else ''}"
        show_table(title, ("segment", "users", "difference", "95 % interval", "verdict"), _difference_rows(comparison))
    console.print(f"\n[bold]Verdict.[/bold] {study.verdict}\n")
    console.print(f"Report: {study.folder / 'report.html'}", soft_wrap=True)


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


def _fingerprint(config: RunConfig, encoded: EncodedDataset) -> str:
    """What an arm's result follows from beside its own choices: settings, data and code."""
    document = {key: value for key, value in config_document(config).items() if key not in _NOT_OF_THE_STUDY}
    document["ablation"] = {}
    document["training"].pop("seed")
    for key in config.ablation.grid:
        document.pop(key.split(".")[0], None) if "." not in key else None
    # Where the raw files lie does not matter: the prepared folder's name says what was in them.
    document["data"] = encoded.root.parent.name
    return fingerprint_of([document, code_version_of(recsys)])


def _train_all(
    overrides: Sequence[str], arms: Sequence[Arm], identity: str, fingerprint: str, folder: Path, progress: Progress
) -> list[FinishedArm]:
    colours = figures.arm_colours(list(dict.fromkeys(arm.condition for arm in arms)))
    finished = []
    for done, arm in enumerate(arms):
        progress("arms", done, len(arms))
        place = folder / f"{arm.name.replace('/', '-')}-{arm.id(fingerprint)[:8]}"
        result = load_result(place)
        if result is None:
            config = compose_config([*overrides, *arm.overrides(SEED_KEY)])
            run_identity = RunIdentity(place, arm.name, arm.condition, "arm", identity, colours[arm.condition])
            result = train.run(config, run_identity, progress)
        finished.append(FinishedArm(arm, place, result))
    progress("arms", len(arms), len(arms))
    return finished


def _held_equal(finished: Sequence[FinishedArm], encoded: EncodedDataset) -> list[str]:
    """Check what the arms must share, and say it.

    Raises:
        TrainingError: arms were given different budgets.
    """
    budgets = {each.result.budget_steps for each in finished}
    if len(budgets) > 1:
        raise TrainingError(
            f"The arms were given budgets of {sorted(budgets)} steps: a longer one would win by that alone. Keep "
            "`training.epochs` and `training.batch_size` out of the grid, or compare such arms in a study of their own."
        )
    return [
        f"Data: contract {encoded.contract.fingerprint}, {encoded.rows('train'):,} training rows.",
        f"Budget: {budgets.pop()} steps each, early stopping by validation log loss, best weights measured.",
        "Pairs of one seed share initial weights of all parts, the pre-trained tower, and the order of the rows.",
    ]


def _baselines(config: RunConfig, encoded: EncodedDataset, progress: Progress) -> list[ArmResult]:
    """Rank the test candidates by the plain columns that the data's configuration names."""
    rules = getattr(config.data, "ranking_baselines", {})
    if not rules or not config.evaluation.ranking or not encoded.rows(RANKING_TEST):
        return []
    dense = tuple(feature.name for feature in encoded.contract.schema.dense)
    scores = {name: column_score(dense, *columns) for name, columns in rules.items()}
    stream = scoring_stream(config, encoded, RANKING_TEST, started(config), RANKING_EXTRAS)
    ranked = evaluate_ranking(scores, stream, encoded.contract.schema.segments, CUTOFF, progress)
    return [ArmResult(name, 0, ranking.flat_metrics("")) for name, ranking in ranked.items()]


def _charted(study: Study) -> list[str]:
    """Names of everything that an arm's chart page can show."""
    curves = Curves.load(study.arms[0].folder / CURVES)
    steps = [name for name in curves if "/" in name]
    followed = [names.TRAIN_LOSS, names.score(names.VALIDATION, "log_loss"), names.auc(names.VALIDATION)]
    followed += [names.grad_norm(names.WHOLE), names.ROWS_PER_SECOND, names.DATA_WAIT_SHARE, names.TRAIN_SECONDS]
    return [*steps, *followed, *(name for name in study.arms[0].result.metrics if "support" not in name)]


def _record(
    config: RunConfig,
    encoded: EncodedDataset,
    study: Study,
    measured: Sequence[MeasuredArm],
    held_equal: Sequence[str],
    typed: Sequence[str],
) -> None:
    """Write the report beside the arms and attach everything to a run of the study's own."""
    title = f"{config.ablation.name} on {config.data.name}"
    intervals = auc_intervals(measured, (ALL, *encoded.contract.schema.segments))
    origin = Origin(encoded, code_version_of(recsys), typed, config.ablation.seeds)
    evidence = gather(study.arms, intervals, held_equal, origin)
    report = study_report(title, study.comparisons, study.results, SHOWN, study.rules, evidence)
    markdown = report.to_markdown()
    comparisons = [comparison.to_document() for comparison in study.comparisons]
    tags = {
        names.TAG_KIND: "study",
        names.TAG_ABLATION_ID: study.id,
        names.TAG_VERDICT: study.verdict,
        names.TAG_NOTE: markdown,
    }
    uses = dataset_uses(encoded, config.data.name, ("train", "validation", "test"))
    with start_run(open_store(config), f"study/{study.id}", run_params(config, "study"), tags, uses) as tracked:
        for picture in report.pictures:
            place = study.folder / picture.file
            place.parent.mkdir(exist_ok=True)
            picture.figure.savefig(place, dpi=_DOTS_PER_INCH, bbox_inches="tight")
            tracked.attach(picture.file, place)
        for name, text in (("report.md", markdown), ("report.html", report.to_html())):
            write_text_atomically(study.folder / name, text)
            tracked.attach(name, text)
        tracked.attach("comparisons.json", write_json(study.folder / "comparisons.json", comparisons))
        tracked.attach("arms.json", json.dumps([each.result.name for each in study.arms]))
        for view in study_views(study.id, _charted(study)):
            tracked.save_chart_view(view)
