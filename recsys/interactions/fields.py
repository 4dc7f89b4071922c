"""InteractionFields: a batch becomes one vector per field.

A sparse feature's vector comes from its table; a dense feature's from a small layer of its own; the user segment is a
field like the others; and a sequential composition adds the tower's vector as the last.
"""

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from recsys.errors import UsageError
from recsys.features.batch import Batch
from recsys.features.column_names import SEGMENT_KEY
from recsys.features.contract import FeatureContract
from recsys.features.regrouped import Regrouping
from recsys.features.schema import INTERACTION_NETWORK, FeatureKind, FeatureSchema
from recsys.features.tables import table_configs

TABLE_PREFIX = "network_"
"""Goes before the vocabulary's name in the name of each of the network's tables, and before `SEGMENT_KEY`."""


def require_features(schema: FeatureSchema) -> None:
    """Refuse a schema that gives the interaction network nothing to cross.

    Raises:
        UsageError: names the schema, and the key to mend.
    """
    if not schema.used_by(INTERACTION_NETWORK):
        raise UsageError(
            f"Schema `{schema.name}` gives {INTERACTION_NETWORK} no feature, and every ranker has one. Add "
            f"`{INTERACTION_NETWORK}` to the `used_by` of at least one."
        )


class InteractionFields(nn.Module):
    """Give every feature of the interaction network, and the user segment, a vector of the same width.

    A dense feature x becomes ReLU(x w + b) with its own w and b, so that each number of its vector is a hinge of x:
    "LR" of Gorishniy, Rubachev and Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning" (NeurIPS
    2022), section 3.3, found there to beat the product x w alone.

    The segment is looked up in a table, not in a parameter: the table's optimizer leaves the rows of absent segments as
    they are, where AdamW would move them by momentum and decay.

    Attributes:
        embedding_dropout: drops whole vectors out of those that were looked up, each with probability `p`, and divides
            the others by 1 - p, in training mode alone.
        num_fields: F, the tower's field included where there is one.
        dimension: D.
    """

    dense_columns: Tensor

    def __init__(self, contract: FeatureContract, dimension: int, *, has_tower_field: bool) -> None:
        super().__init__()
        schema = contract.schema
        used = schema.used_by(INTERACTION_NETWORK)
        columns = schema.dense_columns(used)
        segments = EmbeddingBagConfig(
            name=f"{TABLE_PREFIX}{SEGMENT_KEY}",
            num_embeddings=len(schema.segments),
            embedding_dim=dimension,
            feature_names=[SEGMENT_KEY],
            pooling=PoolingType.MEAN,
        )
        names = [feature.name for feature in used]
        tables = table_configs(contract, names, prefix=TABLE_PREFIX, dimension=dimension)
        self.ebc = EmbeddingBagCollection(tables=[*tables, segments])
        keys = [*(feature.name for feature in used if feature.kind is not FeatureKind.DENSE), SEGMENT_KEY]
        self._regrouped = Regrouping([keys])
        # A buffer, so that it follows the module to its device; not persistent, as the schema gives it anew.
        self.register_buffer("dense_columns", torch.tensor(columns, dtype=torch.int64), persistent=False)
        # What nn.Linear(1, D) starts with, for every dense feature: uniform between -1 and 1.
        self.dense_weight = nn.Parameter(torch.empty(len(columns), dimension).uniform_(-1, 1))
        self.dense_bias = nn.Parameter(torch.empty(len(columns), dimension).uniform_(-1, 1))
        self.embedding_dropout = nn.Dropout1d(0.0)
        self.dimension = dimension
        self.has_tower_field = has_tower_field
        self.num_fields = len(keys) + len(columns) + int(has_tower_field)

    def look_up(self, batch: Batch) -> Tensor:
        """Return the pooled vectors of the sparse features and the segment, (B, F_sparse, D), for every row."""
        (vectors,) = self._regrouped(batch.look_up(self.ebc, batch.sparse_and_segment))
        dropped: Tensor = self.embedding_dropout(vectors.unflatten(1, (-1, self.dimension)))
        return dropped

    def forward(self, looked_up: Tensor, dense: Tensor, tower_field: Tensor | None) -> Tensor:
        """Put all fields of some rows side by side.

        Args:
            looked_up: (n, F_sparse, D), those rows of `look_up`.
            dense: (n, F_dense), those rows of `Batch.dense`.
            tower_field: (n, D) where the fields have one for the tower, else None.

        Returns:
            (n, F, D): sparse features and dense features in schema order with the segment between them, then the tower.
        """
        values = dense[:, self.dense_columns].unsqueeze(-1)  # (n, F_dense, 1)
        fields = [looked_up, torch.relu(torch.addcmul(self.dense_bias, values, self.dense_weight))]
        if tower_field is not None:
            fields.append(tower_field.unsqueeze(1))
        return torch.cat(fields, dim=1)
