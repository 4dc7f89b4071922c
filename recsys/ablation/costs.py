"""What two conditions cost beside each other: which of them is had for less, and in words by how much."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Costs = Mapping[str, Mapping[str, float]]
"""Condition -> what it costs, means over seeds: the figures below and "trained_parameters"; any may be missing."""

# On a machine that others use too, two runs of one arm differ by some per cent in time; less than this is no saving.
_NOTICEABLE = 0.1


@dataclass(frozen=True)
class CostFigure:
    """One kind of cost.

    Attributes:
        words: "0.7 times the <words>".
        text: the value with its unit.
        decides: whether a difference in it makes a condition cheaper. The wall's clock does not: whoever ran beside a
            run slows it down. Nor does memory: a frozen tower's cache buys time with as much as it is allowed to take.
    """

    words: str
    text: Callable[[float], str]
    decides: bool = True


def _seconds(value: float) -> str:
    return f"{value:,.1f} s" if value < 100 else f"{value:,.0f} s"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f} MB"


def _joules(value: float) -> str:
    return f"{value:,.0f} J" if value < 10_000 else f"{value / 1e3:,.0f} kJ"


_STEP = "seconds_per_step"
_OF_A_RUN = {
    "wall_seconds": CostFigure("time by the clock", _seconds, decides=False),
    "cpu_seconds": CostFigure("processor time", _seconds),
    "peak_memory_bytes": CostFigure("memory", _megabytes, decides=False),
    "peak_gpu_memory_bytes": CostFigure("GPU memory", _megabytes),
    "energy_joules": CostFigure("energy", _joules),
}
_DECIDING = (_STEP, *(name for name, figure in _OF_A_RUN.items() if figure.decides))


def is_cheaper(mine: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether the first costs noticeably less in some way and noticeably more in none.

    >>> is_cheaper({"cpu_seconds": 7.0, "energy_joules": 50.0}, {"cpu_seconds": 10.0, "energy_joules": 51.0})
    True
    >>> is_cheaper({"cpu_seconds": 7.0, "energy_joules": 90.0}, {"cpu_seconds": 10.0, "energy_joules": 50.0})
    False
    """
    known = [name for name in _DECIDING if name in mine and name in other]
    saves = any(mine[name] < (1 - _NOTICEABLE) * other[name] for name in known)
    return saves and all(mine[name] * (1 - _NOTICEABLE) <= other[name] for name in known)


def cost_sentences(name: str, mine: Mapping[str, float], other: Mapping[str, float]) -> list[str]:
    """What a step and a run of `name` cost beside the other's; nothing about what is not known of both."""
    step = []
    if _STEP in mine and other.get(_STEP, 0) > 0:
        times = f"{mine[_STEP] * 1e3:.1f} ms against {other[_STEP] * 1e3:.1f} ms"
        step.append(f"takes {mine[_STEP] / other[_STEP]:.2f} times as long ({times})")
    if "trained_parameters" in mine and "trained_parameters" in other:
        step.append(f"trains {mine['trained_parameters']:,.0f} parameters against {other['trained_parameters']:,.0f}")
    run = [
        f"{mine[key] / other[key]:.2f} times the {figure.words} "
        f"({figure.text(mine[key])} against {figure.text(other[key])})"
        for key, figure in _OF_A_RUN.items()
        if key in mine and other.get(key, 0) > 0
    ]
    sentences = [f"A step of {name} {listed(step)}."] if step else []
    return [*sentences, f"A run of {'it' if step else name} takes {listed(run)}."] if run else sentences


def listed(parts: list[str]) -> str:
    """Parts in a sentence: "a, b and c".

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
