"""Log loss, and normalised entropy, which is log loss beside that of the best constant."""

from typing import Any

import numpy as np
from scipy.special import xlogy

from recsys.metrics.columns import Column, Floats, checked_columns
from recsys.metrics.metric import Metric, RatioOfSums, UserRows, UserSums


def log_loss(label: Column, logit: Column, weight: Column | None = None) -> float | None:
    """Mean binary cross-entropy in nats; None where no row has weight.

    Args:
        label: (N,), each 0 or 1.
        logit: (N,).
        weight: (N,) not negative; None for ones.

    Raises:
        ValueError: see `checked_columns`.
    """
    label, logit, weight = checked_columns(label, logit, weight)
    total = weight.sum()
    if total == 0:
        return None
    return float(weight @ row_losses(label, logit) / total)


def row_losses(label: Column, logit: Column) -> Floats:
    """Binary cross-entropy of every row in nats, (N,)."""
    # log(1 + exp(-margin)) needs no clipping, however sure and however wrong a logit is.
    return np.logaddexp(0.0, np.where(label == 1, -logit, logit).astype(np.float64))


def normalised_entropy(label: Column, logit: Column, weight: Column | None = None) -> float | None:
    """Log loss over the log loss of the mean label as constant prediction; below 1 is better than knowing nothing.

    None where only one class has weight: its entropy is 0. Arguments as those of `log_loss`.

    Source: He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook" (2014), equation 1.
    """
    loss = log_loss(label, logit, weight)
    label, _, weight = checked_columns(label, label, weight)
    total = weight.sum()
    entropy = float(_entropy(weight @ label / total if total > 0 else 0.0))
    return None if loss is None or entropy <= 0 else loss / entropy


def _entropy(rate: Any) -> Any:
    """Of a label that is 1 with this probability, in nats: the best log loss that a constant can reach."""
    return -xlogy(rate, rate) - xlogy(1 - rate, 1 - rate)


def _loss_sums(rows: UserRows) -> UserSums:
    return UserSums(rows.user, rows.weight * row_losses(rows.label, rows.logit), rows.weight)


def _rate_sums(rows: UserRows) -> UserSums:
    return UserSums(rows.user, rows.weight * rows.label, rows.weight)


def _normalised(loss: Floats, rate: Floats) -> Floats:
    entropy = _entropy(rate)
    normalised: Floats = np.divide(loss, entropy, out=np.full_like(loss, np.nan), where=entropy > 0)
    return normalised


LOG_LOSS = Metric(
    "log_loss",
    "log loss",
    value=lambda rows: log_loss(rows.label, rows.logit, rows.weight),
    bootstrap=RatioOfSums({"log_loss": _loss_sums}, lambda loss: loss),
    is_lower_better=True,
)
NORMALISED_ENTROPY = Metric(
    "normalised_entropy",
    "normalised entropy",
    value=lambda rows: normalised_entropy(rows.label, rows.logit, rows.weight),
    bootstrap=RatioOfSums({"log_loss": _loss_sums, "rate": _rate_sums}, _normalised),
    is_lower_better=True,
    is_in_study=False,
)
