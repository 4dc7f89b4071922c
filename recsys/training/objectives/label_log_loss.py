"""The log loss: weighted binary cross-entropy on logits."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from recsys.features.batch import Batch
from recsys.features.joint_rows import joint_total


def weighted_log_loss(logit: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Return sum(weight * cross-entropy) / sum(weight), a scalar, in nats.

    Several processes share the weights' sum (`joint_rows.py`): the mean of their losses is that over all their rows.

    Args:
        logit: (B,), or (B, M) of M members, of any precision.
        label: of the same shape, float, each 0 or 1.
        weight: of the same shape, each 0 or more; where all are 0, so is the loss.

    >>> import torch
    >>> label, weight = torch.tensor([1.0, 0.0]), torch.tensor([3.0, 1.0])
    >>> round(weighted_log_loss(torch.zeros(2), label, weight).item(), 4)  # log 2, whatever the weights
    0.6931
    """
    losses = F.binary_cross_entropy_with_logits(logit.float(), label, weight=weight, reduction="sum")
    # A split has rows that count, and a batch of it may happen to have none.
    return losses / joint_total(weight.sum()).clamp(min=torch.finfo(weight.dtype).tiny)


def log_loss_objective(ranker: nn.Module, batch: Batch) -> Tensor:
    """Return the ranker's weighted log loss on one batch, (): the mean of its members' losses, each of its own logit.

    Args:
        ranker: with one output; see `Ranker.outputs`.
    """
    logits = ranker(batch, of_members=True).squeeze(2)  # (B, M)
    label, weight = (each.unsqueeze(1).expand_as(logits) for each in (batch.label, batch.weight))
    return weighted_log_loss(logits, label, weight)
