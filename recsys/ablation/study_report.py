"""A study's report: the verdict first, then what bears it out, then how to do it again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recsys.ablation.comparison import Comparison, Rules, Verdict
from recsys.ablation.costs import Costs
from recsys.ablation.forest_plot import COLOURS, forest_plot
from recsys.ablation.least_change import least_changes_table
from recsys.ablation.page import Block, Code, Finding, Picture, Points, Report, ReportTable, Section
from recsys.ablation.study_tables import BySeed, arms_table, costs_table, differences_table, drift_table, mean_costs
from recsys.ablation.verdict import verdict_points
from recsys.metrics.registry import label_of
from recsys.tracking import names
from recsys.tracking.drift_figure import Groups, drift_by_group
from recsys.tracking.drift_names import DRIFT_FILE
from recsys.tracking.figures import SeedCurves, auc_by_segment, calibration, gradient_norms, learning_curves

_MODE = "training_mode"


@dataclass(frozen=True)
class Evidence:
    """What a finished study left behind beside its comparisons.

    Attributes:
        scores: condition, and name of a baseline -> each seed's scores as "auc/all".
        costs: condition -> what each seed cost.
        curves: tracked name -> condition -> a curve a seed.
        norms: part of the ranker -> condition -> a curve a seed.
        calibration: condition -> (predicted, observed, weight) a bin.
        auc_by_segment: condition -> segment -> (AUC, low, high).
        drift: condition that moves the tower -> how far it moved the item vectors, by kind of group and group.
        held_equal: sentences on what the arms share, as checked by whoever ran them.
        reproduce: the commands that make the study again.
        facts: what it was made of: (name, value) each.
        mixed: what became of its verdict as a model, where one was made of it.
    """

    scores: BySeed
    costs: BySeed
    curves: Mapping[str, SeedCurves]
    norms: Mapping[str, SeedCurves]
    calibration: Mapping[str, Sequence[tuple[float, float, float]]]
    auc_by_segment: Mapping[str, Mapping[str, tuple[float, float, float]]]
    drift: Mapping[str, Groups]
    held_equal: Sequence[str]
    reproduce: str
    facts: Sequence[tuple[str, str]]
    mixed: Sequence[ReportTable] = ()


def study_report(
    title: str,
    comparisons: Sequence[Comparison],
    metrics: Sequence[str],
    rules: Rules,
    evidence: Evidence,
) -> Report:
    """The whole report: verdict first, then the differences, how the arms learned, what they cost, how to do it again.

    Args:
        metrics: the columns of the arms' table; the first one decides. Those that were compared get a table each.
    """
    compared = dict.fromkeys(entry.metric for comparison in comparisons for entry in comparison.differences)
    tables = [differences_table(comparisons, metric, rules) for metric in metrics if metric in compared]
    sections = [
        _differences_section(comparisons, metrics[0], rules, tables[:1]),
        _least_change_section(comparisons, metrics[0], mean_costs(evidence.costs)),
        Section("From the verdict to a model", tuple(evidence.mixed)),
        _arms_section(metrics, evidence),
        _learning_section(evidence),
        _calibration_section(evidence),
        _drift_section(evidence),
        Section("What it costs", tuple(table for table in [costs_table(evidence.costs)] if table.rows)),
        Section("What was held equal", (Points(tuple(evidence.held_equal)),) if evidence.held_equal else ()),
        Section("The other metrics", tuple(table for table in tables[1:] if table.rows), is_folded=True),
        Section(
            "Do it again", (Code(evidence.reproduce), ReportTable("Made of", ("what", "value"), tuple(evidence.facts)))
        ),
    ]
    verdict = verdict_points(comparisons, metrics[0], rules, mean_costs(evidence.costs))
    findings = tuple(_finding(comparison, metrics[0], rules) for comparison in comparisons)
    return Report(title, verdict, findings, tuple(section for section in sections if section.blocks))


def _finding(comparison: Comparison, metric: str, rules: Rules) -> Finding:
    contrast, overall = comparison.contrast, comparison.find(metric)
    question = f"{contrast.first} against {contrast.second}".replace("_", " ")
    if overall is None:
        return Finding(question, "nothing can be said", f"{label_of(metric)} is undefined", COLOURS[Verdict.OPEN])
    interval = "no interval" if overall.low is None else f"{overall.low:+.4f} to {overall.high:+.4f}"
    detail = f"{overall.difference:+.4f} {label_of(metric)}, {1 - rules.level:.0%} interval {interval}"
    return Finding(question, str(overall.verdict), detail, COLOURS[overall.verdict])


def _differences_section(
    comparisons: Sequence[Comparison], metric: str, rules: Rules, tables: Sequence[ReportTable]
) -> Section:
    caption = (
        f"Paired differences in {label_of(metric)}, overall and by user segment, with {1 - rules.level:.0%} intervals."
    )
    forest = Picture("plots/forest.png", caption, forest_plot(comparisons, metric, rules))
    return Section("Differences by user segment", (forest, *tables, _how_to_read(rules)))


def _least_change_section(comparisons: Sequence[Comparison], metric: str, costs: Costs) -> Section:
    """For a study of how much of the tower learns; the smallest of several networks is no answer to its question."""
    title = "The least change that does the job"
    if any(each.contrast.axis != _MODE for each in comparisons):
        return Section(title, ())
    table = least_changes_table(comparisons, metric, costs)
    how = (
        "The smallest change to the tower, by the numbers that learn, that is equivalent to the one with the best "
        "mean. Where the evidence is not enough for a verdict, the best mean is named."
    )
    return Section(title, (table, how) if table.rows else ())


def _arms_section(metrics: Sequence[str], evidence: Evidence) -> Section:
    blocks: list[Block] = [arms_table(evidence.scores, metrics)]
    if evidence.auc_by_segment:
        caption = "AUC of every arm by user segment; whiskers are 95 % intervals of the mean over seeds."
        blocks.append(Picture(names.AUC_BY_SEGMENT_FILE, caption, auc_by_segment(evidence.auc_by_segment)))
    return Section("The arms", tuple(blocks))


def _learning_section(evidence: Evidence) -> Section:
    band = "Lines are means over seeds, bands reach from the lowest seed to the highest."
    blocks: list[Block] = []
    if evidence.curves:
        blocks.append(Picture(names.LEARNING_CURVES_FILE, band, learning_curves(evidence.curves)))
    if evidence.norms:
        caption = f"L2 norm of each part's gradient before clipping; 0 is a part that is frozen. {band}"
        blocks.append(Picture(names.GRADIENT_NORMS_FILE, caption, gradient_norms(evidence.norms)))
    return Section("How the arms learned", tuple(blocks))


def _calibration_section(evidence: Evidence) -> Section:
    if not evidence.calibration:
        return Section("Calibration", ())
    caption = "Predicted against observed on the test rows, all seeds of an arm together; larger marks hold more rows."
    return Section("Calibration", (Picture(names.CALIBRATION_FILE, caption, calibration(evidence.calibration)),))


def _drift_section(evidence: Evidence) -> Section:
    """May other models still share the tower? Empty where no arm moves it."""
    if not evidence.drift:
        return Section("Drift of the tower", ())
    text = (
        "Item vectors beside those that the arm began with, each item weighted by its training rows, means over seeds. "
        "Models that share the tower were fitted to the old vectors: the lower the cosine, the less they can use the "
        "new ones; where the neighbours are kept all the same, a linear map may do (`recsys towers compare`). Arms "
        "that freeze the tower are proven not to move it, and have no row."
    )
    caption = "1 - cosine with the original vector, and the share of the nearest neighbours that are others now."
    table, picture = drift_table(evidence.drift), Picture(DRIFT_FILE, caption, drift_by_group(evidence.drift))
    return Section("Drift of the tower", (text, table, picture))


def _how_to_read(rules: Rules) -> str:
    margins = ", ".join(f"{value:g} {label_of(name)}" for name, value in rules.margins.items())
    return (
        f"First minus second, paired by seed. The {1 - rules.level:.0%} interval covers both sources of chance: other "
        "seeds (Student's t, which is wide for few seeds) and other test users (a bootstrap of whole users). P-values "
        "of segments are corrected for being looked at together (Holm); the overall difference is a question of its "
        "own, and better or worse where its interval leaves out 0. *Equivalent*: the whole interval lies within the "
        f"margin ({margins or 'none set'}). *Better* or *worse*: the p-value is below "
        f"{rules.level:g}. Otherwise there is *not enough evidence*, which is not the same as no difference."
    )
