"""The answer of a study as a paragraph of plain words, with its numbers, and honest where there is no answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recsys.ablation.comparison import Comparison, Difference, Rules, Verdict
from recsys.ablation.costs import Costs, cost_sentences, is_cheaper, listed
from recsys.ablation.planning import MOST_SEEDS
from recsys.metrics.registry import label_of

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
    """The study's answer: first what to do, then for each contrast the evidence for it.

    Args:
        comparisons: of one axis, such as every composition's frozen tower against end-to-end.
        metric: the one that decides.
        rules: those that `comparisons` were judged by.
        costs: of the conditions, for wins that are free.
    """
    answers = [answer(comparison, metric, rules, costs) for comparison in comparisons]
    summary = "; ".join(" ".join(part for part in (each.circumstance, each.advice) if part) for each in answers)
    evidence = []
    for each in answers:
        # With one contrast the summary has just said the circumstance.
        opening = each.circumstance if len(answers) > 1 else "overall"
        evidence.append(" ".join([f"{_capital(opening)}, {each.sentences[0]}", *each.sentences[1:]]))
    return (_capital(summary) + ".", *evidence)


def answer(comparison: Comparison, metric: str, rules: Rules, costs: Costs) -> Answer:
    """The advice of one contrast and the sentences that bear it out."""
    contrast = comparison.contrast
    circumstance = ", ".join(f"{key.rsplit('.', 1)[-1]} {value}" for key, value in contrast.held.items())
    circumstance = f"with {circumstance}" if circumstance else ""
    overall = comparison.find(metric)
    if overall is None:
        return Answer(circumstance, "nothing can be said", (f"{label_of(metric)} is undefined on these test rows.",))
    cheaper = _cheaper(comparison, costs)
    sentences = [_overall_sentence(comparison, overall, rules)]
    sentences += _segment_sentences(comparison, metric, rules)
    mine, other = costs.get(contrast.first, {}), costs.get(contrast.second, {})
    sentences += cost_sentences(str(contrast.first_value), mine, other)
    return Answer(circumstance, _advice(comparison, overall, cheaper), tuple(sentences))


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
