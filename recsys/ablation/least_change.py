"""The least change that does the job: the smallest change to the tower that is as good as the best one.

Training modes change more or less of a pre-trained tower: nothing, an adapter beside it, its tables, its dense layers,
all of it. What changes less is cheaper to train, to keep and to undo, and other models may go on sharing the tower. So
the condition to take is not that with the highest mean, which among equals is the luckiest, but the smallest that the
study shows to be equivalent to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from recsys.ablation.comparison import Comparison, Difference, Verdict
from recsys.ablation.costs import Costs
from recsys.ablation.page import ReportTable
from recsys.all_segments import ALL
from recsys.metrics.registry import is_gain, label_of

_SIZE = "trained_parameters"


class Grounds(StrEnum):
    """Why a condition is the least change that does the job."""

    ONLY_BEST = "better than every smaller change"
    SMALLEST = "the best mean, and nothing changes less"
    EQUIVALENT = "equivalent to the best"
    OPEN = "not enough evidence"


@dataclass(frozen=True)
class LeastChange:
    """The condition to take for one segment, or for all rows.

    Attributes:
        segment: "all" for all rows.
        choice: the axis' value of the condition; where the evidence is not enough, of the best.
        best: that of the condition with the best mean.
        difference: choice minus best, with `low` and `high`; None where the two are one, or no interval is known.
    """

    segment: str
    choice: Any
    best: Any
    grounds: Grounds
    difference: float | None
    low: float | None
    high: float | None


def by_size(comparisons: Sequence[Comparison], costs: Costs) -> list[str]:
    """Return the conditions of some comparisons, from the one in which the fewest numbers learn.

    Args:
        costs: condition -> costs; one without a number of trained parameters comes last.
    """
    found = dict.fromkeys(name for each in comparisons for name in (each.contrast.first, each.contrast.second))
    return sorted(found, key=lambda name: costs.get(name, {}).get(_SIZE, float("inf")))


def least_changes(comparisons: Sequence[Comparison], metric: str, order: Sequence[str]) -> list[LeastChange]:
    """Return the least change overall, and in every segment in which the metric is defined for all conditions.

    Args:
        comparisons: of every two of the conditions, on one axis and with the rest held equal.
        order: the conditions, from the smallest change to the greatest.
    """
    segments = dict.fromkeys(each.segment for one in comparisons for each in one.differences if each.metric == metric)
    found = [
        _least(comparisons, metric, segment, order) for segment in (ALL, *(each for each in segments if each != ALL))
    ]
    return [each for each in found if each is not None]


def by_circumstance(comparisons: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    """Return the comparisons by what is held equal in them, in words; "" where nothing else varies."""
    found: dict[str, list[Comparison]] = {}
    for each in comparisons:
        found.setdefault(each.contrast.circumstance, []).append(each)
    return found


def least_changes_table(comparisons: Sequence[Comparison], metric: str, costs: Costs) -> ReportTable:
    """Return a row for all rows and for every segment, of every circumstance: what to take, and why."""
    header = (
        "held equal",
        "segment",
        "least change",
        "grounds",
        "best mean",
        f"{label_of(metric)}: least - best",
        "interval",
    )
    rows = [
        (
            words or "-",
            each.segment,
            str(each.choice),
            str(each.grounds),
            str(each.best),
            "-" if each.difference is None else f"{each.difference:+.4f}",
            "-" if each.low is None or each.high is None else f"{each.low:+.4f} to {each.high:+.4f}",
        )
        for words, group in by_circumstance(comparisons).items()
        for each in least_changes(group, metric, by_size(group, costs))
    ]
    return ReportTable("The least change that does the job", header, tuple(rows))


def _least(comparisons: Sequence[Comparison], metric: str, segment: str, order: Sequence[str]) -> LeastChange | None:
    of_pair: dict[tuple[str, str], Difference] = {}
    means: dict[str, float] = {}
    values: dict[str, Any] = {}
    for one in comparisons:
        contrast, difference = one.contrast, one.find(metric, segment)
        if difference is None:
            continue
        of_pair[contrast.first, contrast.second] = difference
        means |= {contrast.first: difference.first_mean, contrast.second: difference.second_mean}
        values |= {contrast.first: contrast.first_value, contrast.second: contrast.second_value}
    if set(order) - set(means):
        return None
    best = order[0]
    for name in order[1:]:  # of two with one mean the smaller
        if is_gain(metric, means[name] - means[best]):
            best = name
    smaller = {name: _beside(of_pair, name, best) for name in order[: order.index(best)]}
    choice, grounds = _choice(smaller, best)
    _, found, low, high = smaller.get(choice, (None, None, None, None))
    return LeastChange(segment, values[choice], values[best], grounds, found, low, high)


_Beside = tuple[Verdict | None, float | None, float | None, float | None]


def _choice(smaller: Mapping[str, _Beside], best: str) -> tuple[str, Grounds]:
    """The smallest that is equivalent to the best; else the best, which is or is not better than all smaller ones."""
    if not smaller:
        return best, Grounds.SMALLEST
    for name, (verdict, *_) in smaller.items():
        if verdict is Verdict.EQUIVALENT:
            return name, Grounds.EQUIVALENT
    is_decided = all(verdict is Verdict.WORSE for verdict, *_ in smaller.values())
    return best, Grounds.ONLY_BEST if is_decided else Grounds.OPEN


def _beside(of_pair: Mapping[tuple[str, str], Difference], name: str, best: str) -> _Beside:
    """A condition beside the best one: its verdict, and how much it has more, with the interval."""
    if (found := of_pair.get((name, best))) is not None:
        return found.verdict, found.difference, found.low, found.high
    found = of_pair[best, name]
    low, high = (None, None) if found.low is None or found.high is None else (-found.high, -found.low)
    return found.verdict.turned, -found.difference, low, high
