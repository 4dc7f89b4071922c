"""How near a ranker comes to the one that knows each row's true probability, in worlds that are simulated."""

import numpy as np

from recsys.metrics.auc import auc
from recsys.metrics.columns import Column, Floats
from recsys.metrics.log_loss import log_loss
from recsys.metrics.metric import Metric
from recsys.metrics.predictions import TRUE_PROBABILITY, Predictions


def best_auc(label: Column, probability: Column, weight: Column | None) -> float | None:
    """AUC that the true probabilities (N,) themselves have on these labels (N,)."""
    return auc(label, np.asarray(probability, np.float64), weight)


def best_log_loss(label: Column, probability: Column, weight: Column | None) -> float | None:
    """Log loss that the true probabilities (N,) themselves have on these labels (N,)."""
    return log_loss(label, _logit(np.asarray(probability, np.float64)), weight)


def _logit(probability: Floats) -> Floats:
    with np.errstate(divide="ignore"):  # a certain row has an infinite one, and no loss
        logit: Floats = np.log(probability) - np.log1p(-probability)
    return logit


def _auc_share_of_best(rows: Predictions) -> float | None:
    reached = auc(rows.label, rows.logit, rows.weight)
    best = best_auc(rows.label, rows.extra[TRUE_PROBABILITY], rows.weight)
    # A best AUC of one half leaves nothing to reach a share of.
    if reached is None or best is None or np.isclose(best, 0.5, atol=1e-12):
        return None
    return (reached - 0.5) / (best - 0.5)


def _log_loss_above_best(rows: Predictions) -> float | None:
    loss = log_loss(rows.label, rows.logit, rows.weight)
    best = best_log_loss(rows.label, rows.extra[TRUE_PROBABILITY], rows.weight)
    return None if loss is None or best is None else loss - best


AUC_SHARE_OF_BEST = Metric(
    "auc_share_of_best",
    "share of the best AUC",
    value=_auc_share_of_best,
    needs=TRUE_PROBABILITY,
    is_in_study=False,
)
LOG_LOSS_ABOVE_BEST = Metric(
    "log_loss_above_best",
    "log loss above the best",
    value=_log_loss_above_best,
    is_lower_better=True,
    needs=TRUE_PROBABILITY,
    is_in_study=False,
)
