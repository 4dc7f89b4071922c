"""Pre-training a sequence tower: at every place of a sequence the next item, by a softmax over sampled ones.

Source: Klenitskiy & Vasilev, "Turning Dross Into Gold Loss: is BERT4Rec really better than SASRec?" (RecSys 2023), who
find the softmax, over all items or many sampled ones, to be what SASRec lacked; one sample serves all places of a
batch. A sampled item stands for as many as it had chances not to be drawn (Bengio & Senécal, "Quick Training of
Probabilistic Neural Nets by Importance Sampling", 2003): the log of the rate is taken from its logit.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract
from recsys.features.events import row_of_each
from recsys.features.joint_rows import joint_processes, joint_total
from recsys.features.regrouped import Regrouping
from recsys.features.tables import table_configs
from recsys.towers.sequence import SequenceTower
from recsys.towers.sequence_batches import Jagged, SequenceBatch, rows_of_items

_ITEMS_AT_ONCE = 65_536


def sampled_softmax_losses(
    said: Tensor, target: Tensor, negative: Tensor, log_rate: Tensor, is_target: Tensor
) -> Tensor:
    """Return -log of the softmax share of each place's own item, (T,).

    Args:
        said: (T, D), what the sequences say before each of their items.
        target: (T, D), the items; `negative`: (M, D).
        log_rate: (M,), log of how often each negative was to be expected among those drawn.
        is_target: (T, M) bool, where a negative is the place's own item, which is none of its negatives.
    """
    own = (said * target).sum(dim=1, keepdim=True)
    others = (said @ negative.T - log_rate).masked_fill(is_target, -torch.inf)
    return torch.cat([own, others], dim=1).logsumexp(dim=1) - own.squeeze(1)


class ItemAttributes(nn.Module):
    """Vectors of items' attributes, which an item's own vector is learnt on top of, and then holds.

    Most items have few events. What is known of them beforehand carries over from items like them; when the tower has
    learnt it is added to the items' rows, once, so that the tower is a table of items as before.
    """

    def __init__(self, contract: FeatureContract, names: tuple[str, ...], width: int) -> None:
        super().__init__()
        self.names = names
        self.ebc = EmbeddingBagCollection(tables=table_configs(contract, names, prefix="attribute_", dimension=width))
        self._regrouped = Regrouping([[name] for name in names])

    def forward(self, sparse: KeyedJaggedTensor) -> Tensor:
        """Return the sum over the features of each item's mean over its attributes, (B, D)."""
        return torch.stack(self._regrouped(self.ebc(sparse))).sum(dim=0)

    @torch.no_grad()
    def of_all(self, attributes: Mapping[str, Jagged], item: str, device: torch.device) -> Tensor:
        """Return those of every item, (items, D), on the CPU. Every process calls it."""
        num_items = len(next(iter(attributes.values())).lengths)
        blocks = np.split(np.arange(num_items), range(_ITEMS_AT_ONCE, num_items, _ITEMS_AT_ONCE))
        return torch.cat([self(rows_of_items(block, item, attributes).to(device)).cpu() for block in blocks])


class NextEventObjective(nn.Module):
    """The tower, its items' attributes and their loss as one module, for the loop that all pre-training runs through.

    Args:
        attributes: None where the items have none.
        id_dropout: share of the items that a step knows by their attributes alone.
    """

    says = "next events by sampled softmax with correction for the rate of sampling"

    def __init__(self, embedding_tower: SequenceTower, attributes: ItemAttributes | None, id_dropout: float) -> None:
        super().__init__()
        self.embedding_tower = embedding_tower
        self.attributes = attributes
        self._id_dropout = id_dropout

    def weight_of(self, batch: Batch) -> float:
        """By how much the batch counts in a mean of losses: the items that are to be foretold.

        It is the mean over the processes, each of which calls it.
        """
        return float(joint_total(batch.label.sum()))

    def forward(self, batch: SequenceBatch) -> Tensor:
        """Return the mean loss over the items that are to be foretold, a scalar."""
        tower = self.embedding_tower
        ids = batch.sparse[tower.item].values()
        vectors = tower.item_vectors(batch)  # (T + M, D)
        if self.attributes is not None:
            kept = torch.rand_like(vectors[:, :1]) >= (self._id_dropout if self.training else 0.0)
            vectors = vectors * kept + self.attributes(batch.sparse)
        total = len(ids) - batch.num_negatives
        items, negative = vectors.split([total, batch.num_negatives])
        # Of every sequence all items but the last are read, and all are foretold.
        before = batch.lengths - 1
        rows = row_of_each(before, total - len(before))
        said = tower.encoder(items.index_select(0, torch.arange(len(rows), device=rows.device) + rows), before)
        is_target = ids[:total].unsqueeze(1) == ids[total:].unsqueeze(0)
        # In single precision whatever the layers computed in: a rounding of bfloat16 would be a tenth of a logit.
        with torch.autocast(said.device.type, enabled=False):
            losses = sampled_softmax_losses(said.float(), items.float(), negative.float(), batch.log_rate, is_target)
        wanted = batch.label[:total]
        # At least one in all processes together.
        return (losses * wanted).sum() / joint_total(wanted.sum()).clamp(min=1 / joint_processes())
