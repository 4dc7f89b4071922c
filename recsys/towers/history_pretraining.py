"""Pre-training a history tower on the labels, or grades, of the training split, with a readout that is thrown away."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from recsys.features.batch import Batch
from recsys.features.joint_rows import joint_row_count, joint_total
from recsys.towers.history import FACTORS, IDS, HistoryTower

Loss = Callable[[Tensor, Batch], Tensor]
"""The weighted loss of (B, T) logits, one a row and threshold, on a batch: a scalar."""

_DROPOUT = 0.1  # of the readout's layers, which are to learn little that the tower could


class Readout(nn.Module):
    """Logits from what a tower says: a linear layer that begins as the factors' product, and an MLP that begins at 0.

    Args:
        hidden_widths: of the MLP; none for the linear layer alone.
        outputs: T, of a graded label one for each threshold.
    """

    def __init__(self, tower: HistoryTower, hidden_widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        width = tower.output_width
        self.linear = nn.Linear(width, outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.ones_(self.linear.weight[:, -tower.factors.output_width // 3 :])
        self.layers = nn.Sequential(*(_layer(*each) for each in pairwise([width, *hidden_widths])))
        self.output = nn.Linear(hidden_widths[-1], outputs, bias=False) if hidden_widths else None
        if self.output is not None:
            nn.init.zeros_(self.output.weight)

    def forward(self, read: Tensor) -> Tensor:
        """Map (B, tower's width) to (B, T)."""
        logits: Tensor = self.linear(read)
        return logits if self.output is None else logits + self.output(self.layers(read))


def _layer(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Dropout(_DROPOUT))


class HistoryObjective(nn.Module):
    """The tower, its readout and their loss as one module, so that pre-training runs through the same loop as all else.

    The loss is that of the labels, or grades, and, while it learns, L2 penalties: of the keys and factors of a row's
    own ids, averaged over the batch's rows, so that a frequent id is drawn to zero as often as it is learnt from; and
    of how far the projection is from where it started.

    Args:
        outputs: T, of the readout.
        key_l2, factor_l2, projection_pull: the penalties' weights.
    """

    def __init__(
        self,
        embedding_tower: HistoryTower,
        readout_widths: Sequence[int],
        loss: Loss,
        *,
        outputs: int,
        key_l2: float,
        factor_l2: float,
        projection_pull: float,
    ) -> None:
        super().__init__()
        self.embedding_tower = embedding_tower
        self.readout = Readout(embedding_tower, readout_widths, outputs)
        self._l2 = {IDS: key_l2, FACTORS: factor_l2}
        self._loss, self._pull = loss, projection_pull
        self.says = f"log loss of the labels{' at every threshold' if outputs > 1 else ''}, through a readout"

    def weight_of(self, batch: Batch) -> float:
        """By how much the batch counts in a mean of losses, as the mean over the processes. Every process calls it."""
        return float(joint_total(batch.weight.sum()))

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss over the batch's rows, a scalar."""
        tower = self.embedding_tower
        vectors = tower.look_up(batch)
        loss = self._loss(self.readout(tower(batch, looked_up=vectors)), batch)
        if not self.training:
            return loss
        rows = joint_row_count(len(batch), loss.device)
        for source, weight in self._l2.items():
            own = [vectors[source][name].float() for name in tower.own_features]
            loss = loss + weight * torch.stack([each.square().sum(dim=1).sum() / rows for each in own]).sum()
        return loss + self._pull * tower.projection_drift()
