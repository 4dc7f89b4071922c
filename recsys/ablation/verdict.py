"""The answer of a study as a paragraph of plain words, with its numbers, and honest where there is no answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recsys.ablation.comparison import Comparison, Difference, Rules, Verdict
from recsys.ablation.costs import Costs, cost_sentences, is_cheaper, listed
from recsys.ablation.least_change import by_circumstance
from recsys.ablation.planning import MOST_SEEDS
from recsys.metrics.registry import is_gain, label_of

_ACTIONS = {"frozen_tower": "freeze the tower", "end_to_end": "fine-tune the tower"}


@dataclass(frozen=True)
class Answer:
    """What one contrast lets one do.

    Attributes:
        circumstance: what the other keys are held at, in words: "with composition conditional"; empty where nothing is.
        advice: what to do, or that it is open.
        sentences: the evidence: overall, by segment, costs.
    """

    circumstance: str
    advice: str
    sentences: tuple[str, ...]


def verdict_paragraph(comparisons: Sequence[Comparison], metric: str, rules: Rules, costs: Costs) -> str:
    """The study's answer as one paragraph; see `verdict_points`."""
    return " ".join(verdict_points(comparisons, metric, rules, costs))


def verdict_points(comparisons: Sequence[Comparison], metric: str, rules: Rules, costs: Costs) -> tuple[str, ...]:
    """The study's answer: first what to do, then for each circumstance the evidence for it.

    Args:
        comparisons: of one axis, such as every composition's frozen tower against end-to-end; of an axis with three or
            more values, of every two of them.
        metric: the one that decides.
        rules: those that `comparisons` were judged by.
        costs: of the conditions, for wins that are free.
    """
    answers = [
        answer(group[0], metric, rules, costs) if len(group) == 1 else _answer_of_many(group, metric, rules, costs)
        for group in by_circumstance(comparisons).values()
    ]
    summary = "; ".join(" ".join(part for part in (each.circumstance, each.advice) if part) for each in answers)
    evidence = []
    for each in answers:
        # With one contrast the summary has just said the circumstance.
        opening = each.circumstance if len(answers) > 1 else "overall"
        evidence.append(" ".join([f"{_capital(opening)}, {each.sentences[0]}", *each.sentences[1:]]))
    return (_capital(summary) + ".", *evidence)


def answer(comparison: Comparison, metric: str, rules: Rules, costs: Costs) -> Answer:
    """The advice of one contrast and the sentences that bear it out."""
    contrast, circumstance = comparison.contrast, _circumstance(comparison)
    overall = comparison.find(metric)
    if overall is None:
        return _undefined(circumstance, metric)
    cheaper = _cheaper(comparison, costs)
    sentences = [_overall_sentence(comparison, overall, rules)]
    sentences += _segment_sentences(comparison, metric, rules)
    mine, other = costs.get(contrast.first, {}), costs.get(contrast.second, {})
    sentences += cost_sentences(str(contrast.first_value), mine, other)
    return Answer(circumstance, _advice(comparison, overall, cheaper), tuple(sentences))


@dataclass(frozen=True)
class _Rival:
    """A value beside the one with the best mean: their comparison and difference, and what it says of the best one."""

    value: Any
    condition: str
    comparison: Comparison
    overall: Difference
    verdict: Verdict

    def of_best(self, difference: Difference) -> Verdict:
        """What one of the differences says of the best value."""
        is_first = self.condition == self.comparison.contrast.second
        return difference.verdict if is_first else difference.verdict.turned


def _answer_of_many(comparisons: Sequence[Comparison], metric: str, rules: Rules, costs: Costs) -> Answer:
    """Of an axis with three or more values: the one with the best mean beside each of the others."""
    circumstance = _circumstance(comparisons[0])
    means: dict[str, float] = {}
    values: dict[str, Any] = {}
    for each in comparisons:
        if (overall := each.find(metric)) is None:
            return _undefined(circumstance, metric)
        contrast = each.contrast
        means |= {contrast.first: overall.first_mean, contrast.second: overall.second_mean}
        values |= {contrast.first: contrast.first_value, contrast.second: contrast.second_value}
    best = max(means, key=lambda name: means[name] if is_gain(metric, 1.0) else -means[name])
    rivals = _rivals(comparisons, metric, best)
    basis = f"{_count(rivals[0].overall.seeds, 'seed')}, {_count(rivals[0].overall.users, 'user')}"
    found = f"{values[best]} has the best mean of {len(means)}, {means[best]:.4f} {label_of(metric)} ({basis})."
    sentences = [found, *_beside_the_best(rivals, rules), *_segments_of_many(rivals, metric, rules)]
    return Answer(circumstance, _advice_of_many(values[best], costs.get(best, {}), rivals, costs), tuple(sentences))


