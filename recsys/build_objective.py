"""What the word of `training.objective` means: the loss, and what of the rows it reads beside the schema's columns."""

from collections.abc import Mapping
from dataclasses import dataclass

from recsys.config import TrainingConfig
from recsys.errors import UsageError
from recsys.features.contract import FeatureContract
from recsys.features.graded import GRADE
from recsys.training.objectives.listwise import QUERY, ListwiseObjective
from recsys.training.objectives.log_loss import log_loss_objective
from recsys.training.objectives.ordinal import OrdinalObjective
from recsys.training.step import Objective

ORDINAL, LISTWISE = "ordinal", "listwise"

_NEEDED: Mapping[str, str] = {
    ORDINAL: "grades, and these data have none. Declare in the schema what the label follows from: `graded: {column: "
    "rating, thresholds: [1, 2, 3, 4], answer: 3}`, and prepare the data again",
    LISTWISE: "queries with sampled candidates, and these data have none. They come with `table.query` and "
    "`table.negatives` of a schema without `table.label`",
}
"""By objective what it learns from, where labels are not enough."""


@dataclass(frozen=True)
class RankerObjective:
    """What a ranker is trained by.

    Attributes:
        loss: takes the unwrapped ranker and a batch.
        extras: columns that the loss reads beside the schema's.
        together: that of them in which rows agree that should be in one batch; empty where any rows may be.
    """

    loss: Objective
    extras: tuple[str, ...] = ()
    together: str = ""


def build_objective(training: TrainingConfig, contract: FeatureContract) -> RankerObjective:
    """Return the configured objective.

    Raises:
        UsageError: the data lack what it learns from.
    """
    word, graded = training.objective, contract.schema.graded
    if word == ORDINAL and graded and GRADE in contract.extras:
        return RankerObjective(OrdinalObjective(graded), (GRADE,))
    if word == LISTWISE and QUERY in contract.extras:
        return RankerObjective(ListwiseObjective(training.listwise_log_loss), (QUERY,), QUERY)
    if word in _NEEDED:
        raise UsageError(
            f"training.objective={word} learns from {_NEEDED[word]}. Or set training.objective=log_loss, which every "
            "data set has labels for."
        )
    return RankerObjective(log_loss_objective)
