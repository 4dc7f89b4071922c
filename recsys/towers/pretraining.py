"""Pre-training a two-tower model: in-batch sampled softmax with a correction for popularity, and how well it retrieves.

Source: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations" (RecSys 2019).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from recsys.features.batch import Batch
from recsys.features.joint_rows import joint_rows, joint_total
from recsys.features.vocabulary import UNKNOWN_ROW
from recsys.towers.embedding import EmbeddingTower
from recsys.towers.nearest import nearest
from recsys.towers.two_sided import TwoSidedTower


def in_batch_softmax_loss(
    user: Tensor, item: Tensor, item_rows: Tensor, log_popularity: Tensor, weight: Tensor, temperature: float
) -> Tensor:
    """Return the weighted mean of -log softmax of each user's own item among the batch's items: equations 3 to 5.

    A popular item stands in many batches as a negative; taking the log of how often from its score undoes that. An item
    that stands in the batch twice is no negative of itself, so the other copy is left out of the softmax; the paper
    leaves open what it does with those.

    The batch is that of all processes (`joint_rows.py`): each user's item stands among the items of all of them.

    Args:
        user: (P, D), of unit length, one per positive row.
        item: (P, D), of unit length.
        item_rows: (P,) int64, the item's table row.
        log_popularity: (P,), log of the share of positive rows that have this item.
        weight: (P,), the reward of each positive (r_i of the paper).
        temperature: divides the scores.

    Returns:
        A scalar; 0 where no process has a positive row.
    """
    first, (items, rows, popularity) = joint_rows(item, item_rows, log_popularity)
    total = joint_total(weight.sum())
    if not len(items):
        # The loss of a batch without positives is 0, but its graph must still reach the tables.
        return user.sum() + items.sum()
    scores = user @ items.T / temperature - popularity  # (P, items of all), row i scored by user i
    own = (first + torch.arange(len(user), device=user.device)).unsqueeze(1)
    is_copy = (item_rows.unsqueeze(1) == rows.unsqueeze(0)).scatter(1, own, False)
    log_shares = scores.masked_fill(is_copy, -torch.inf).log_softmax(dim=1).gather(1, own).squeeze(1)
    return -(weight * log_shares).sum() / total


def log_popularity(counts: Tensor) -> Tensor:
    """Return the log of every item's share of the positives, (rows,) float32, from its count.

    Each count is raised by one, since an item without positives may still come up and log 0 would be infinite. The
    paper estimates the shares from a stream (its algorithm 2); here the training split has been counted.

    >>> log_popularity(torch.tensor([0, 1, 5])).exp().tolist()
    [0.1111111044883728, 0.2222222089767456, 0.6666666865348816]
    """
    raised = counts.double() + 1
    return (raised / raised.sum()).log().float()


def count_positives(batches: Iterable[Batch], item_feature: str, num_rows: int) -> Tensor:
    """Return in how many positive rows each item stands, (num_rows,) int64."""
    counts = torch.zeros(num_rows, dtype=torch.int64)
    for batch in batches:
        items = batch.sparse[item_feature].values()[batch.label > 0]
        counts += torch.bincount(items.cpu(), minlength=num_rows)
    return counts


class TwoTowerObjective(nn.Module):
    """The tower and its loss as one module, so that pre-training runs through the same loop as everything else.

    Args:
        embedding_tower: with a user side and an item side.
        item_feature: the sparse feature that names the item; one id per row.
        log_popularity: (rows of the item's table,), as the function of that name returns it.
        temperature: divides the scores; unit vectors need one well below 1.
    """

    says = "in-batch sampled softmax with log-popularity correction"
    log_popularity: Tensor

    def __init__(
        self, embedding_tower: EmbeddingTower, item_feature: str, log_popularity: Tensor, temperature: float
    ) -> None:
        super().__init__()
        self.embedding_tower = embedding_tower
        self.item_feature = item_feature
        self.temperature = temperature
        # Not persistent: it belongs to the data of this training, not to the tower.
        self.register_buffer("log_popularity", log_popularity, persistent=False)

    def weight_of(self, batch: Batch) -> float:
        """By how much the batch counts in a mean of losses: its positives.

        It is the mean over the processes, each of which calls it.
        """
        return float(joint_total(batch.label.sum()))

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss over the batch's positive rows, a scalar."""
        positives = batch.label.nonzero().squeeze(1)  # (P,)
        user, item = self.embedding_tower.sides(batch, positives)
        item_rows = batch.sparse[self.item_feature].values()[positives]
        popularity, weight = self.log_popularity[item_rows], batch.weight[positives]
        # In single precision whatever the layers computed in: divided by the temperature, a rounding of bfloat16 would
        # be a twentieth of a logit.
        with torch.autocast(user.device.type, enabled=False):
            return in_batch_softmax_loss(user.float(), item.float(), item_rows, popularity, weight, self.temperature)


@torch.no_grad()
def retrieval_recall(tower: TwoSidedTower, batches: Iterable[Batch], item_feature: str, k: int) -> float | None:
    """Return the share of positive rows whose item is among the k best for its user.

    The candidates are the distinct items of the positives in `batches`; an item whose vector changes from row to row
    (its price did) stands with its last one. Items that were never seen in training share one row, so a hit among them
    would mean nothing: their positives are left out.

    Args:
        k: how many items are shown; with no more candidates than that the recall is 1.

    Returns:
        None where there is no positive row of a known item, and so nothing to recall.
    """
    users: list[Tensor] = []
    targets: list[Tensor] = []
    newest: list[tuple[Tensor, Tensor]] = []  # batch by batch, distinct items and their vectors
    for batch in batches:
        items = batch.sparse[item_feature].values()
        positives = ((batch.label > 0) & (items != UNKNOWN_ROW)).nonzero().squeeze(1)
        user, item = tower.sides(batch, positives)
        rows = items[positives]
        users.append(user)
        targets.append(rows)
        newest.append(_last_of_each(rows, item))
    if not any(map(len, targets)):
        return None
    known, candidates = _last_of_each(*(torch.cat(parts) for parts in zip(*newest, strict=True)))
    target = torch.cat(targets)
    best = known[nearest(torch.cat(users), candidates, k)[1]]  # (P, k)
    return float((best == target.unsqueeze(1)).any(dim=1).double().mean())


def _last_of_each(rows: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct `rows` (P,), and of `vectors` (P, D) the one that stands last beside each."""
    known, number = rows.unique(return_inverse=True)
    places = torch.arange(len(rows), device=rows.device)
    return known, vectors[torch.zeros_like(known).scatter_reduce_(0, number, places, "amax")]
