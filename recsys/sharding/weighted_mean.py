"""The mean of weighted ids, exact however the tables lie: sum(weight * vector) / number of ids, zero for no ids.

The libraries disagree about it: fbgemm's CPU kernels divide by the number of ids in the forward pass and not in the
backward pass, TorchRec's row-wise sharding divides by the sum of the weights, and plain torch refuses it. As a sum of
weights that were divided before the look-up it is one function everywhere, and its gradient is that function's.
"""

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


class DividedWeights:
    """Forward pre-hook of a collection of tables: divides the weights of some features' ids by their bags' lengths."""

    def __init__(self, features: frozenset[str]) -> None:
        self._features = features
        # By the order of keys that came, and kept on the device: built anew, the host would wait for it in every step.
        self._masks: dict[tuple[tuple[str, ...], torch.device], Tensor] = {}

    def __call__(self, module: nn.Module, arguments: tuple[KeyedJaggedTensor]) -> tuple[KeyedJaggedTensor]:
        """Return the arguments of the lookup: the same ids of F features and B rows, their weights divided, (ids,)."""
        # A new object: the batch's own weights may be looked up again, in another collection or step.
        (ids,) = arguments
        keys, lengths = ids.keys(), ids.lengths()
        is_mean = self._mask(tuple(keys), lengths.device)
        divisors = torch.where(is_mean.unsqueeze(1), lengths.view(len(is_mean), -1), 1).flatten()  # (F * B,)
        return (
            KeyedJaggedTensor(
                keys=keys,
                values=ids.values(),
                weights=ids.weights() / _per_id(divisors, lengths, len(ids.values())),
                lengths=lengths,
                stride=ids.stride(),
                length_per_key=ids.length_per_key_or_none(),
            ),
        )

    def _mask(self, keys: tuple[str, ...], device: torch.device) -> Tensor:
        """Which of the keys are averaged, (F,) bool."""
        if (keys, device) not in self._masks:
            self._masks[keys, device] = torch.tensor([key in self._features for key in keys], device=device)
        return self._masks[keys, device]


def as_weighted_sums(collection: EmbeddingBagCollection) -> frozenset[str]:
    """Turn the collection's means of weighted ids into sums, in place; return the features that they are taken of.

    From then on it is right behind `DividedWeights` of those features alone.
    """
    if not collection.is_weighted():
        return frozenset()
    means = [config for config in collection.embedding_bag_configs() if config.pooling is PoolingType.MEAN]
    for config in means:
        config.pooling = PoolingType.SUM
        collection.embedding_bags[config.name].mode = "sum"
    return frozenset(feature for config in means for feature in config.feature_names)


def _per_id(of_bags: Tensor, lengths: Tensor, ids: int) -> Tensor:
    return torch.repeat_interleave(of_bags, lengths, output_size=ids)
