"""Two simple rankers for the same rows, which a model must beat before its score means anything.

The constant predicts the training rows' mean label. The logistic regression adds up what each dense feature, each user
and each item says by itself, as McMahan et al. predict clicks ("Ad Click Prediction: a View from the Trenches", KDD
2013). It is scikit-learn's, with the strength of the L2 penalty that validation likes best.
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import logit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract
from recsys.metrics.log_loss import log_loss, row_losses
from recsys.metrics.predictions import Predictions

CONSTANT, LOGISTIC = "constant", "logistic"
# scikit-learn's C, which is the variance of the Gaussian prior on every weight, from strict to loose.
_PRIOR_VARIANCES = (0.0003, 0.003, 0.03, 0.3, 3.0)
_ITERATIONS = 100


class LogisticRanker(nn.Module):
    """A logistic regression on dense features, the user and the item, which scores batches as a ranker does.

    Its weights are buffers, 0 at first: nothing learns here; `fit_baselines` fills them in.
    """

    intercept: Tensor
    dense: Tensor
    user: Tensor
    item: Tensor

    def __init__(self, contract: FeatureContract) -> None:
        super().__init__()
        schema = contract.schema
        self.names = (schema.user, schema.item)
        self.register_buffer("intercept", torch.zeros(()))
        self.register_buffer("dense", torch.zeros(len(schema.dense)))
        for buffer, name in zip(("user", "item"), self.names, strict=True):
            self.register_buffer(buffer, torch.zeros(contract.table_rows[schema.feature(name).table]))

    def forward(self, batch: Batch) -> Tensor:
        """Return the logit of every row, (B,)."""
        user, item = (batch.sparse[name].values() for name in self.names)
        return self.intercept + batch.dense @ self.dense + self.user[user] + self.item[item]

    @property
    def dense_weights(self) -> list[float]:
        """One weight per dense feature, in schema order."""
        weights: list[float] = self.dense.tolist()
        return weights

    @property
    def id_weights(self) -> dict[str, Tensor]:
        """The user's and the item's feature, each with one weight per row of its table, (rows,)."""
        return dict(zip(self.names, (self.user, self.item), strict=True))


def fit_baselines(
    train: Iterable[Batch], validation: Iterable[Batch], contract: FeatureContract, threads: int
) -> dict[str, LogisticRanker]:
    """Fit the constant and the logistic regression on the training rows.

    Args:
        train: held in memory whole, at some 12 bytes a row and feature.
        validation: chooses the strength of the penalty by its log loss.

    Returns:
        Two rankers, `CONSTANT` and `LOGISTIC`; the second is the first where training has labels of one class alone.
    """
    probe = LogisticRanker(contract)
    known, held_out = _columns(train, probe), _columns(validation, probe)
    total, positives = known.weight.sum(), known.weight @ known.label
    # A constant of 0 or 1 would have an infinite logit.
    rate = np.clip(positives / total, 0.5 / total, 1 - 0.5 / total)
    coefficients, intercept = np.zeros(known.matrix.shape[1]), float(logit(rate))
    baselines = {CONSTANT: _ranker(contract, intercept, coefficients)}
    if 0 < positives < total:
        with threadpool_limits(threads):
            models = _penalty_path(known)
            losses = (
                (log_loss(held_out.label, held_out.matrix @ weights + bias, held_out.weight), weights, bias)
                for weights, bias in models
            )
            _, coefficients, intercept = min(losses, key=lambda fitted: fitted[0] or 0.0)
    return baselines | {LOGISTIC: _ranker(contract, intercept, coefficients)}


def gain_error(rows: Predictions, others: Predictions) -> float:
    """Return the standard error of the difference between two rankers' log losses on the same rows.

    The rows count as independent of one another; 0 where none has weight.
    """
    difference = row_losses(rows.label, rows.logit) - row_losses(others.label, others.logit)
    weight = rows.weight.astype(np.float64)
    total = weight.sum()
    if total == 0:
        return 0.0
    residual = weight * (difference - weight @ difference / total)
    return float(np.sqrt(residual @ residual) / total)


@dataclass(frozen=True)
class _DesignMatrix:
    """Some rows: one column per dense feature, per known user and per known item; (N,) labels and weights beside."""

    matrix: sparse.csr_matrix
    label: NDArray[np.float64]
    weight: NDArray[np.float64]


def _columns(batches: Iterable[Batch], ranker: LogisticRanker) -> _DesignMatrix:
    dense, label, weight = list[Tensor](), list[Tensor](), list[Tensor]()
    ids: dict[str, list[Tensor]] = {name: [] for name in ranker.names}
    for batch in batches:
        # Copied, as a stream lends its memory until the next batch.
        dense.append(batch.dense.to("cpu", torch.float64, copy=True))
        label.append(batch.label.to("cpu", torch.float64, copy=True))
        weight.append(batch.weight.to("cpu", torch.float64, copy=True))
        for name in ids:
            ids[name].append(batch.sparse[name].values().to("cpu", torch.int64, copy=True))
    one_hot = (
        _one_hot(torch.cat(ids[name]).numpy(), len(weights))
        for name, weights in zip(ranker.names, (ranker.user, ranker.item), strict=True)
    )
    matrix = sparse.hstack([sparse.csr_matrix(torch.cat(dense).numpy()), *one_hot], format="csr")
    return _DesignMatrix(matrix, torch.cat(label).numpy(), torch.cat(weight).numpy())


def _one_hot(ids: NDArray[np.int64], size: int) -> sparse.csr_matrix:
    rows = sparse.csr_matrix((np.ones(len(ids)), ids, np.arange(len(ids) + 1)), shape=(len(ids), size))
    return rows[:, 1:]  # row 0 stands for unknown ids, which training rows do not have


def _penalty_path(rows: _DesignMatrix) -> Iterator[tuple[NDArray[np.float64], float]]:
    """Yield coefficients and intercept for each strength of the penalty, each fit starting from the one before."""
    model = LogisticRegression(max_iter=_ITERATIONS, warm_start=True)
    for variance in _PRIOR_VARIANCES:
        with warnings.catch_warnings():
            # A fit that ends early is one more candidate, and validation judges it like the others.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_params(C=variance).fit(rows.matrix, rows.label, rows.weight)
        yield model.coef_[0].copy(), float(model.intercept_[0])


def _ranker(contract: FeatureContract, intercept: float, coefficients: NDArray[np.float64]) -> LogisticRanker:
    ranker = LogisticRanker(contract)
    sizes = [len(ranker.dense), len(ranker.user) - 1, len(ranker.item) - 1]
    dense, user, item = torch.from_numpy(coefficients).float().split(sizes)
    ranker.intercept.fill_(intercept)
    ranker.dense.copy_(dense)
    ranker.user[1:], ranker.item[1:] = user, item
    return ranker
