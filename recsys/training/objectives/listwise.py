"""The listwise loss: the softmax of each chosen item among the candidates of its query that were not chosen.

Candidates that were not chosen are sampled, an item with a probability in proportion to some q. Among a chosen item and
sampled ones the posterior of the choice is the softmax of f - log q, where f is the score by which all candidates are
ranked. A ranker's logit stands for f - log q, under this loss as under the log loss: `ranker_score` adds
`log_sampling_rate` where candidates are ranked. So the correction needs no rate here, the loss agrees with the log loss
in what it asks of a logit, and both may be added; the softmax alone leaves a number per query open, by which its logits
are no log-odds.

Source: the sampled softmax of Jean et al., "On Using Very Large Target Vocabulary for Neural Machine Translation" (ACL
2015), section 3; the correction of Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
Recommendations" (RecSys 2019), section 3.1. Of several chosen items of a query each has a softmax without the others.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from recsys.features.batch import Batch
from recsys.features.joint_rows import joint_rows, joint_total
from recsys.training.objectives.label_log_loss import weighted_log_loss

QUERY = "query"
"""The extra column that the rows of a query agree in; the rows of a batch are told apart by nothing else."""


def listwise_loss(logit: Tensor, label: Tensor, weight: Tensor, query: Tensor) -> Tensor:
    """Return the weighted mean of -log softmax of each positive row among itself and its query's negative rows.

    What of a query is in the batch counts, and the batch is that of all processes (`joint_rows.py`): where the border
    between two of them parts a query, a positive's rivals are those of both. A positive without a negative beside it is
    left out, and where none is left the loss is 0, with a graph. A negative of weight w counts as w candidates. There
    are as many sums as rows, so that the device is never asked how many queries there are. Every process calls it.

    Args:
        logit: (B,) or (B, M), of any precision; of M members each has its own loss, and their mean counts.
        label, weight: (B,) float; a row of weight 0 is as if it were not there.
        query: (B,) int64, any numbers that are a query's in all processes.

    Returns:
        A scalar, in nats.

    >>> import torch
    >>> label, query = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([7, 7, 7, 2])
    >>> round(listwise_loss(torch.zeros(4), label, torch.ones(4), query).item(), 4)  # log 3: one of three
    1.0986
    """
    own = logit.float().view(len(label), -1)  # (B, M)
    rows = len(own)
    first, (scores, label, weight, query) = joint_rows(own, label, weight, query)  # from here B is all processes' rows
    # Where a query's rows begin among the sorted ones: a number for each query, from 0 to B - 1.
    place = torch.searchsorted(query.sort().values, query).unsqueeze(1).expand_as(scores)
    is_negative = ((label == 0) & (weight > 0)).unsqueeze(1)
    negatives = scores.masked_fill(~is_negative, -torch.inf)
    # The greatest of each query's negatives is taken from its exponents, so that none overflows.
    highest = torch.full_like(scores, -torch.inf).scatter_reduce(0, place, negatives.detach(), "amax")
    shift = highest.masked_fill(highest == -torch.inf, 0.0)
    # By how much each exceeds: masked before the exponential, whose infinity times 0 would be no number.
    masses = (negatives - shift.gather(0, place)).exp() * weight.unsqueeze(1)
    sums = torch.zeros_like(scores).scatter_add(0, place, masses)
    rivals = (sums.clamp(min=torch.finfo(sums.dtype).tiny).log() + shift).gather(0, place)
    counts = (label > 0) & (sums.detach().gather(0, place)[:, 0] > 0)
    # Each process has the losses of its own rows, and their gradients reach the rivals' processes.
    mine = slice(first, first + rows)
    losses = F.softplus((rivals - scores)[mine]).mean(dim=1)
    kept = (weight * counts)[mine]
    return (losses * kept).sum() / joint_total(kept.sum()).clamp(min=torch.finfo(weight.dtype).tiny)


@dataclass(frozen=True)
class ListwiseObjective:
    """The listwise loss, and beside it the log loss, which keeps logits log-odds; on batches with `QUERY` in extras.

    Attributes:
        log_loss_weight: 0 or more.
    """

    log_loss_weight: float

    def __call__(self, ranker: nn.Module, batch: Batch) -> Tensor:
        """Return the loss on one batch, ()."""
        logits = ranker(batch, of_members=True).squeeze(2)  # (B, M)
        loss = listwise_loss(logits, batch.label, batch.weight, batch.extra[QUERY])
        if not self.log_loss_weight:
            return loss
        label, weight = (each.unsqueeze(1).expand_as(logits) for each in (batch.label, batch.weight))
        return loss + self.log_loss_weight * weighted_log_loss(logits, label, weight)
