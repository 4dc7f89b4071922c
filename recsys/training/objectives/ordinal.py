"""The ordinal loss: the log loss at every threshold of a graded label, of which the label is one.

Whether 5 stars or 4 stood behind a positive label is known in training. Asked at every threshold, the layers that the
outputs share learn from it, and the label's own output stays its logit.

Source: Frank and Hall, "A Simple Approach to Ordinal Classification" (ECML 2001); their classifiers are one network.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from recsys.features.batch import Batch
from recsys.features.graded import GRADE, Graded
from recsys.features.joint_rows import joint_total


def ordinal_loss(
    outputs: Tensor, grade: Tensor, weight: Tensor, thresholds: tuple[float, ...], threshold_weights: tuple[float, ...]
) -> Tensor:
    """Return sum over t of w_t times the weighted log loss of "the grade is above threshold t", a scalar, in nats.

    Args:
        outputs: (B, M, T) logits, of any precision; of M members each has its own loss, and their mean counts.
        grade: (B,) float.
        weight: (B,), each 0 or more; where all are 0, so is the loss.
        thresholds: T numbers.
        threshold_weights: w, T numbers.

    >>> import torch
    >>> grade, ones = torch.tensor([5.0, 2.0]), torch.ones(2)
    >>> round(ordinal_loss(torch.zeros(2, 1, 2), grade, ones, (1.0, 3.0), (0.5, 1.0)).item(), 4)  # 1.5 log 2
    1.0397
    """
    # Compared one by one: a tensor of the thresholds would have to be brought to the device in every step.
    targets = torch.stack([grade > each for each in thresholds], dim=1).float()  # (B, T)
    losses = F.binary_cross_entropy_with_logits(
        outputs.float(), targets.unsqueeze(1).expand_as(outputs), reduction="none"
    )
    of_rows = (losses.mean(dim=1) * weight.unsqueeze(1)).sum(dim=0)  # (T,)
    whole = torch.stack([one * each for one, each in zip(of_rows.unbind(), threshold_weights, strict=True)]).sum()
    return whole / joint_total(weight.sum()).clamp(min=torch.finfo(weight.dtype).tiny)


@dataclass(frozen=True)
class OrdinalObjective:
    """The ordinal loss of a ranker with an output for each threshold, on batches with `GRADE` among their extras."""

    graded: Graded

    def __call__(self, ranker: nn.Module, batch: Batch) -> Tensor:
        """Return the loss on one batch, ()."""
        outputs: Tensor = ranker(batch, of_members=True)
        graded = self.graded
        return ordinal_loss(outputs, batch.extra[GRADE], batch.weight, graded.thresholds, graded.loss_weights)
