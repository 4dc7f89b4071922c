"""The tracked names of gates: which branch does a segment rely on? A section a branch, a line a segment."""

from recsys.tracking.names import escaped, unescaped


def gate(branch: str, segment: str) -> str:
    """A segment's mean gate on a branch, or on what else a composition gates: how much of it goes on.

    >>> gate("embedding_tower", "new")
    'gate_embedding_tower/new'
    """
    return f"gate_{escaped(branch)}/{escaped(segment)}"


def branch_and_segment(metric: str) -> tuple[str, str] | None:
    """Return what a gate is of, the arguments of `gate` that named it; None for any other metric.

    >>> branch_and_segment("gate_embedding_tower/new"), branch_and_segment("train/loss")
    (('embedding_tower', 'new'), None)
    """
    section, _, segment = metric.partition("/")
    return (unescaped(section.removeprefix("gate_")), unescaped(segment)) if section.startswith("gate_") else None
