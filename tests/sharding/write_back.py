"""A CPU's kernel made to behave as one that caches rows on a GPU: what is in its cache, the weights do not show."""

import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys.sharding.inventory import FusedKernel, inventory_of


class WriteBackCache:
    """Stands before a kernel's weights: its forward and backward passes see the cache, everything else what is behind.

    The kernel's own memory is the cache, of all its rows. `split_embedding_weights` gives what lies behind it, which
    `flush` writes to, and `reset_cache_states` reads from, as in fbgemm's `lxu_cache_flush`.
    """

    def __init__(self, kernel: FusedKernel) -> None:
        self._cached = kernel.module.split_embedding_weights()
        self._behind = [weight.clone() for weight in self._cached]
        self.flushes = self.resets = 0
        kernel.module.split_embedding_weights = self._weights
        kernel.module.flush = self._flush
        kernel.module.reset_cache_states = self._reset

    def _weights(self) -> list[Tensor]:
        return self._behind

    def _flush(self) -> None:
        self.flushes += 1
        self._copy(self._cached, self._behind)

    def _reset(self) -> None:
        self.resets += 1
        self._copy(self._behind, self._cached)

    @torch.no_grad()
    def _copy(self, source: list[Tensor], target: list[Tensor]) -> None:
        for one, other in zip(source, target, strict=True):
            other.copy_(one)


def with_caches(wrapped: DistributedModelParallel) -> list[WriteBackCache]:
    """Put a cache before every fused kernel of a wrapped ranker."""
    return [WriteBackCache(kernel) for kernel in inventory_of(wrapped).fused]
