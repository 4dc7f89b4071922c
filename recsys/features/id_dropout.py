"""Ids that a training step takes for unknown ones, at random, so that something is learned for those that are."""

import torch

from recsys.features.batch import Batch
from recsys.features.vocabulary import UNKNOWN_ROW


def with_unknown_ids(batch: Batch, share: float) -> Batch:
    """Return the batch with each id of a row, or of a list in it, replaced by the unknown one with a probability.

    Every id of the training rows is known, so what stands in the unknown row would never learn, nor would anything
    above it learn what to do without an id. A list keeps its length: an unknown id of a row to be scored stands in its
    list as well, and lists that lie beside it still fit.

    Args:
        batch: unchanged.
        share: the probability, from 0 to 1.
    """
    ids = batch.sparse.values()
    is_unknown = torch.rand(ids.shape, device=ids.device) < share
    return batch.with_ids(ids.masked_fill(is_unknown, UNKNOWN_ROW))
