"""A batch that finds other vectors in a tower's tables: whoever gives it the same answer does not read them."""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from recsys.features.batch import Batch


def with_other_vectors(batch: Batch, tables: nn.Module) -> Batch:
    """Return the batch with random numbers as what it looks up in a collection of tables, which stay as they are.

    Args:
        tables: plain or sharded; with several processes every one calls it.
    """
    pooled = tables(batch.sparse)
    drawn = torch.randn(pooled.values().shape, generator=torch.Generator().manual_seed(0))
    others = KeyedTensor(pooled.keys(), pooled.length_per_key(), drawn.to(pooled.values()))
    return replace(batch, ahead={**batch.ahead, tables: _OtherVectors(batch.sparse, others)})


@dataclass(frozen=True)
class _OtherVectors:
    """A look-up that was begun elsewhere, as `recsys.features.batch.BegunLookUp` describes it."""

    ids: KeyedJaggedTensor
    vectors: KeyedTensor

    def pooled(self) -> KeyedTensor:
        return self.vectors

    def record_stream(self, stream: torch.Stream) -> None:
        self.vectors.record_stream(stream)
