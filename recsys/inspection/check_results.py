"""What one check of a day found: its figure, the limits that it is held against, and a sentence for people."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np


class Limits(Protocol):
    """From above which figure a check warns, and from above which it fails; None: never."""

    @property
    def warn(self) -> float | None:
        """The milder one."""
        ...

    @property
    def fail(self) -> float | None:
        """The graver one."""
        ...


class Outcome(StrEnum):
    """What follows from a check; the graver the later."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class CheckResult:
    """One check.

    Attributes:
        value: the figure that decided; None where the check was not judged.
        subject: the feature or segment whose figure that is; empty for figures of the whole day.
        warn, fail: its limits.
        values: subject -> figure, where there are several.
    """

    name: str
    outcome: Outcome
    sentence: str
    value: float | None = None
    subject: str = ""
    warn: float | None = None
    fail: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)

    def to_document(self) -> dict[str, Any]:
        """Return plain values; figures to 6 digits."""
        document = asdict(self) | {"outcome": str(self.outcome), "value": _rounded(self.value)}
        return document | {"values": {name: _rounded(value) for name, value in self.values.items()}}


@dataclass(frozen=True)
class Figure:
    """What was measured of one subject.

    Attributes:
        found: in words, the day and what was expected among them.
        stands_out: whether it also lies further off than the trailing days do among themselves.
    """

    value: float
    found: str
    subject: str = ""
    stands_out: bool = True


def judged(name: str, limits: Limits, figures: Sequence[Figure], mend: str) -> CheckResult:
    """Return the outcome of the gravest of the figures, which are some.

    Args:
        mend: what to do about a figure that is too large; a sentence or several.
    """
    outcomes = [_outcome(figure, limits) for figure in figures]
    places = sorted(range(len(figures)), key=lambda each: (-[*Outcome].index(outcomes[each]), -figures[each].value))
    worst, outcome = figures[places[0]], outcomes[places[0]]
    sentence = f"{worst.found}."
    if outcome is not Outcome.OK:
        limit = limits.fail if outcome is Outcome.FAIL else limits.warn
        others = [figures[place] for place in places[1:] if outcomes[place] is not Outcome.OK]
        also = ", ".join(f"{each.subject} ({each.value:.3g})" for each in others)
        sentence += f" That is {worst.value:.3g}, and at most {limit:g} may be (daily.checks.{name}.{outcome})."
        sentence += f" Also above a limit: {also}." if also else ""
        sentence += f" {mend} Where the day is as it should be, raise that limit for it, or set it to null."
    values = {figure.subject: figure.value for figure in figures if figure.subject}
    return CheckResult(name, outcome, sentence, worst.value, worst.subject, limits.warn, limits.fail, values)


def not_judged(name: str, limits: Limits, reason: str) -> CheckResult:
    """Return a check that says nothing, and why."""
    return CheckResult(name, Outcome.OK, f"Not judged: {reason}.", warn=limits.warn, fail=limits.fail)


def stands_out(distance: float, usual: Sequence[float], error: float = 0.0) -> bool:
    """Whether a day lies at least twice as far off as 9 of 10 trailing days do.

    Those 9 of 10 lie within 1.645 standard deviations where days vary as a normal variable does, so that twice as far
    comes about by chance in one day of 1,000. Of the trailing days a tenth may be as bad without hiding another one.

    >>> stands_out(0.5, [0.1] * 26 + [0.9, 0.9]), stands_out(0.5, [0.3] * 28)
    (True, False)

    Args:
        usual: how far each trailing day lies from the others, by the same measure.
        error: the distance's standard error, from the number of rows alone: few days do not show it.
    """
    spread = float(np.quantile(usual, 0.9)) if usual else 0.0
    return distance > 2 * max(spread, 1.645 * error)


def _outcome(figure: Figure, limits: Limits) -> Outcome:
    is_above = [outcome for outcome in (Outcome.FAIL, Outcome.WARN) if _is_above(figure.value, limits, outcome)]
    return is_above[0] if is_above and figure.stands_out else Outcome.OK


def _is_above(value: float, limits: Limits, outcome: Outcome) -> bool:
    limit = limits.fail if outcome is Outcome.FAIL else limits.warn
    return limit is not None and value > limit


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
