"""A tower that has what usually betrays a freeze: batch normalisation and dropout, beside its fused tables."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.composition.conditional import SegmentGatedComposition
from recsys.features.batch import Batch
from recsys.towers.embedding import EmbeddingTower
from tests.small_model import SEGMENTS, small_contract, small_ranker, two_tower_spec


class RestlessTower(EmbeddingTower):
    """An embedding tower with batch normalisation and dropout on its way out."""

    def __init__(self) -> None:
        super().__init__(two_tower_spec(), small_contract())
        self.restless = nn.Sequential(nn.BatchNorm1d(self.output_width), nn.Dropout(0.5))

    def forward(self, batch: Batch, rows: Tensor | None = None, looked_up: Sequence[Tensor] | None = None) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            return self.restless(super().forward(batch, rows, looked_up))


def restless_ranker() -> nn.Module:
    ranker = small_ranker(lambda p: SegmentGatedComposition(p, len(SEGMENTS), None))
    ranker.embedding_tower = RestlessTower()
    return ranker