def _rivals(comparisons: Sequence[Comparison], metric: str, best: str) -> list[_Rival]:
    found = []
    for each in comparisons:
        contrast, overall = each.contrast, each.find(metric)
        if best in (contrast.first, contrast.second) and overall is not None:
            is_first = best == contrast.first
            value = contrast.second_value if is_first else contrast.first_value
            rival = _Rival(value, contrast.second if is_first else contrast.first, each, overall, overall.verdict)
            found.append(replace(rival, verdict=rival.of_best(overall)))
    return found


def _beside_the_best(rivals: Sequence[_Rival], rules: Rules) -> list[str]:
    """One sentence for each verdict that occurs."""
    openings = {
        Verdict.BETTER: "It is better than",
        Verdict.EQUIVALENT: "It is equivalent to",
        Verdict.OPEN: "There is not enough evidence that it is better than",
    }
    sentences = []
    for verdict, opening in openings.items():
        named = [
            f"{each.value} (by {abs(each.overall.difference):.4f}, {_interval(each.overall, rules, as_gain=True)}"
            + (f"; {_what_would_settle(each.overall)})" if verdict is Verdict.OPEN else ")")
            for each in rivals
            if each.verdict is verdict
        ]
        if named:
            sentences.append(f"{opening} {listed(named)}.")
    return sentences


def _segments_of_many(rivals: Sequence[_Rival], metric: str, rules: Rules) -> list[str]:
    """The segments in which the best of all rows is better, or worse, than another value."""
    sentences = []
    for verdict, words in ((Verdict.BETTER, "it is better than {}"), (Verdict.WORSE, "{} is better")):
        for each in rivals:
            segments = [d for d in each.comparison.of_segments(metric) if each.of_best(d) is verdict]
            if segments:
                gains = [f"{d.segment} (by {abs(d.difference):.4f}, {_interval(d, rules, True)})" for d in segments]
                plural = "s" * (len(segments) > 1)
                sentences.append(f"In the segment{plural} {listed(gains)} {words.format(each.value)}.")
    return sentences


def _advice_of_many(best: Any, cost: Mapping[str, float], rivals: Sequence[_Rival], costs: Costs) -> str:
    saving = [
        each.value
        for each in rivals
        if each.verdict is Verdict.EQUIVALENT and is_cheaper(costs.get(each.condition, {}), cost)
    ]
    if saving:
        return f"{_action(saving[0])}, which costs less than {best} and loses nothing"
    if still_open := [str(each.value) for each in rivals if each.verdict is Verdict.OPEN]:
        return f"not enough evidence to choose between {listed([str(best), *still_open])}"
    return _action(best)


def _circumstance(comparison: Comparison) -> str:
    held = comparison.contrast.circumstance
    return f"with {held}" if held else ""


def _undefined(circumstance: str, metric: str) -> Answer:
    return Answer(circumstance, "nothing can be said", (f"{label_of(metric)} is undefined on these test rows.",))


def _advice(comparison: Comparison, overall: Difference, cheaper: Any) -> str:
    contrast = comparison.contrast
    if overall.verdict in (Verdict.BETTER, Verdict.WORSE):
        winner, _ = _winner_first(comparison, overall)
        return f"{_action(winner)}, which costs less as well" if winner == cheaper else _action(winner)
    if overall.verdict is Verdict.EQUIVALENT:
        return f"{_action(cheaper)}, which costs less and loses nothing" if cheaper is not None else "either will do"
    return f"not enough evidence to choose between {contrast.first_value} and {contrast.second_value}"


