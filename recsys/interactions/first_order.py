"""FirstOrder: one weight per id and per dense feature, added to the logit beside all that is crossed.

A crossing learns that an item is popular, or a user generous, through all of its layers; a weight of its own learns it
directly, and from few rows. It is a logistic regression inside the ranker, and starts as one that was fitted
(`load_logistic`), so that the layers begin with what it leaves unexplained.

Source: the wide part of Cheng et al., "Wide & Deep Learning for Recommender Systems" (DLRS 2016), and the first-order
term of Guo et al., "DeepFM" (IJCAI 2017), equation 2.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from recsys.features.batch import Batch
from recsys.features.contract import FeatureContract
from recsys.features.schema import INTERACTION_NETWORK

TABLE_PREFIX = "first_order_"
"""Goes before the feature's name in the name of each table."""

# The narrowest table that the fused kernels take. Its numbers start equal and get equal gradients, so their mean is one
# weight that learns at the table's own rate.
COPIES = 4
"""How many equal numbers of a table stand for one weight."""


class FirstOrder(nn.Module):
    """One weight per id of every sparse feature, and one per dense feature, of those that the interaction network has.

    Features that share a vocabulary have weights of their own: an item means one thing as the candidate and another as
    something bought before. A list has the mean of its ids' weights. Unknown ids have weight 0.
    """

    dense_columns: Tensor

    def __init__(self, contract: FeatureContract) -> None:
        super().__init__()
        used = contract.schema.used_by(INTERACTION_NETWORK)
        order = contract.schema.dense_columns(used)
        self._tables = {
            feature.name: EmbeddingBagConfig(
                name=_table_name(feature.name, place),
                num_embeddings=contract.table_rows[feature.table],
                embedding_dim=COPIES,
                feature_names=[feature.name],
                pooling=PoolingType.MEAN,
                init_fn=_zero,
            )
            for place, feature in enumerate(used)
            if feature.is_sparse
        }
        # TorchRec has no collection without tables, which a network of numbers alone would need.
        self.ebc = EmbeddingBagCollection(tables=list(self._tables.values())) if self._tables else None
        self.dense_weight = nn.Parameter(torch.zeros(len(order)))
        # A buffer, so that it follows the module to its device; not persistent, as the schema gives it anew.
        self.register_buffer("dense_columns", torch.tensor(order, dtype=torch.int64), persistent=False)

    def load_logistic(self, dense: Sequence[float], ids: Mapping[str, Tensor]) -> None:
        """Start from fitted weights, those of features that the interaction network does not have left out.

        Args:
            dense: one weight per dense feature of the schema, in its order.
            ids: sparse feature -> (rows of its table,), one weight per row; features that are not named keep 0.
        """
        with torch.no_grad():
            self.dense_weight.copy_(torch.tensor(dense)[self.dense_columns])
            for name, weights in ids.items():
                if self.ebc is not None and name in self._tables:
                    table = self.ebc.embedding_bags[self._tables[name].name].weight
                    table.copy_(weights.to(table).unsqueeze(1).expand_as(table))

    def look_up(self, batch: Batch) -> Tensor | None:
        """Return the sum of the weights of every row's ids, (B,); None where there are no ids but numbers alone."""
        return None if self.ebc is None else batch.look_up(self.ebc, batch.sparse).values().sum(dim=1) / COPIES

    def forward(self, batch: Batch, looked_up: Tensor | None = None) -> Tensor:
        """Return the sum of every row's first-order weights, (B,).

        Args:
            looked_up: what `look_up` gave for the batch; None to look it up now.
        """
        of_ids = self.look_up(batch) if looked_up is None else looked_up
        numbers = batch.dense[:, self.dense_columns] @ self.dense_weight
        return numbers if of_ids is None else of_ids + numbers


def _table_name(feature: str, place: int) -> str:
    # A module's name has no dot, and a feature's may have any letters.
    return f"{TABLE_PREFIX}{feature}" if re.fullmatch(r"[\w-]+", feature) else f"{TABLE_PREFIX} {place}"


def _zero(weight: Tensor) -> None:
    with torch.no_grad():
        weight.zero_()
