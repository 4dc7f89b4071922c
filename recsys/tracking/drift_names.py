"""The tracked names of drift: how far a run's training moved the tower's item vectors."""

from recsys.tracking.names import escaped

TAG_DRIFT = "drift"
"""Of a run with `training_mode.max_drift`: `within the limit`, or by how much its tower is beyond it."""
DRIFT_FILE = "plots/drift.png"
_SECTION = "drift/"


def drift(measure: str) -> str:
    """What the item vectors' drift from those that the run began with is at each validation.

    >>> drift("cosine_distance")
    'drift/cosine_distance'
    """
    return f"{_SECTION}{measure}"


def is_drift(metric: str) -> bool:
    """Whether a metric is named by `drift`."""
    return metric.startswith(_SECTION)


def drift_of_segment(segment: str) -> str:
    """The cosine distance at the end, each item weighted by its rows in one segment."""
    return f"drift_segment/{escaped(segment)}"
