"""Which rows give a tower the same input: a 128-bit digest of all that one side reads of a row.

The digest covers the bits of the side's dense features and every id of its bags, in their order, so that equal digests
mean equal vectors, bit for bit. Everything is done on whole columns, wherever the batch lies.

At 64 bits ten million different inputs would bring a wrong vector to one run in 400,000; at 128 bits it does not happen
(the birthday bound: n squared over twice the number of digests).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.features.batch import Batch
from recsys.splitmix import mixed


def row_digests(batch: Batch, features: Sequence[Sequence[str]], dense_columns: Sequence[Tensor]) -> list[Tensor]:
    """Digest every row of a batch, once for each side.

    Args:
        features: per side, the names of its sparse features and lists.
        dense_columns: per side, (n,) int64, its columns in `batch.dense`.

    Returns:
        Per side, (2, B) int64.
    """
    keys = {name: number for number, name in enumerate(batch.sparse.keys())}
    bags, orders = _bags(batch)  # (F_sparse, B)
    dense = mixed(batch.dense.t().contiguous().view(torch.int32).to(torch.int64))  # (F_dense, B)
    inputs = torch.cat([bags, dense])  # (F, B)
    # Multipliers of its own for every input and half, so that an id counts as that of its own feature. They are odd:
    # no bit of the product is lost.
    salts = mixed(torch.arange(3 * len(inputs), device=inputs.device)).view(3, -1, 1) | 1
    halves = inputs * salts[:2]  # (2, F, B)
    # The first half depends on the order too: it is the address, and orders of one list must not crowd at one.
    halves[0, : len(orders)] += orders * salts[2, : len(orders)]
    return [
        # Bag by bag: a list of places would be an index that is copied to the device in every step.
        sum((halves[:, keys[name]] for name in names), halves[:, len(keys) + columns].sum(dim=1))
        for names, columns in zip(features, dense_columns, strict=True)
    ]


def _bags(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return, for every bag, the sum of its mixed ids and their sum weighted by position, each (F_sparse, B)."""
    offsets = batch.sparse.offsets().long()
    ids = mixed(batch.sparse.values())
    # Sums over bags are differences of running sums: modulo 2^64 nothing is lost, and no id need know its bag.
    plain = _running(ids)[offsets].diff()
    weighted = _running(ids * torch.arange(len(ids), device=ids.device))[offsets].diff()
    shape = len(batch.sparse.keys()), batch.sparse.stride()
    return plain.view(shape), (weighted - offsets[:-1] * plain).view(shape)


def _running(numbers: Tensor) -> Tensor:
    return torch.cat([numbers.new_zeros(1), numbers.cumsum(0)])
