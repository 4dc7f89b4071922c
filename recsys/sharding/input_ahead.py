"""The first half of a look-up, done for the next batch while the step before it computes.

A sharded collection first brings ids to where its tables lie (permuted, cut by table, exchanged between processes) and
then looks them up. Only the second half needs the weights. TorchRec's `TrainPipelineSparseDist` does the first half
ahead too; it traces the model for its look-ups, pulls batches itself (a checkpoint could not tell which ones the steps
have had) and has a step of its own, without the gate. Here the stream hands each batch out with that half done.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn
from torchrec.distributed.embedding_types import KJTList
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionContext, ShardedEmbeddingBagCollection
from torchrec.distributed.types import Awaitable
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from recsys.sharding.inventory import unwrapped
from recsys.sharding.weighted_mean import DividedWeights


class IdsOfABatch(Protocol):
    """What a model's collections are looked up with: all by `sparse`, or by `sparse_and_segment` where they need it.

    Attributes:
        ahead: by collection, the look-ups that were begun; they are put here when their first halves are done.
    """

    sparse: KeyedJaggedTensor
    ahead: Any

    @property
    def sparse_and_segment(self) -> KeyedJaggedTensor:
        """`sparse` and one more key, of one id a row; the same object each time."""
        ...


class InputAhead:
    """Begins the look-ups of a batch that is still to be handed out, as `BatchStream.prepare`.

    It holds no batch and changes no module. A collection that it left out, or that is then given other ids, is looked
    up as a whole in the step. A part with a cache that answers for it (a frozen tower's) is left out.

    Args:
        ranker: as `wrap_ranker` returned it.
    """

    def __init__(self, ranker: nn.Module) -> None:
        module = unwrapped(ranker)
        # With the part that each is of, and the features that it is looked up with.
        self._collections = [
            (module.get_submodule(path.partition(".")[0]), child, _features(child))
            for path, child in module.named_modules()
            if isinstance(child, ShardedEmbeddingBagCollection)
        ]

    def __call__(self, batch: IdsOfABatch) -> Callable[[], None]:
        """Send the batch's ids on their way, on the current stream; the returned function waits for them there.

        Afterwards `Batch.look_up` goes on from them. Every process calls both for the same batches, and between the
        same exchanges of others.
        """
        with torch.no_grad():
            begun = [
                _begin(collection, ids)
                for part, collection, features in self._collections
                if getattr(part, "cache", None) is None and (ids := _ids_for(features, batch)) is not None
            ]
        return partial(_arrive, batch, begun)


def _ids_for(features: frozenset[str], batch: IdsOfABatch) -> KeyedJaggedTensor | None:
    """What a collection is looked up with; None for ids that a step makes of the batch's: each event by itself."""
    if features.issubset(batch.sparse.keys()):
        return batch.sparse
    return batch.sparse_and_segment if features.issubset(batch.sparse_and_segment.keys()) else None


@dataclass
class _Begun:
    """A look-up of which the first half is under way, or done."""

    collection: ShardedEmbeddingBagCollection
    ids: KeyedJaggedTensor
    context: EmbeddingBagCollectionContext
    sent: Awaitable[Awaitable[KJTList]]
    arrived: KJTList | None = None

    def pooled(self) -> KeyedTensor:
        """Return the second half's result, as calling the collection does."""
        return self.collection.compute_and_output_dist(self.context, self.arrived)

    def record_stream(self, stream: torch.Stream) -> None:
        assert self.arrived is not None
        self.arrived.record_stream(stream)
        self.context.record_stream(stream)


def _begin(collection: ShardedEmbeddingBagCollection, ids: KeyedJaggedTensor) -> _Begun:
    context = collection.create_context()
    return _Begun(collection, ids, context, collection.input_dist(context, _divided(collection, ids)))


def _arrive(batch: IdsOfABatch, begun: list[_Begun]) -> None:
    with torch.no_grad():
        for each in begun:
            each.arrived = each.sent.wait().wait()
    batch.ahead = {each.collection: each for each in begun}


def _features(collection: ShardedEmbeddingBagCollection) -> frozenset[str]:
    # A private name, as of the plain collection's `embedding_bag_configs()` the sharded one has no public one.
    return frozenset(name for config in collection._embedding_bag_configs for name in config.feature_names)


def _divided(collection: nn.Module, ids: KeyedJaggedTensor) -> KeyedJaggedTensor:
    """Do what the collection's forward pre-hook would."""
    for hook in collection._forward_pre_hooks.values():
        if isinstance(hook, DividedWeights):
            (ids,) = hook(collection, (ids,))
    return ids