def _overall_sentence(comparison: Comparison, overall: Difference, rules: Rules) -> str:
    contrast = comparison.contrast
    basis = f"{_count(overall.seeds, 'seed')}, {_count(overall.users, 'user')}"
    if overall.verdict is Verdict.EQUIVALENT:
        margin = rules.margins[overall.metric]
        return (
            f"{contrast.first_value} and {contrast.second_value} are equivalent in {label_of(overall.metric)}: the "
            f"difference is {overall.difference:+.4f} ({_interval(overall, rules)}; {basis}), "
            f"all of it within {margin:g} either way."
        )
    if overall.verdict is Verdict.OPEN:
        return (
            f"{contrast.first_value} minus {contrast.second_value} is "
            f"{overall.difference:+.4f} {label_of(overall.metric)} ({_interval(overall, rules)}; {basis}): "
            f"{_what_would_settle(overall)}."
        )
    winner, loser = _winner_first(comparison, overall)
    return (
        f"{winner} is better than {loser} by {abs(overall.difference):.4f} {label_of(overall.metric)} "
        f"({_interval(overall, rules, as_gain=True)}; {basis})."
    )


def _segment_sentences(comparison: Comparison, metric: str, rules: Rules) -> list[str]:
    """One sentence for each verdict that occurs among the segments, wins first."""
    segments = comparison.of_segments(metric)
    parts: list[str] = []
    sides = ((Verdict.BETTER, comparison.contrast.first_value), (Verdict.WORSE, comparison.contrast.second_value))
    for verdict, winner in sides:
        if won := [d for d in segments if d.verdict is verdict]:
            gains = [f"{d.segment} (by {abs(d.difference):.4f}, {_interval(d, rules, as_gain=True)})" for d in won]
            parts.append(f"In the segment{'s' * (len(won) > 1)} {listed(gains)} {winner} is better.")
    if equal := [d.segment for d in segments if d.verdict is Verdict.EQUIVALENT]:
        parts.append(f"The two are equivalent in the segment{'s' * (len(equal) > 1)} {listed(equal)}.")
    if still_open := [d for d in segments if d.verdict is Verdict.OPEN]:
        reasons = listed(
            [f"{d.segment} ({d.difference:+.4f}; {_how_near(d)}{_what_would_settle(d)})" for d in still_open]
        )
        parts.append(f"There is not enough evidence in the segment{'s' * (len(still_open) > 1)} {reasons}.")
    return parts


def _how_near(difference: Difference) -> str:
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return ""
    return "the interval leaves 0 out, but not by enough for one segment of several; "


def _what_would_settle(difference: Difference) -> str:
    if difference.seeds == 1:
        return "one seed does not show how much seeds differ, so run at least two more"
    if difference.user_deviation is None:
        return f"{_count(difference.users, 'user')} are too few for an interval"
    if difference.seeds_to_settle is None:
        return f"more seeds alone would not settle it, the {difference.users:,} test users leave too much to chance"
    if difference.seeds_to_settle >= MOST_SEEDS:
        return f"it would take {MOST_SEEDS:,} seeds or more to settle"
    more = difference.seeds_to_settle - difference.seeds
    # A segment's verdict is corrected for the number of segments, so it may be open though its own interval excludes 0.
    return f"about {_count(max(more, 1), 'more seed')} would settle it"


def _cheaper(comparison: Comparison, costs: Costs) -> Any:
    """The value of the contrast that is had for less; None where neither is, or where that is not known."""
    contrast = comparison.contrast
    mine, other = costs.get(contrast.first, {}), costs.get(contrast.second, {})
    if is_cheaper(mine, other):
        return contrast.first_value
    return contrast.second_value if is_cheaper(other, mine) else None


def _winner_first(comparison: Comparison, difference: Difference) -> tuple[Any, Any]:
    values = (comparison.contrast.first_value, comparison.contrast.second_value)
    return values if difference.verdict is Verdict.BETTER else (values[1], values[0])


def _interval(difference: Difference, rules: Rules, as_gain: bool = False) -> str:
    """The interval in words; as a gain it is that of the winner over the loser, whichever way the metric runs."""
    if difference.low is None or difference.high is None:
        return "no interval"
    low, high = difference.low, difference.high
    if not as_gain:
        return f"{1 - rules.level:.0%} interval {low:+.4f} to {high:+.4f}".replace("%", " %")
    if difference.difference < 0:
        low, high = -high, -low
    return f"{1 - rules.level:.0%} interval {low:.4f} to {high:.4f}".replace("%", " %")


def _action(value: Any) -> str:
    return _ACTIONS.get(str(value), f"choose {value}")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
