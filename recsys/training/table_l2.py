"""An L2 penalty on the vectors that a batch looks up, averaged over its rows.

To the loss comes, for each part, lambda times the mean over the batch's rows of the squared norm of all vectors that
the row looked up in the part's tables. A row of a table is so pulled towards zero as often as it is looked up, and one
that no row names is left alone; weight decay on the whole table would shrink rare ids, which the data speak for least
often, in every step. With the sum over the batch in place of the mean, lambda would mean another thing for every batch
size. Source: the penalty on a batch's own parameters of Zhou et al., "Deep Interest Network for Click-Through Rate
Prediction" (KDD 2018), section 5.1, equations 5 and 6; there an id counts once a batch, divided by how often it occurs.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from recsys.features.batch import Batch, LookUps
from recsys.features.joint_rows import joint_row_count
from recsys.training.step import Objective


def with_table_l2(objective: Objective, strengths: Mapping[str, float]) -> Objective:
    """Return the objective with the penalty added to its loss, or itself where every strength is 0.

    The penalty goes through what was looked up, like any loss: norms, clipping and the tables' update see it. Tables
    that are frozen in a step have none.

    Args:
        strengths: lambda by part, a child of the ranker; parts that are not named have 0.
    """
    return _TableL2(objective, strengths) if any(strengths.values()) else objective


class _TableL2:
    def __init__(self, objective: Objective, strengths: Mapping[str, float]) -> None:
        self._objective, self._strengths = objective, strengths
        self._strength_of: dict[nn.Module, float] = {}  # by collection of tables

    def __call__(self, ranker: nn.Module, batch: Batch) -> Tensor:
        """Return the objective's loss and the penalty, ()."""
        looked_up: LookUps = []
        batch.looked_up = looked_up
        try:
            loss = self._objective(ranker, batch)
        finally:
            batch.looked_up = None  # else the batch would keep the step's graph
        rows = joint_row_count(len(batch), loss.device)
        for tables, pooled in looked_up:
            if tables not in self._strength_of:
                self._strength_of = {
                    module: self._strengths.get(part, 0.0)
                    for part, child in ranker.named_children()
                    for module in child.modules()
                }
            vectors, strength = pooled.values(), self._strength_of[tables]
            if strength and vectors.requires_grad:
                loss = loss + strength / rows * vectors.float().square().sum()
        return loss
