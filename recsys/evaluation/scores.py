"""What candidates can be ranked by: a ranker's logit, or plain columns, so that rules stand beside models."""

from collections.abc import Callable

from torch import Tensor, nn

from recsys.errors import UsageError
from recsys.evaluation.split_evaluation import evaluation_mode
from recsys.features.batch import Batch

Score = Callable[[Batch], Tensor]
"""A batch to one score a row (B,); only the order within a query counts."""


def ranker_score(ranker: nn.Module) -> Score:
    """Logit, plus `log_sampling_rate` where the batch has it; without a graph, and the ranker is left as it was.

    Negatives drawn in proportion to q leave an item's log-odds short of log q: often drawn is often seen losing. Adding
    it gives the order among all candidates (Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
    Recommendations", 2019, section 3.1, where the correction is made in training instead).
    """

    def score(batch: Batch) -> Tensor:
        with evaluation_mode(ranker):
            logit: Tensor = ranker(batch).double()
        return logit + batch.extra["log_sampling_rate"].double() if "log_sampling_rate" in batch.extra else logit

    return score


def column_score(dense_names: tuple[str, ...], *columns: str) -> Score:
    """A rule without a model: rank by the first column, its ties by the second, and so on.

    Args:
        dense_names: names of `Batch.dense` in order; a name not among them is looked for in `Batch.extra`.
        columns: which to rank by, highest first; scaled values do, since scaling keeps the order.

    Raises:
        UsageError: when scoring, for a column that the batch does not have.
    """

    def score(batch: Batch) -> Tensor:
        total = batch.label.double() * 0
        for name in columns:
            # Scaled columns are a few units wide and their steps above 1e-3, so four decimals keep them apart.
            total = total * 1e4 + _column_of(batch, dense_names, name)
        return total

    return score


def _column_of(batch: Batch, dense_names: tuple[str, ...], name: str) -> Tensor:
    if name in dense_names:
        return batch.dense[:, dense_names.index(name)].double()
    if name in batch.extra:
        return batch.extra[name].double()
    raise UsageError(
        f"Baseline column {name!r} is not in the data. Dense features: {', '.join(dense_names)}; "
        f"extra columns: {', '.join(batch.extra) or 'none'}."
    )
