"""How slow work tells its caller how far it is; who draws the bar is the caller's choice."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a stage's label, the units done and the units in all (0 where the total is unknown)."""


def silent(label: str, done: int, total: int) -> None:
    """Report nothing."""
