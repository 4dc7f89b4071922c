"""VectorStore: vectors by 128-bit digest, in a fixed amount of memory, with no Python per row.

Open addressing in buckets of eight, as wide as a cache line: a look-up gathers one line per digest and compares all
eight places at once. A bucket is filled from its first place on and nothing is ever taken out, so a free last place
ends a search. When the store is full it takes nothing more: over shuffled epochs every input is as likely to come again
as any other, so the vectors it has are worth as much as those it would replace them by.
"""

import torch
from torch import Tensor

_PLACES = 8
_FREE = 0
_MEAN_FILL = 4  # digests per bucket in a full store, at most
_BYTES_BESIDE = 2 * _PLACES // _MEAN_FILL * 16 + 8  # per vector: places (8 bytes of digest, 8 of position) and check


class VectorStore:
    """At most `capacity` vectors.

    Attributes:
        held: how many it has.

    >>> store = VectorStore(width=2, capacity=10, device=torch.device("cpu"))
    >>> digests = torch.tensor([[5, 7], [1, 1]])
    >>> store.insert(digests, torch.tensor([[0.5, 1.0], [2.0, 3.0]]))
    >>> store.find(torch.tensor([[7, 6], [1, 1]])).tolist()
    [1, -1]
    """

    def __init__(self, width: int, capacity: int, device: torch.device) -> None:
        buckets = 1
        while buckets * _MEAN_FILL < capacity:
            buckets *= 2
        self._digests = torch.full((buckets, _PLACES), _FREE, dtype=torch.int64, device=device)
        self._positions = torch.zeros(buckets * _PLACES, dtype=torch.int64, device=device)
        self._checks = torch.empty(capacity, dtype=torch.int64, device=device)
        # Not written to: the system gives the memory out page by page, as vectors come.
        self._vectors = torch.empty(capacity, width, device=device)
        self._last_bucket = buckets - 1
        self.held = 0

    def find(self, digests: Tensor) -> Tensor:
        """Return the position of each digest's vector, (n,) int64, -1 where it is not held.

        Args:
            digests: (2, n) int64.
        """
        first, check = _addresses(digests[0]), digests[1]
        found = torch.full_like(first, -1)
        pending, buckets = None, first & self._last_bucket
        while True:
            places = self._digests.index_select(0, buckets)  # (n, 8)
            is_here = places == first.unsqueeze(1)
            place = buckets * _PLACES + is_here.to(torch.uint8).argmax(dim=1)
            positions = self._positions.index_select(0, place)
            is_found = is_here.any(dim=1)
            positions = torch.where(is_found, positions, -1)
            found = positions if pending is None else found.index_copy(0, pending, positions)
            goes_on = (~is_found & (places[:, -1] != _FREE)).nonzero().squeeze(1)
            if not len(goes_on):
                break
            pending = goes_on if pending is None else pending[goes_on]
            first, buckets = first[goes_on], (buckets[goes_on] + 1) & self._last_bucket
        is_same = self._checks.index_select(0, found.clamp(min=0)) == check
        return torch.where(is_same, found, -1)

    def vectors(self, positions: Tensor) -> Tensor:
        """Return the vectors at positions that `find` gave, (n, width); anything at all where that was -1."""
        return self._vectors.index_select(0, positions.clamp(min=0))

    def insert(self, digests: Tensor, vectors: Tensor) -> None:
        """Take in as many vectors as there is room for.

        Args:
            digests: (2, n) int64, none of them held, none of them twice.
            vectors: (n, width).
        """
        room = min(digests.shape[1], len(self._vectors) - self.held)
        if not room:
            return
        positions = torch.arange(self.held, self.held + room, device=digests.device)
        self._checks[positions] = digests[1, :room]
        self._vectors[positions] = vectors[:room]
        self.held += room
        first = _addresses(digests[0, :room])
        buckets = first & self._last_bucket
        while len(first):
            order = buckets.argsort()
            first, buckets, positions = first[order], buckets[order], positions[order]
            taken = (self._digests.index_select(0, buckets) != _FREE).sum(dim=1)
            place = taken + _number_in_run(buckets)
            fits = place < _PLACES
            target = buckets[fits] * _PLACES + place[fits]
            self._digests.view(-1)[target] = first[fits]
            self._positions[target] = positions[fits]
            first, buckets, positions = first[~fits], (buckets[~fits] + 1) & self._last_bucket, positions[~fits]


def capacity_of(megabytes: int, width: int) -> int:
    """Return how many vectors of float32 a store of that size holds, its places counted."""
    return megabytes * 2**20 // (4 * width + _BYTES_BESIDE)


def _addresses(first: Tensor) -> Tensor:
    """The first half of the digest, but for the number that marks a free place."""
    return first.where(first != _FREE, 1)


def _number_in_run(ordered: Tensor) -> Tensor:
    """Number the members of every run of equal numbers from 0: [3, 3, 7, 7, 7] gives [0, 1, 0, 1, 2]."""
    position = torch.arange(len(ordered), device=ordered.device)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    return position - torch.where(begins, position, 0).cummax(0).values
