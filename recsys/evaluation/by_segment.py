"""The metrics of some rows, and the same for each user segment with its row counts beside it."""

from dataclasses import dataclass

from recsys.metrics.grouped_auc import auc_by_group
from recsys.metrics.predictions import USER, Predictions
from recsys.metrics.registry import row_metrics


@dataclass(frozen=True)
class RowCounts:
    """What the metrics of a segment rest on.

    Attributes:
        users, one_class_users: users that count in the grouped AUC, and those left out; both 0 where no user is known.
    """

    rows: int
    positives: int
    users: int
    one_class_users: int


@dataclass(frozen=True)
class Measured:
    """Metrics of some rows by name (None where undefined) and what they rest on."""

    metrics: dict[str, float | None]
    support: RowCounts


def measure(rows: Predictions) -> Measured:
    """Every registered metric of `rows`.

    One that needs an extra column is left out where there is none, which is not the same as undefined.
    """
    metrics = {
        metric.name: metric.value(rows)
        for metric in row_metrics()
        if metric.value and (not metric.needs or metric.needs in rows.extra)
    }
    users = one_class_users = 0
    if USER in rows.extra:
        is_defined = auc_by_group(rows.label, rows.logit, rows.extra[USER], rows.weight).is_defined
        users, one_class_users = int(is_defined.sum()), int((~is_defined).sum())
    return Measured(metrics, RowCounts(len(rows), int(rows.label.sum()), users, one_class_users))


def measure_by_segment(rows: Predictions, segments: tuple[str, ...]) -> dict[str, Measured]:
    """`measure` for the rows of each segment; a segment without rows is there, with support 0 and every metric None."""
    return {name: measure(rows.where(rows.segment == index)) for index, name in enumerate(segments)}
