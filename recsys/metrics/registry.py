"""Every metric that there is, in the order in which tables list them."""

from recsys.metrics.auc import AUC
from recsys.metrics.best_possible import AUC_SHARE_OF_BEST, LOG_LOSS_ABOVE_BEST
from recsys.metrics.calibration import CALIBRATION, CALIBRATION_ERROR
from recsys.metrics.grouped_auc import GROUPED_AUC
from recsys.metrics.log_loss import LOG_LOSS, NORMALISED_ENTROPY
from recsys.metrics.metric import Metric
from recsys.metrics.ranked_lists import MRR, NDCG, RECALL, SCOPES, name_at

# Imported by name and not searched for in the folder: results are kept under a key of the code that they follow from,
# which is read off the imports.
METRICS: list[Metric] = [
    AUC,
    LOG_LOSS,
    NORMALISED_ENTROPY,
    CALIBRATION,
    CALIBRATION_ERROR,
    GROUPED_AUC,
    AUC_SHARE_OF_BEST,
    LOG_LOSS_ABOVE_BEST,
    RECALL,
    NDCG,
    MRR,
]


def row_metrics() -> list[Metric]:
    """Those of rows."""
    return [metric for metric in METRICS if metric.value]


def ranking_metrics() -> list[Metric]:
    """Those of ranked candidate lists."""
    return [metric for metric in METRICS if metric.of_queries]


def study_metrics(cutoff: int) -> tuple[str, ...]:
    """The names of what a study's tables show, those of candidate lists at this cutoff and in every scope."""
    of_rows = [metric.name for metric in row_metrics() if metric.is_in_study]
    of_lists = [
        name_at(metric.name, cutoff, scope) for scope in SCOPES for metric in ranking_metrics() if metric.is_in_study
    ]
    return (*of_rows, *of_lists)


def label_of(name: str) -> str:
    """A metric's label by its name; a name with cutoff and scope speaks for itself.

    >>> label_of("grouped_auc"), label_of("recall_20_new")
    ('grouped AUC', 'recall 20 new')
    """
    return next((metric.label for metric in METRICS if metric.name == name), name.replace("_", " "))


def is_lower_better(name: str) -> bool:
    """Whether the smaller of two values of this metric is the better one; a cutoff and a scope change nothing."""
    found = (m for m in METRICS if name == m.name or (m.of_queries and name.startswith(f"{m.name}_")))
    return any(metric.is_lower_better for metric in found)


def is_gain(name: str, difference: float) -> bool:
    """Whether a first value of this metric minus a second one says that the first is better."""
    return difference < 0 if is_lower_better(name) else difference > 0
