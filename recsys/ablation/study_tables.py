"""A study's tables, as plain rows for any printer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recsys.ablation.comparison import Comparison, Rules
from recsys.ablation.costs import Costs
from recsys.ablation.page import ReportTable
from recsys.all_segments import ALL
from recsys.metrics.registry import label_of

# Costs that are shown in another unit than they are kept in: heading, factor.
_READABLE = {
    "seconds_per_step": ("ms per step", 1e3),
    "peak_memory_bytes": ("peak memory, MB", 1e-6),
    "peak_gpu_memory_bytes": ("peak GPU memory, MB", 1e-6),
}


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


def arms_table(results: Sequence[ArmResult], metrics: Sequence[str], segment: str = ALL) -> ReportTable:
    """Mean and standard deviation over seeds of each metric, a row per condition in the order of their first arm.

    A metric that no arm has is left out; one that a condition lacks is a dash.
    """
    names = [name for name in metrics if any(f"{name}/{segment}" in result.metrics for result in results)]
    rows = []
    for condition, arms in _by_condition(results).items():
        found = [_mean_and_deviation([arm.metrics.get(f"{name}/{segment}") for arm in arms]) for name in names]
        rows.append((condition, str(len(arms)), *found))
    words = map(label_of, names)
    scope = "" if segment == ALL else f", {segment} users"
    return ReportTable(f"Arms: mean ± standard deviation over seeds{scope}", ("arm", "seeds", *words), tuple(rows))


def costs_table(results: Sequence[ArmResult]) -> ReportTable:
    """What each condition cost, means over seeds; conditions without any cost, such as baselines, are left out."""
    names = list(dict.fromkeys(name for result in results for name in result.costs))
    rows = tuple(
        (condition, *(_cost(name, [arm.costs.get(name) for arm in arms]) for name in names))
        for condition, arms in _by_condition(results).items()
        if any(arm.costs for arm in arms)
    )
    return ReportTable(
        "What it costs", ("arm", *(_READABLE.get(name, (name.replace("_", " "), 1))[0] for name in names)), rows
    )


def differences_table(comparisons: Sequence[Comparison], metric: str, rules: Rules) -> ReportTable:
    """Every contrast's paired differences in one metric, overall and per segment, with interval and verdict."""
    word = label_of(metric)
    basis = ("first - second", "segment", "rows", "users", "seeds", f"{word} first", f"{word} second")
    header = (*basis, "difference", f"{1 - rules.level:.0%} interval", "p (corrected)", "verdict")
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
    return ReportTable(f"Paired differences in {word}", header, tuple(rows))


def mean_costs(results: Sequence[ArmResult]) -> Costs:
    """Condition -> each cost's mean over its arms that have it."""
    return {
        condition: {
            name: float(np.mean([arm.costs[name] for arm in arms if name in arm.costs]))
            for name in dict.fromkeys(name for arm in arms for name in arm.costs)
        }
        for condition, arms in _by_condition(results).items()
    }


def _by_condition(results: Sequence[ArmResult]) -> dict[str, list[ArmResult]]:
    conditions = dict.fromkeys(result.condition for result in results)
    return {name: [result for result in results if result.condition == name] for name in conditions}


def _mean_and_deviation(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{np.mean(known):.4f}" + (f" ± {np.std(known, ddof=1):.4f}" if len(known) > 1 else "")


def _cost(name: str, values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = float(np.mean(known)) * _READABLE.get(name, (name, 1))[1]
    return f"{mean:,.0f}" if abs(mean) >= 1000 or mean == math.floor(mean) else f"{mean:.4g}"


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
