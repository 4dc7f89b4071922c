"""A study's tables, as plain rows for any printer and as Markdown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recsys.ablation.comparison import Comparison, Rules
from recsys.ablation.resampling import ALL
from recsys.ablation.verdict import METRIC_WORDS, Costs, verdict_paragraph


@dataclass(frozen=True)
class Table:
    """A heading, column names, and rows of as many texts."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        """A Markdown table; its first column is aligned left, the others right.

        >>> print(Table("Arms", ("arm", "AUC"), (("frozen", "0.71"),)).to_markdown())
        | arm | AUC |
        |:---|---:|
        | frozen | 0.71 |
        """
        rule = "|:---|" + "---:|" * (len(self.header) - 1)
        lines = [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (self.header, *self.rows)
        ]
        return "\n".join([lines[0], rule, *lines[1:]])


@dataclass(frozen=True)
class ArmResult:
    """Figures of one finished arm, or of a baseline under its own name as condition.

    Attributes:
        metrics: flat names as "auc/all", without a prefix.
        costs: "seconds_per_step", "trained_parameters", ...
    """

    condition: str
    seed: int
    metrics: Mapping[str, float]
    costs: Mapping[str, float] = field(default_factory=dict)


def arms_table(results: Sequence[ArmResult], metrics: Sequence[str], segment: str = ALL) -> Table:
    """Mean and standard deviation over seeds of each metric, a row per condition in the order of their first arm.

    A metric that no arm has is left out; one that a condition lacks is a dash.
    """
    by_condition = _by_condition(results)
    names = [name for name in metrics if any(f"{name}/{segment}" in result.metrics for result in results)]
    costs = list(dict.fromkeys(name for result in results for name in result.costs))
    rows = []
    for condition, arms in by_condition.items():
        figures = [_mean_and_deviation([arm.metrics.get(f"{name}/{segment}") for arm in arms]) for name in names]
        paid = [_cost([arm.costs.get(name) for arm in arms]) for name in costs]
        rows.append((condition, str(len(arms)), *figures, *paid))
    words = [METRIC_WORDS.get(name, name.replace("_", " ")) for name in names]
    header = ("arm", "seeds", *words, *(name.replace("_", " ") for name in costs))
    scope = "" if segment == ALL else f", {segment} users"
    return Table(f"Arms: mean ± standard deviation over seeds{scope}", header, tuple(rows))


def differences_table(comparisons: Sequence[Comparison], metric: str, rules: Rules) -> Table:
    """Every contrast's paired differences in one metric, overall and per segment, with interval and verdict."""
    word = METRIC_WORDS.get(metric, metric.replace("_", " "))
    basis = ("first - second", "segment", "rows", "users", "seeds", f"{word} first", f"{word} second")
    header = (*basis, "difference", f"{1 - rules.level:.0%} interval", "p (Holm)", "verdict")
    rows = [
        (
            f"{comparison.contrast.first} - {comparison.contrast.second}",
            entry.segment,
            f"{entry.rows:,}",
            f"{entry.users:,}",
            str(entry.seeds),
            f"{entry.first_mean:.4f}",
            f"{entry.second_mean:.4f}",
            f"{entry.difference:+.4f}",
            "-" if entry.low is None or entry.high is None else f"{entry.low:+.4f} to {entry.high:+.4f}",
            "-" if entry.p_value is None else _p_value(entry.p_value),
            str(entry.verdict),
        )
        for comparison in comparisons
        for entry in comparison.differences
        if entry.metric == metric
    ]
    return Table(f"Paired differences in {word}", header, tuple(rows))


def markdown_report(
    title: str,
    comparisons: Sequence[Comparison],
    results: Sequence[ArmResult],
    metrics: Sequence[str],
    rules: Rules,
    held_equal: Sequence[str],
) -> str:
    """The whole report: verdict first, then arms, differences, and what was held equal.

    Args:
        metrics: the columns of the arms' table; the first one decides. Those that were compared get a table each.
        held_equal: sentences on what the arms share, as checked by whoever ran them.
    """
    compared = dict.fromkeys(entry.metric for comparison in comparisons for entry in comparison.differences)
    tables = [arms_table(results, metrics)]
    tables += [differences_table(comparisons, metric, rules) for metric in metrics if metric in compared]
    parts = [f"# {title}", verdict_paragraph(comparisons, metrics[0], rules, mean_costs(results))]
    parts += [f"## {table.title}\n\n{table.to_markdown()}" for table in tables if table.rows]
    parts.append(_how_to_read(rules))
    if held_equal:
        parts.append("## What was held equal\n\n" + "\n".join(f"- {sentence}" for sentence in held_equal))
    return "\n\n".join(parts) + "\n"


def mean_costs(results: Sequence[ArmResult]) -> Costs:
    """Condition -> each cost's mean over its arms that have it."""
    return {
        condition: {
            name: float(np.mean([arm.costs[name] for arm in arms if name in arm.costs]))
            for name in dict.fromkeys(name for arm in arms for name in arm.costs)
        }
        for condition, arms in _by_condition(results).items()
    }


def _how_to_read(rules: Rules) -> str:
    margins = ", ".join(f"{value:g} {METRIC_WORDS.get(name, name)}" for name, value in rules.margins.items())
    return (
        "## How to read the differences\n\n"
        f"First minus second, paired by seed. The {1 - rules.level:.0%} interval covers both sources of chance: other "
        "seeds (Student's t, which is wide for few seeds) and other test users (users resampled whole). P-values of "
        "segments are corrected for their number (Holm). *Equivalent*: the whole interval lies within the margin "
        f"({margins or 'none set'}). *Better* or *worse*: the p-value is below {rules.level:g}. Otherwise there is "
        "*not enough evidence*, which is not the same as no difference."
    )


def _by_condition(results: Sequence[ArmResult]) -> dict[str, list[ArmResult]]:
    conditions = dict.fromkeys(result.condition for result in results)
    return {name: [result for result in results if result.condition == name] for name in conditions}


def _mean_and_deviation(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{np.mean(known):.4f}" + (f" ± {np.std(known, ddof=1):.4f}" if len(known) > 1 else "")


def _cost(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = float(np.mean(known))
    return f"{mean:,.0f}" if abs(mean) >= 1000 or mean == math.floor(mean) else f"{mean:.4g}"


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
