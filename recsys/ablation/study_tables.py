"""A study's tables, as plain rows for any printer."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from recsys.ablation.comparison import Comparison, Rules
from recsys.ablation.costs import Costs
from recsys.ablation.page import ReportTable
from recsys.all_segments import ALL
from recsys.metrics.registry import label_of
from recsys.tracking.drift_figure import Groups

# Costs that are shown in another unit than they are kept in: heading, factor.
_READABLE = {
    "seconds_per_step": ("ms per step", 1e3),
    "peak_memory_bytes": ("peak memory, MB", 1e-6),
    "peak_gpu_memory_bytes": ("peak GPU memory, MB", 1e-6),
}


BySeed = Mapping[str, Sequence[Mapping[str, float]]]
"""Condition, or a baseline's name -> for each seed, name -> value: scores as "auc/all", or costs."""


def arms_table(scores: BySeed, metrics: Sequence[str]) -> ReportTable:
    """Mean and standard deviation over seeds of each metric on all rows, a row per condition.

    A metric that no arm has is left out; one that a condition lacks is a dash.
    """
    names = {f"{name}/{ALL}": label_of(name) for name in metrics}
    return _arms_table("Arms: mean ± standard deviation over seeds", scores, names)


def segments_table(scores: BySeed, metric: str, segments: Sequence[str]) -> ReportTable:
    """The same of one metric, a column per segment."""
    names = {f"{metric}/{segment}": segment for segment in segments}
    return _arms_table(f"{label_of(metric)} by segment", scores, names)


def _arms_table(title: str, scores: BySeed, headings: Mapping[str, str]) -> ReportTable:
    known = {name for seeds in scores.values() for seed in seeds for name in seed}
    names = [name for name in headings if name in known]
    rows = [
        (condition, str(len(seeds)), *(_mean_and_deviation([seed.get(name) for seed in seeds]) for name in names))
        for condition, seeds in scores.items()
    ]
    return ReportTable(title, ("arm", "seeds", *(headings[name] for name in names)), tuple(rows))


def costs_table(costs: BySeed) -> ReportTable:
    """What each condition cost, means over seeds; conditions without any cost are left out."""
    means = {condition: found for condition, found in mean_costs(costs).items() if found}
    names = list(dict.fromkeys(name for found in means.values() for name in found))
    header = ("arm", *(_READABLE.get(name, (name.replace("_", " "), 1))[0] for name in names))
    rows = tuple((condition, *(_cost(name, found.get(name)) for name in names)) for condition, found in means.items())
    return ReportTable("What it costs", header, rows)


def drift_table(drift: Mapping[str, Groups]) -> ReportTable:
    """How far each condition moved the tower's item vectors, over all items and by segment, means over seeds.

    Args:
        drift: condition -> kind of group -> group -> figures, of conditions that move the tower.
    """
    header = ("arm", "items", "cosine with the original", "neighbours kept", "change of length")
    rows = [
        (
            condition,
            name,
            f"{1 - figures['cosine_distance']:.4f}",
            "-" if figures["neighbours_lost"] is None else f"{1 - figures['neighbours_lost']:.1%}",
            f"{figures['norm_change']:.1%}",
        )
        for condition, kinds in drift.items()
        for kind in ("all", "segment")
        for name, figures in kinds.get(kind, {}).items()
    ]
    return ReportTable("How far the tower moved", header, tuple(rows))


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


def mean_costs(costs: BySeed) -> Costs:
    """Condition -> each cost's mean over its seeds that have it."""
    return {
        condition: {
            name: float(np.mean([seed[name] for seed in seeds if name in seed]))
            for name in dict.fromkeys(name for seed in seeds for name in seed)
        }
        for condition, seeds in costs.items()
    }


def _mean_and_deviation(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{np.mean(known):.4f}" + (f" ± {np.std(known, ddof=1):.4f}" if len(known) > 1 else "")


def _cost(name: str, mean: float | None) -> str:
    if mean is None:
        return "-"
    shown = mean * _READABLE.get(name, (name, 1))[1]
    return f"{shown:,.0f}" if abs(shown) >= 1000 or shown == math.floor(shown) else f"{shown:.4g}"


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
