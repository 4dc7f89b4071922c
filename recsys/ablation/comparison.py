"""Paired differences between two conditions of a study, overall and per segment, each with its verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from recsys.ablation.arms import Contrast
from recsys.ablation.bootstrap import MeasuredArm
from recsys.ablation.intervals import Spread, holm, spread_of
from recsys.ablation.planning import seeds_to_settle
from recsys.all_segments import ALL
from recsys.errors import DataError, UsageError
from recsys.metrics.registry import is_gain


class Verdict(StrEnum):
    """What a difference lets one say of the first condition beside the second."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    OPEN = "not enough evidence"

    @property
    def turned(self) -> "Verdict":
        """What it says of the second condition beside the first."""
        return {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}.get(self, self)


@dataclass(frozen=True)
class Rules:
    """When a verdict is given.

    Attributes:
        level: chance of a false "better" or "worse" that is accepted, per metric: of the difference overall, and once
            more of the segments' differences together. They answer two questions, and are two families of tests.
        margins: metric -> a difference smaller than this is of no account; a metric without one is never equivalent.
        segments_together: the segments share the level, as a report claims something of all of them. Without, each has
            it for itself: so is chosen what is then judged on other rows.
    """

    level: float
    margins: Mapping[str, float]
    segments_together: bool = True


@dataclass(frozen=True)
class Difference:
    """First condition minus second in one metric and segment.

    Attributes:
        first_mean, second_mean: means over the seeds, on all test users.
        difference: their difference in the metric's own unit and direction.
        low, high: its interval at the level of the rules, from both sources of chance; None where it is unknown.
        seed_deviation, user_deviation: the two sources, the latter's part that all seeds share; see `intervals.Spread`.
        p_value: of no difference; where the segments share the level, theirs are corrected for it (Holm 1979).
        seeds_to_settle: seeds in all that would settle an open verdict in four studies of five (`planning.py`); None
            where it is not open or where no number of seeds would.
    """

    metric: str
    segment: str
    rows: int
    users: int
    seeds: int
    first_mean: float
    second_mean: float
    difference: float
    low: float | None
    high: float | None
    seed_deviation: float | None
    user_deviation: float | None
    p_value: float | None
    verdict: Verdict
    seeds_to_settle: int | None


