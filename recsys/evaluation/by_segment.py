"""The pointwise metrics of some rows, and the same for each user segment with its row counts beside it."""

from dataclasses import dataclass

import numpy as np

from recsys.evaluation.metrics import (
    auc,
    best_possible,
    calibration,
    grouped_auc,
    log_loss,
    normalised_entropy,
)
from recsys.evaluation.predictions import Predictions
from recsys.evaluation.reliability import expected_calibration_error, reliability_bins

ALL = "all"


@dataclass(frozen=True)
class Support:
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
    support: Support


def measure(rows: Predictions) -> Measured:
    """Every pointwise metric of `rows`.

    `grouped_auc` needs the extra column `user_key`; `auc_share_of_best` and `log_loss_above_best` need
    `true_probability`. Without their column they are left out, which is not the same as undefined.
    """
    label, logit, weight = rows.label, rows.logit, rows.weight
    metrics = {
        "auc": auc(label, logit, weight),
        "log_loss": log_loss(label, logit, weight),
        "normalised_entropy": normalised_entropy(label, logit, weight),
        "calibration": calibration(label, logit, weight),
        "calibration_error": expected_calibration_error(reliability_bins(label, logit, weight)),
    }
    users = one_class_users = 0
    if "user_key" in rows.extra:
        grouped = grouped_auc(label, logit, rows.extra["user_key"], weight)
        metrics["grouped_auc"] = grouped.value
        users, one_class_users = grouped.groups, grouped.one_class_groups
    if "true_probability" in rows.extra:
        metrics |= _beside_the_best(rows, metrics)
    return Measured(metrics, Support(len(rows), int(label.sum()), users, one_class_users))


def measure_by_segment(rows: Predictions, segments: tuple[str, ...]) -> dict[str, Measured]:
    """`measure` for the rows of each segment; a segment without rows is there, with support 0 and every metric None."""
    return {name: measure(rows.where(rows.segment == index)) for index, name in enumerate(segments)}


def _beside_the_best(rows: Predictions, metrics: dict[str, float | None]) -> dict[str, float | None]:
    """How near the ranker comes to the one that knows each row's true probability (protocols: simulated worlds)."""
    best_auc, best_loss = best_possible(rows.label, rows.extra["true_probability"], rows.weight)
    reached, loss = metrics["auc"], metrics["log_loss"]
    # A best AUC of one half leaves nothing to reach a share of.
    is_defined = reached is not None and best_auc is not None and not np.isclose(best_auc, 0.5, atol=1e-12)
    return {
        "auc_share_of_best": (reached - 0.5) / (best_auc - 0.5) if is_defined else None,  # type: ignore[operator]
        "log_loss_above_best": loss - best_loss if loss is not None and best_loss is not None else None,
    }
