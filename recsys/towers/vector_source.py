"""VectorSource: vectors of ids, one by one, that heads compare and read."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from recsys.features.batch import Batch
from recsys.features.events import events_key, one_bag_per_id, vectors_by_feature
from recsys.features.vocabulary import UNKNOWN_ROW
from recsys.towers.tower_spec import TABLE_PREFIX


class VectorSource(nn.Module):
    """One way to tell ids apart: a table for each vocabulary, looked up id by id.

    Args:
        features: by table, the features whose ids are looked up in it.
        spread: of the uniform numbers that the tables start with; the unknown row starts at zero.

    Attributes:
        is_frozen: its tables are looked up without a graph.
        stays_frozen: frozen in every training mode, as what was made elsewhere and is to stay so.
    """

    def __init__(
        self, features: Mapping[str, Sequence[str]], rows: Mapping[str, int], width: int, spread: float
    ) -> None:
        super().__init__()
        self.features = {table: tuple(names) for table, names in features.items()}
        self.is_frozen = self.stays_frozen = False

        def start(weight: Tensor) -> None:
            with torch.no_grad():
                weight.uniform_(-spread, spread)
                weight[UNKNOWN_ROW] = 0

        self.ebc = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name=f"{TABLE_PREFIX}{table}",
                    num_embeddings=rows[table],
                    embedding_dim=width,
                    feature_names=[events_key(table)],
                    pooling=PoolingType.SUM,
                    init_fn=start,
                )
                for table in self.features
            ]
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return, by feature, the vectors of the batch's ids, (ids, D) each."""
        learns = not (self.is_frozen or getattr(self.ebc, "is_frozen", False))
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            pooled = batch.look_up(self.ebc, one_bag_per_id(batch.sparse, self.features))
            return vectors_by_feature(pooled, batch.sparse, self.features)
