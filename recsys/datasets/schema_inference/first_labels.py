"""The label of events that nobody has declared: a column, a comparison, or none where every event is a positive."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ibis.backends.duckdb import Backend

from recsys.datasets.database import quoted_name
from recsys.datasets.declared_roles import LabelRule
from recsys.datasets.schema_inference.column_profiles import ColumnKind, ColumnProfile, rows_of
from recsys.datasets.schema_inference.event_roles import NOTHING, EventRoles, Notes, Settled
from recsys.datasets.schema_inference.role_words import Role, is_called, score
from recsys.errors import UsageError, did_you_mean

_MOST_GRADES = 21
_MOST_KINDS = 12
_POSITIVE_WORDS = (
    "purchase",
    "buy",
    "bought",
    "order",
    "transaction",
    "conversion",
    "addtocart",
    "cart",
    "click",
    "like",
)
_MOST_POSITIVE = 0.9


def with_label(events: EventRoles, settled: Settled, connection: Backend, notes: Notes) -> EventRoles:
    """The events with the label that their columns tell of, and with every column that judges an event.

    Raises:
        UsageError: the label that was said names no column.
    """
    judged = [name for name in events.columns if _is_judging(events, name)]
    if settled.label and settled.label != NOTHING:
        rule = LabelRule.parse(settled.label)
        if rule.column not in events.columns:
            raise UsageError(
                f"`--label {settled.label}`: {events.table.name} has no column `{rule.column}`"
                f"{did_you_mean(rule.column, events.columns)}; it has {', '.join(events.columns)}. Expected a column "
                "of 0 and 1, a comparison such as 'stars > 3', or `--label none`, by which every event is a positive."
            )
        label = settled.label
        notes.said["table", "label"] = (
            f"As `--label` says. {_share(events, rule, connection):.1%} of the events are positive."
        )
        if rule.column not in judged:
            judged.append(rule.column)
    elif settled.label == NOTHING:
        label = ""
    else:
        label = _guessed(events, judged, connection, notes)
    if not label:
        notes.said["table", "negatives"] = (
            "No column says what came of an event, so every event is a positive, and negatives are drawn among the "
            "candidates that the user did not choose. `power`: 0 draws them uniformly, 1 as often as they are chosen."
        )
    return replace(events, label=label, judged=tuple(judged))


def share_of_positives(events: EventRoles, connection: Backend) -> float:
    """The share of the events that the label makes positives."""
    return _share(events, LabelRule.parse(events.label), connection)


def _is_judging(events: EventRoles, name: str) -> bool:
    column = events.columns[name]
    if name in (events.user, events.item, events.time, events.position, events.query):
        return False
    return _is_outcome(name, column) or _is_rating(name, column)


def _is_outcome(name: str, column: ColumnProfile) -> bool:
    is_binary = column.kind is ColumnKind.TRUTH or (column.is_number and column.low >= 0 and column.highest <= 1)
    return is_binary and column.distinct <= 2 and bool(score(name, Role.LABEL) or is_called(name, Role.LABEL))


def _is_rating(name: str, column: ColumnProfile) -> bool:
    is_grade = column.is_number and 1 <= column.distinct <= _MOST_GRADES and not column.expression
    is_named = is_called(name, Role.RATING) and not is_called(name, Role.AFTERWARDS)
    return is_grade and bool(is_named or score(name, Role.RATING))


def _guessed(events: EventRoles, judged: Sequence[str], connection: Backend, notes: Notes) -> str:
    columns = events.columns
    outcomes = [name for name in judged if _is_outcome(name, columns[name]) and columns[name].distinct == 2]
    if outcomes:
        name = max(outcomes, key=lambda each: (score(each, Role.LABEL), -list(columns).index(each)))
        share = _share(events, LabelRule(name), connection)
        notes.said["table", "label"] = f"A column of 0 and 1 by the name of a label; {share:.1%} of the events are 1."
        if len(outcomes) > 1:
            notes.asked["label"] = f"is `{name}` what is to be predicted? {_listed(outcomes, name)} (`--label`)."
        return name
    ratings = [name for name in judged if _is_rating(name, columns[name]) and columns[name].distinct > 1]
    if ratings:
        return _of_rating(events, ratings[0], connection, notes)
    for name, column in columns.items():
        kinds = column.kind is ColumnKind.TEXT and 1 < column.distinct <= _MOST_KINDS and score(name, Role.KIND)
        if kinds and name not in (events.user, events.item):
            values = [str(value) for (value,) in _values(events, name, connection)]
            word = next(
                (each for want in _POSITIVE_WORDS for each in values if want in each.lower().replace("_", "")), ""
            )
            if word:
                rule = LabelRule(name, "==", word)
                notes.asked["label"] = (
                    f"is `{name} == {word}` what counts as a positive, and are the other events ({', '.join(values)}) "
                    f"negatives? {_share(events, rule, connection):.1%} of the events are positive. `--label "
                    f"{NOTHING}` takes every event for a positive."
                )
                notes.said["table", "label"] = f"Guessed: `{name}` holds {', '.join(values)}."
                return f"{name} == {word}"
    return ""


def _of_rating(events: EventRoles, name: str, connection: Backend, notes: Notes) -> str:
    """Above three fifths of the scale, unless nearly every grade is; then the best grade alone."""
    column = events.columns[name]
    grades = sorted(float(value) for (value,) in _values(events, name, connection))
    middle = 3 if column.highest == 5 else 0.6 * column.highest
    below = [grade for grade in grades if grade <= middle] or grades[:1]
    rule = LabelRule(name, ">", _plain(below[-1]))
    share = _share(events, rule, connection)
    if share > _MOST_POSITIVE and grades[-2] > below[-1]:
        rule = LabelRule(name, ">", _plain(grades[-2]))
        share = _share(events, rule, connection)
    shown = ", ".join(f"{grade:g}" for grade in grades)
    text = f"{name} > {rule.value}"
    notes.asked["label"] = f"is `{text}` what counts as a positive? {share:.1%} of the events are (`--label '{text}'`)."
    notes.said["table", "label"] = f"Guessed: `{name}` is a scale of {shown}."
    return text


def _plain(value: float) -> int | float:
    return int(value) if value.is_integer() else value


def _values(events: EventRoles, name: str, connection: Backend) -> list[tuple[Any, ...]]:
    own, view = quoted_name(name), quoted_name(events.view)
    return rows_of(connection, f"SELECT DISTINCT {own} AS v FROM {view} WHERE {own} IS NOT NULL ORDER BY v")


def _share(events: EventRoles, rule: LabelRule, connection: Backend) -> float:
    """The share of the events that a rule makes positives."""
    own = quoted_name(rule.column)
    number = f"TRY_CAST({own} AS DOUBLE)"
    if not rule.operator:
        test = f"TRY_CAST(TRY_CAST({own} AS BOOLEAN) AS INT) = 1 OR {number} = 1"
    elif isinstance(rule.value, int | float) and not isinstance(rule.value, bool):
        test = f"{number} {rule.operator} {rule.value}"
    else:
        word = str(rule.value).replace("'", "''")
        test = f"lower(CAST({own} AS VARCHAR)) {rule.operator} lower('{word}')"
    ((share,),) = rows_of(connection, f"SELECT avg(coalesce(({test})::INT, 0)) FROM {quoted_name(events.view)}")
    return float(share or 0)


def _listed(names: Sequence[str], but: str) -> str:
    others = [f"`{name}`" for name in names if name != but]
    return f"{', '.join(others)} could be it too"
