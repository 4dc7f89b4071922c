"""Ids looked up one by one: a list's own vectors, where a collection of tables would give their mean.

A collection of tables pools each bag of ids into one vector, and may be called once in a step (`sharding/gate.py`). So
every id becomes a bag of its own, those of all features that share a table behind one another.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor


def events_key(table: str) -> str:
    """The name under which a table's ids are looked up one by one; no feature's, as those are of a whole batch."""
    return f"each of {table}"


def one_bag_per_id(sparse: KeyedJaggedTensor, features: Mapping[str, Sequence[str]]) -> KeyedJaggedTensor:
    """Return all ids of some features as bags of one id each; waits for no device where `sparse` knows its lengths.

    Args:
        features: by table, those whose ids are looked up in it, in the order in which they come.

    Returns:
        The key `events_key(table)` of every table, with as many bags as the table with most ids has; of the others the
        bags behind the last id are empty.

    >>> sparse = KeyedJaggedTensor.from_lengths_sync(
    ...     ["item", "recent"], torch.tensor([7, 8, 1, 2, 3]), torch.tensor([1, 1, 0, 3])
    ... )
    >>> one_bag_per_id(sparse, {"items": ["item", "recent"]}).values().tolist()
    [7, 8, 1, 2, 3]
    """
    by_table = {table: [sparse[name].values() for name in names] for table, names in features.items()}
    counts = [sum(map(len, values)) for values in by_table.values()]
    bags = max(counts)
    places = torch.arange(bags, device=sparse.device())
    lengths = torch.cat([(places < count).to(sparse.lengths().dtype) for count in counts])
    return KeyedJaggedTensor(
        keys=[events_key(table) for table in by_table],
        values=torch.cat([ids for values in by_table.values() for ids in values]),
        lengths=lengths,
        stride=bags,
        length_per_key=counts,
    )


def vectors_by_feature(
    pooled: KeyedTensor, sparse: KeyedJaggedTensor, features: Mapping[str, Sequence[str]]
) -> dict[str, Tensor]:
    """Return what a collection gave for `one_bag_per_id`, taken apart again.

    Args:
        pooled: (bags, sum of D).

    Returns:
        By feature, (its ids, D) in the order of its ids.
    """
    widths = zip(pooled.keys(), pooled.values().split(pooled.length_per_key(), dim=1), strict=True)
    vectors = dict(widths)
    counts = dict(zip(sparse.keys(), sparse.length_per_key(), strict=True))
    return {
        name: part
        for table, names in features.items()
        for name, part in zip(names, vectors[events_key(table)].split(_with_rest(counts, names, pooled)), strict=False)
    }


def _with_rest(counts: Mapping[str, int], names: Sequence[str], pooled: KeyedTensor) -> list[int]:
    """The ids of each feature, and the empty bags behind them."""
    sizes = [counts[name] for name in names]
    return [*sizes, pooled.values().shape[0] - sum(sizes)]


def row_of_each(lengths: Tensor, total: int) -> Tensor:
    """Return the row that every element of jagged lists belongs to, (total,) int64.

    Args:
        lengths: (B,).
        total: their sum, as the host knows it.
    """
    rows = torch.arange(len(lengths), device=lengths.device)
    return torch.repeat_interleave(rows, lengths.long(), output_size=total)


def place_from_end(lengths: Tensor, rows: Tensor) -> Tensor:
    """Return how many elements of its list stand behind each element, (total,) int64; 0 for the newest.

    Args:
        lengths: (B,).
        rows: (total,), as `row_of_each` returns them.
    """
    ends = lengths.long().cumsum(0)
    return ends.index_select(0, rows) - 1 - torch.arange(len(rows), device=rows.device)
