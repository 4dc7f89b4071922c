"""Ids that a training step takes for unknown ones, at random, so that something is learned for those that are."""

from dataclasses import replace

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.features.batch import Batch
from recsys.features.vocabulary import UNKNOWN_ROW


def with_unknown_ids(batch: Batch, share: float) -> Batch:
    """Return the batch with each id of a row, or of a list in it, replaced by the unknown one with a probability.

    Every id of the training rows is known, so what stands in the unknown row would never learn, nor would anything
    above it learn what to do without an id. A list keeps its length: an unknown id of a row to be scored stands in its
    list as well, and lists that lie beside it still fit.

    Args:
        batch: unchanged; of it the new one has all but the look-ups that were begun, which are of other ids.
        share: the probability, from 0 to 1.
    """
    ids = batch.sparse
    values = ids.values()
    is_unknown = torch.rand(values.shape, device=values.device) < share
    sparse = KeyedJaggedTensor(
        keys=ids.keys(),
        values=values.masked_fill(is_unknown, UNKNOWN_ROW),
        weights=ids.weights_or_none(),
        lengths=ids.lengths(),
        offsets=ids.offsets_or_none(),
        stride=ids.stride(),
        length_per_key=ids.length_per_key_or_none(),
    )
    return replace(batch, sparse=sparse, ahead={})
