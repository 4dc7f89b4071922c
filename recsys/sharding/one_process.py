"""What TorchRec does between processes, left out where there is one.

Ids that stay where they are would pass its exchange all the same, which builds on the device, in every step and for
every collection, an index that nobody reads: the host waits for each.
"""

from collections.abc import Callable
from typing import Any

from torch import nn
from torchrec.distributed.dist_data import KJTAllToAll
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.types import Awaitable, NoWait
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


class NoExchange(nn.Module):
    """Stands for `KJTAllToAll` in a run of one process."""

    def forward(self, ids: KeyedJaggedTensor) -> Awaitable[Awaitable[KeyedJaggedTensor]]:
        """Return the ids as they came, of F features and B rows."""
        return NoWait(NoWait(ids))


def leave_out_exchange(collection: nn.Module) -> None:
    """Let a collection of a run of one process look its ids up where they are; call it before its first look-up.

    One that is not sharded exchanges nothing and is left as it is.
    """
    if not isinstance(collection, ShardedEmbeddingBagCollection):
        return
    # TorchRec makes the modules that exchange ids at the first look-up. The one name here that it keeps private;
    # `tests/sharding/test_one_process.py` holds the collection against a plain one.
    for sharding in collection._embedding_shardings:
        sharding.create_input_dist = _without_exchange(sharding.create_input_dist)


def _without_exchange(create: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def create_without(*arguments: Any, **keywords: Any) -> nn.Module:
        made = create(*arguments, **keywords)
        for name, child in made.named_children():
            if isinstance(child, KJTAllToAll):
                setattr(made, name, NoExchange())
        return made

    return create_without
