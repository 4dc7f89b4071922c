"""The model that the benchmarks of the training step share.

DLRM's shape (Naumov et al., "Deep Learning Recommendation Model for Personalization and Recommendation Systems", 2019):
a bottom MLP for the dense features, a table per id, the dot products of all pairs of vectors, a top MLP.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from recsys.features.batch import Batch
from recsys.features.regrouped import Regrouping


@dataclass(frozen=True)
class DlrmShape:
    """What a DLRM is made for.

    Attributes:
        tables: rows by the name of the feature, in the order of the batch.
        width: of every vector.
        top: widths of the top MLP's layers below the logit.
    """

    tables: Mapping[str, int]
    num_dense: int
    width: int = 16
    top: tuple[int, ...] = (512, 256)


class Fields(nn.Module):
    """The tables, drawn on `device`."""

    def __init__(self, shape: DlrmShape, device: torch.device) -> None:
        super().__init__()
        self._width, self._regrouping = shape.width, Regrouping([list(shape.tables)])
        self.ebc = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name=f"table_{name}",
                    embedding_dim=shape.width,
                    num_embeddings=rows,
                    feature_names=[name],
                    pooling=PoolingType.SUM,
                )
                for name, rows in shape.tables.items()
            ],
            device=device,
        )

    def forward(self, batch: Batch) -> Tensor:
        """Return (B, F, width)."""
        (vectors,) = self._regrouping(batch.look_up(self.ebc, batch.sparse))
        return vectors.view(len(batch), -1, self._width)


class Dlrm(nn.Module):
    """Two parts: `interaction_network` holds the tables, `head` the layers."""

    def __init__(self, shape: DlrmShape, device: torch.device) -> None:
        super().__init__()
        self.interaction_network = Fields(shape, device)
        num_fields = len(shape.tables) + 1
        crossed = shape.width + num_fields * (num_fields - 1) // 2
        self.head = nn.ModuleDict(
            {
                "bottom": nn.Sequential(*_layers(shape.num_dense, 64, shape.width)),
                "top": nn.Sequential(*_layers(crossed, *shape.top), nn.Linear(shape.top[-1], 1)),
            }
        )
        below = torch.tril_indices(num_fields, num_fields, -1)
        self.register_buffer("pairs", below[0] * num_fields + below[1], persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits (B,)."""
        return self.logits(batch.dense, self.interaction_network(batch))

    def logits(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """The dense half alone: map (B, num_dense) and the looked-up vectors (B, F, width) to (B,)."""
        dense = self.head["bottom"](dense)
        fields = torch.cat([dense.unsqueeze(1), vectors], dim=1)
        dots = torch.bmm(fields, fields.transpose(1, 2)).flatten(1).index_select(1, self.get_buffer("pairs"))
        return self.head["top"](torch.cat([dense, dots], dim=1)).squeeze(1)


def _layers(*widths: int) -> list[nn.Module]:
    return [layer for width, after in pairwise(widths) for layer in (nn.Linear(width, after), nn.ReLU())]
