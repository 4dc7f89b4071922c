"""Metrics that are a sum over users divided by another: resampling them is one matrix product."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]
Floats = NDArray[np.float64]

# Draws are counted as bytes; this many users at a time are widened to float64, so that memory stays small.
_USERS_AT_A_TIME = 16_384


class UserSums:
    """Named ratios sum_u d_u a_u / sum_u d_u b_u, where d_u is how often user u is drawn.

    >>> sums = UserSums(num_users=2)
    >>> sums.add(("recall", "all"), np.array([0, 0, 1]), np.array([1.0, 2.0, 6.0]), np.ones(3))
    >>> sums.resampled(np.array([[1, 1], [0, 2]], np.uint8))["recall", "all"].tolist()
    [3.0, 6.0]
    """

    def __init__(self, num_users: int) -> None:
        self.num_users = num_users
        self._columns: dict[tuple[str, str], Floats] = {}

    def add(self, name: tuple[str, str], user: Column, above: Floats, below: Floats) -> None:
        """Name a ratio (metric, segment) by each row's user in [0, U) and its parts above and below the line."""
        of_user = [np.bincount(user, weights=part, minlength=self.num_users) for part in (above, below)]
        self._columns[name] = np.stack(of_user, axis=1).astype(np.float64)

    def resampled(self, draws: NDArray[np.uint8]) -> dict[tuple[str, str], Floats]:
        """Each ratio for each resample: (R,) for draws (R, U); NaN where the denominator is 0."""
        columns = np.concatenate(list(self._columns.values()), axis=1)  # (U, 2 K)
        sums = np.zeros((len(draws), columns.shape[1]))
        for start in range(0, self.num_users, _USERS_AT_A_TIME):
            users = slice(start, start + _USERS_AT_A_TIME)
            sums += draws[:, users].astype(np.float64) @ columns[users]
        above, below = sums[:, 0::2], sums[:, 1::2]
        ratios = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
        return dict(zip(self._columns, ratios.T, strict=True))


def row_loss(label: Column, logit: Column) -> Floats:
    """Binary cross-entropy of each row in nats."""
    logit = np.asarray(logit, np.float64)
    loss: Floats = np.logaddexp(0.0, np.where(label == 1, -logit, logit))
    return loss


def user_auc(label: Column, logit: Column, weight: Floats, user: Column) -> tuple[Column, Floats, Floats]:
    """User, AUC among their own rows, and weight of these, for users with both classes; ties count half."""
    order = np.lexsort((logit, user))
    user, logit = user[order], logit[order]
    positive, negative = (weight * label)[order].astype(np.float64), (weight * (1 - label))[order].astype(np.float64)
    if not len(user):
        return user, positive, positive
    is_first = np.ones(len(user), bool)
    is_first[1:] = user[1:] != user[:-1]
    starts_tie = is_first.copy()
    starts_tie[1:] |= logit[1:] != logit[:-1]
    users, ties = np.flatnonzero(is_first), np.flatnonzero(starts_tie)
    before = np.cumsum(negative) - negative
    in_tie = np.repeat(np.add.reduceat(negative, ties), np.diff(np.append(ties, len(user))))
    before_tie = np.repeat(before[ties], np.diff(np.append(ties, len(user))))
    before_user = np.repeat(before[users], np.diff(np.append(users, len(user))))
    won = np.add.reduceat(positive * (before_tie - before_user + in_tie / 2), users)
    of_class = [np.add.reduceat(column, users) for column in (positive, negative)]
    has_both = (of_class[0] > 0) & (of_class[1] > 0)
    value = won[has_both] / (of_class[0] * of_class[1])[has_both]
    return user[users][has_both], value, (of_class[0] + of_class[1])[has_both]
