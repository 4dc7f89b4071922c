"""InteractionFields: a batch becomes one vector per field.

A sparse feature's vector comes from its table, through a projection where that has a width of its own; a dense
feature's from a small layer of its own; the user segment is a field like the others; and a sequential composition adds
the tower's vector as the last.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from recsys.errors import UsageError
from recsys.features.batch import Batch
from recsys.features.column_names import SEGMENT_KEY
from recsys.features.contract import FeatureContract
from recsys.features.regrouped import Regrouping
from recsys.features.schema import INTERACTION_NETWORK, Feature, FeatureSchema
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

    A table of ids may have a width of its own, such as a narrow one for millions of ids that few rows have. A matrix
    that learns, one a table, brings its vectors to D numbers: the mixed dimension embeddings of Ginart et al., "Mixed
    Dimension Embeddings with Application to Memory-Efficient Recommendation Systems" (ISIT 2021), where none is wider.

    Args:
        widths: by a sparse feature's name, the width of its table, which is that of all features that share it.

    Attributes:
        embedding_dropout: drops whole vectors out of those that were looked up, each with probability `p`, and divides
            the others by 1 - p, in training mode alone.
        num_fields: F, the tower's field included where there is one.
        dimension: D.

    Raises:
        UsageError: a width is given for what is no sparse feature of the network, or two for one table.
    """

    dense_columns: Tensor

    def __init__(
        self,
        contract: FeatureContract,
        dimension: int,
        *,
        has_tower_field: bool,
        widths: Mapping[str, int] | None = None,
    ) -> None:
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
        sparse = [feature for feature in used if feature.is_sparse]
        names = [feature.name for feature in sparse]
        own = _widths_by_table(sparse, widths or {})
        tables = table_configs(contract, names, prefix=TABLE_PREFIX, dimension=dimension)
        for table in tables:
            table.embedding_dim = own.get(table.name.removeprefix(TABLE_PREFIX), dimension)
        self.ebc = EmbeddingBagCollection(tables=[*tables, segments])
        keys = [*names, SEGMENT_KEY]
        self._widths = [*(own.get(feature.table, dimension) for feature in sparse), dimension]
        projected = [table for table, width in own.items() if width != dimension]
        # Of each sparse field in order, which of the projections is its table's; None for none.
        self._projection_of = [projected.index(f.table) if f.table in projected else None for f in sparse] + [None]
        self._regrouped = Regrouping([keys])
        # A buffer, so that it follows the module to its device; not persistent, as the schema gives it anew.
        self.register_buffer("dense_columns", torch.tensor(columns, dtype=torch.int64), persistent=False)
        # What nn.Linear(1, D) starts with, for every dense feature: uniform between -1 and 1.
        self.dense_weight = nn.Parameter(torch.empty(len(columns), dimension).uniform_(-1, 1))
        self.dense_bias = nn.Parameter(torch.empty(len(columns), dimension).uniform_(-1, 1))
        self.projections = nn.ModuleList(nn.Linear(own[table], dimension, bias=False) for table in projected)
        self.embedding_dropout = nn.Dropout1d(0.0)
        self.dimension = dimension
        self.has_tower_field = has_tower_field
        self.num_fields = len(keys) + len(columns) + int(has_tower_field)

    def look_up(self, batch: Batch) -> Tensor:
        """Return the pooled vectors of each row's sparse features and its segment, (B, sum of their widths)."""
        return self._regrouped(batch.look_up(self.ebc, batch.sparse_and_segment))[0]

    def forward(self, looked_up: Tensor, dense: Tensor, tower_field: Tensor | None) -> Tensor:
        """Put all fields of some rows side by side.

        Args:
            looked_up: (n, sum of widths), those rows of `look_up`.
            dense: (n, F_dense), those rows of `Batch.dense`.
            tower_field: (n, D) where the fields have one for the tower, else None.

        Returns:
            (n, F, D): sparse features and dense features in schema order with the segment between them, then the tower.
        """
        values = dense[:, self.dense_columns].unsqueeze(-1)  # (n, F_dense, 1)
        sparse = self._in_fields(looked_up)
        fields = [
            self.embedding_dropout(sparse) if self.embedding_dropout.p else sparse,
            torch.relu(torch.addcmul(self.dense_bias, values, self.dense_weight)),
        ]
        if tower_field is not None:
            fields.append(tower_field.unsqueeze(1))
        return torch.cat(fields, dim=1)

    def _in_fields(self, looked_up: Tensor) -> Tensor:
        """Bring vectors side by side, (n, sum of widths), to fields of one width, (n, F_sparse, D)."""
        if not self.projections:
            return looked_up.unflatten(1, (-1, self.dimension))
        vectors = zip(looked_up.split(self._widths, dim=1), self._projection_of, strict=True)
        return torch.stack([own if at is None else self.projections[at](own) for own, at in vectors], dim=1)


def _widths_by_table(sparse: Sequence[Feature], widths: Mapping[str, int]) -> dict[str, int]:
    tables = {feature.name: feature.table for feature in sparse}
    own: dict[str, int] = {}
    for name, width in widths.items():
        if name not in tables:
            raise UsageError(
                f"`network.field_widths` gives `{name}` a width of {width}, but the sparse features of "
                f"{INTERACTION_NETWORK} are {', '.join(tables) or 'none'}. Name one of them, or take it out."
            )
        if own.setdefault(tables[name], width) != width:
            raise UsageError(
                f"`network.field_widths` gives `{name}` a width of {width} and another feature of its table "
                f"`{tables[name]}` one of {own[tables[name]]}. A table has one width: name one of the two features."
            )
    return own