@dataclass(frozen=True)
class Comparison:
    """A contrast with its differences: for each metric the one overall first, then the segments in order.

    A metric that is undefined in a segment has no difference there.
    """

    contrast: Contrast
    differences: tuple[Difference, ...]

    def find(self, metric: str, segment: str = ALL) -> Difference | None:
        """The difference of that metric and segment; None where it is undefined."""
        found = (d for d in self.differences if (d.metric, d.segment) == (metric, segment))
        return next(found, None)

    def of_segments(self, metric: str) -> tuple[Difference, ...]:
        """The metric's differences in the segments, without the one overall."""
        return tuple(d for d in self.differences if d.metric == metric and d.segment != ALL)

    def to_document(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def compare(contrast: Contrast, arms: Sequence[MeasuredArm], rules: Rules) -> Comparison:
    """Compare the contrast's two conditions, paired by seed, in every metric and segment that `arms` were measured in.

    Raises:
        UsageError: a condition has no arms, or lacks a seed that the other has.
        DataError: arms were measured on different test rows.
    """
    first, second = _pairs(contrast, arms)
    _refuse_unlike_rows([*first, *second])
    metrics = dict.fromkeys(metric for metric, _ in first[0].values)
    differences: list[Difference] = []
    for metric in metrics:
        segments = [segment for name, segment in first[0].values if name == metric and segment != ALL]
        for family in ([ALL], *([segments] if rules.segments_together else [[each] for each in segments])):
            differences += _judged_together(metric, family, first, second, rules)
    return Comparison(contrast, tuple(differences))


@dataclass(frozen=True)
class FixedDifference:
    """First model minus second in one segment, with its interval; the models stand as they are, so no seed counts."""

    value: float
    low: float
    high: float


def compare_fixed(first: MeasuredArm, second: MeasuredArm, metric: str, level: float) -> dict[str, FixedDifference]:
    """Compare two models that are at hand, such as a challenger and a champion: is one better on other users too?

    That is another question than `compare` answers, which asks of two designs and so must allow for other seeds.

    Returns:
        "all" and each segment where the metric and its interval are defined -> difference, in the metric's direction.

    Raises:
        DataError: the models were measured on different test rows.
    """
    _refuse_unlike_rows([first, second])
    found: dict[str, FixedDifference] = {}
    for (name, segment), values in first.values.items():
        if name != metric:
            continue
        pair = (values - second.values[name, segment])[None]
        spread = spread_of(pair, first.support[name, segment].effective_users)
        half_width = None if spread is None else spread.half_width_of_users(level)
        if spread is not None and half_width is not None:
            value = spread.difference
            found[segment] = FixedDifference(value, value - half_width, value + half_width)
    return found


def _pairs(contrast: Contrast, arms: Sequence[MeasuredArm]) -> tuple[list[MeasuredArm], list[MeasuredArm]]:
    by_seed = {
        condition: {arm.seed: arm for arm in arms if arm.condition == condition}
        for condition in (contrast.first, contrast.second)
    }
    for mine, other in ((contrast.first, contrast.second), (contrast.second, contrast.first)):
        if missing := sorted(set(by_seed[other]) - set(by_seed[mine])):
            raise UsageError(
                f"Arm {mine}/s{missing[0]} has no result, but {other}/s{missing[0]} has: differences are taken in "
                "pairs of one seed. Run the study again to fill in what is missing, or leave that seed out."
            )
    if not by_seed[contrast.first]:
        raise UsageError(
            f"Neither {contrast.first} nor {contrast.second} has a finished arm: there is nothing to compare."
        )
    seeds = sorted(by_seed[contrast.first])
    return [by_seed[contrast.first][seed] for seed in seeds], [by_seed[contrast.second][seed] for seed in seeds]


def _refuse_unlike_rows(arms: Sequence[MeasuredArm]) -> None:
    reference = arms[0]
    for arm in arms[1:]:
        unlike = [name for name, value in reference.fingerprints.items() if arm.fingerprints.get(name) != value]
        if unlike:
            raise DataError(
                f"Arms {reference.condition}/s{reference.seed} and {arm.condition}/s{arm.seed} were not evaluated on "
                f"the same rows in the same order: they differ in {', '.join(unlike)}. Evaluate both on one encoded "
                "dataset, with the same split, batch order and number of processes."
            )


def _judged_together(
    metric: str,
    segments: Sequence[str],
    first: Sequence[MeasuredArm],
    second: Sequence[MeasuredArm],
    rules: Rules,
) -> list[Difference]:
    """The differences in these segments: p-values corrected for each other, verdicts, what open ones still need."""
    spreads = {}
    for segment in segments:
        key = (metric, segment)
        pairs = np.stack([mine.values[key] - other.values[key] for mine, other in zip(first, second, strict=True)])
        if (spread := spread_of(pairs, first[0].support[key].effective_users)) is not None:
            spreads[segment] = spread
    p_values = {segment: value for segment, spread in spreads.items() if (value := spread.p_value()) is not None}
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    judged = []
    for segment, spread in spreads.items():
        found = _judged(_difference(metric, segment, spread, corrected.get(segment), first, second, rules), rules)
        if found.verdict is Verdict.OPEN:
            margin = rules.margins.get(metric, 0.0)
            needed = seeds_to_settle(spread, margin, rules.level, max(1, len(corrected)))
            found = replace(found, seeds_to_settle=needed)
        judged.append(found)
    return judged


def _difference(
    metric: str,
    segment: str,
    spread: Spread,
    p_value: float | None,
    first: Sequence[MeasuredArm],
    second: Sequence[MeasuredArm],
    rules: Rules,
) -> Difference:
    """The figures of one difference, not judged yet."""
    key = (metric, segment)
    support = first[0].support[key]
    half_width = spread.half_width(rules.level)
    return Difference(
        metric=metric,
        segment=segment,
        rows=support.rows,
        users=support.users,
        seeds=spread.seeds,
        first_mean=float(np.mean([arm.values[key][0] for arm in first])),
        second_mean=float(np.mean([arm.values[key][0] for arm in second])),
        difference=spread.difference,
        low=None if half_width is None else spread.difference - half_width,
        high=None if half_width is None else spread.difference + half_width,
        seed_deviation=spread.seed_deviation,
        user_deviation=spread.shared_user_deviation,
        p_value=p_value,
        verdict=Verdict.OPEN,
        seeds_to_settle=None,
    )


def _judged(difference: Difference, rules: Rules) -> Difference:
    """With its verdict. Equivalence goes first: a difference that is surely there but of no account is no win.

    Equivalence asks for the whole interval inside the margin, which at 95 % is stricter than the usual two one-sided
    tests at 5 % (Schuirmann 1987); so it needs no correction of its own.
    """
    low, high, p_value = difference.low, difference.high, difference.p_value
    if low is None or high is None or p_value is None:
        return difference
    margin = rules.margins.get(difference.metric, 0.0)
    if -margin < low and high < margin:
        return replace(difference, verdict=Verdict.EQUIVALENT)
    if p_value >= rules.level:
        return difference
    first_wins = is_gain(difference.metric, difference.difference)
    return replace(difference, verdict=Verdict.BETTER if first_wins else Verdict.WORSE)
