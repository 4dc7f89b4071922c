"""One pass of a ranker over a split, and the figures that come of it."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsys.all_segments import ALL
from recsys.errors import TrainingError
from recsys.evaluation import ranks
from recsys.evaluation.by_segment import Measured, RowCounts, measure, measure_by_segment
from recsys.features.batch import Batch
from recsys.metrics.calibration import ReliabilityBin, reliability_bins
from recsys.metrics.columns import Column
from recsys.metrics.predictions import Predictions, predictions_of
from recsys.progress import Progress, silent

# Results stay on the device this many batches, so that it is not waited for after every one.
_BATCHES_PER_COPY = 32


@dataclass(frozen=True)
class Evaluation:
    """How good one ranker is on one split.

    Attributes:
        overall: metric -> value, None where undefined.
        by_segment: segment -> the same.
        support: "all" and every segment -> rows, positives, users, users left out of the grouped AUC.
        reliability: predicted against observed, from the lowest predictions to the highest.
    """

    overall: dict[str, float | None]
    by_segment: dict[str, dict[str, float | None]]
    support: dict[str, RowCounts]
    reliability: tuple[ReliabilityBin, ...]

    def flat_metrics(self, prefix: str) -> dict[str, float]:
        """Names to values for a tracking store: "<prefix>_auc/all", "<prefix>_auc/<segment>", "<prefix>_support/...".

        An empty prefix leaves its underscore out: "auc/all". A metric that is undefined has no entry; the support
        always has one, 0 for a segment without rows.
        """
        start = f"{prefix}_" if prefix else ""
        flat = {
            f"{start}{metric}/{name}": value
            for name, metrics in {ALL: self.overall, **self.by_segment}.items()
            for metric, value in metrics.items()
            if value is not None
        }
        support = {f"{start}support/{name}": float(entry.rows) for name, entry in self.support.items()}
        left_out = {f"{start}one_class_users/{ALL}": float(self.support[ALL].one_class_users)}
        return flat | support | left_out

    def to_json(self) -> str:
        """Text that `evaluation_from_json` reads back to an equal object."""
        return json.dumps(asdict(self), indent=1)


def evaluation_from_json(text: str) -> Evaluation:
    """The inverse of `Evaluation.to_json`."""
    document: dict[str, Any] = json.loads(text)
    return Evaluation(
        overall=document["overall"],
        by_segment=document["by_segment"],
        support={name: RowCounts(**entry) for name, entry in document["support"].items()},
        reliability=tuple(ReliabilityBin(**entry) for entry in document["reliability"]),
    )


def evaluate(predictions: Predictions, segments: tuple[str, ...]) -> Evaluation:
    """Measure `predictions` overall and for each of `segments`, whose positions are `predictions.segment`.

    >>> rows = Predictions(np.array([-1.0, 2.0]), np.array([0.0, 1.0]), np.array([0, 0]), np.ones(2))
    >>> evaluate(rows, ("cold", "heavy")).flat_metrics("test")["test_auc/cold"]
    1.0
    """
    whole: Measured = measure(predictions)
    by_segment = measure_by_segment(predictions, segments)
    return Evaluation(
        overall=whole.metrics,
        by_segment={name: part.metrics for name, part in by_segment.items()},
        support={ALL: whole.support} | {name: part.support for name, part in by_segment.items()},
        reliability=reliability_bins(predictions.label, predictions.logit, predictions.weight),
    )


def predict(ranker: nn.Module, stream: Iterable[Batch], progress: Progress = silent) -> Predictions:
    """Score every row of `stream` without a graph, in evaluation mode, and leave the ranker as it was.

    With several processes each brings its own rows, and every one returns all rows, rank after rank.

    Raises:
        TrainingError: a logit is not finite.
    """
    columns = _HostColumns()
    total = getattr(stream, "num_batches", 0)
    with evaluation_mode(ranker):
        for done, (batch, is_own) in enumerate(ranks.in_step(stream), start=1):
            logit = ranker(batch)
            if is_own:
                columns.add(_columns_of(batch, logit))
            progress("evaluating", done, total)
    predictions = predictions_of({name: ranks.gather(column) for name, column in columns.joined().items()})
    _refuse_non_finite(predictions.logit)
    return predictions


@contextmanager
def evaluation_mode(ranker: nn.Module) -> Iterator[None]:
    """Within it no graph is built and every module is in evaluation mode; after it each is in the mode it had.

    Restored module by module, since `train()` on the whole would also wake a frozen tower.
    """
    was_training = [(module, module.training) for module in ranker.modules()]
    ranker.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, flag in was_training:
            module.training = flag


class _HostColumns:
    """Columns that grow batch by batch and leave the device in large pieces."""

    def __init__(self) -> None:
        self._on_device: dict[str, list[Tensor]] = {}
        self._on_host: dict[str, list[Column]] = {}
        self._batches = 0

    def add(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self._on_device.setdefault(name, []).append(tensor)
        self._batches += 1
        if self._batches % _BATCHES_PER_COPY == 0:
            self._copy()

    def joined(self) -> dict[str, Column]:
        self._copy()
        if not self._on_host:
            empty = np.empty(0, np.float32)
            return {"logit": empty, "label": empty, "segment": np.empty(0, np.int64), "weight": empty}
        return {name: np.concatenate(parts) for name, parts in self._on_host.items()}

    def _copy(self) -> None:
        for name, tensors in self._on_device.items():
            self._on_host.setdefault(name, []).append(torch.cat(tensors).cpu().numpy())
        self._on_device = {}


def _columns_of(batch: Batch, logit: Tensor) -> dict[str, Tensor]:
    own = {"logit": logit.float(), "label": batch.label, "segment": batch.segment, "weight": batch.weight}
    return own | {f"extra.{name}": column for name, column in batch.extra.items()}


def _refuse_non_finite(logit: Column) -> None:
    bad = np.flatnonzero(~np.isfinite(logit))
    if len(bad):
        raise TrainingError(
            f"{len(bad):,} of {len(logit):,} logits are not finite, the first in row {bad[0]:,} ({logit[bad[0]]}): the "
            "training has diverged. Train again with a lower learning rate, or evaluate an earlier checkpoint."
        )
