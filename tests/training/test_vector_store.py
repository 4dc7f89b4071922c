"""Vectors come back under their digest, however crowded the store is."""

import pytest
import torch
from torch import Tensor

from recsys.training.vector_store import VectorStore, capacity_of

CPU = torch.device("cpu")


def random_digests(count: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**62), 2**62, (2, count), generator=generator)


def vectors_for(digests: Tensor) -> Tensor:
    """A vector that tells which digest it belongs to."""
    return torch.stack([digests[0] % 1000, digests[1] % 1000], dim=1).float()


def test_every_vector_comes_back_from_a_full_store():
    digests = random_digests(4096)
    store = VectorStore(width=2, capacity=4096, device=CPU)
    for part in digests.split(500, dim=1):
        store.insert(part, vectors_for(part))

    shuffled = digests[:, torch.randperm(4096, generator=torch.Generator().manual_seed(1))]
    assert torch.equal(store.vectors(store.find(shuffled)), vectors_for(shuffled))
    assert store.held == 4096


def test_what_was_never_taken_in_is_not_found():
    store = VectorStore(width=2, capacity=4096, device=CPU)
    store.insert(random_digests(4096), torch.zeros(4096, 2))

    assert set(store.find(random_digests(1000, seed=1)).tolist()) == {-1}


def test_a_full_store_keeps_what_it_has_and_takes_no_more():
    store = VectorStore(width=2, capacity=3, device=CPU)
    digests = random_digests(5)

    store.insert(digests[:, :2], vectors_for(digests[:, :2]))
    store.insert(digests[:, 2:], vectors_for(digests[:, 2:]))
    store.insert(digests[:, 3:], vectors_for(digests[:, 3:]))

    assert [position >= 0 for position in store.find(digests).tolist()] == [True, True, True, False, False]
    assert torch.equal(store.vectors(store.find(digests[:, :3])), vectors_for(digests[:, :3]))


def test_digests_that_crowd_at_one_address_go_to_the_next_buckets():
    crowd = random_digests(30)
    crowd[0] = crowd[0] & ~0xFF  # one bucket of eight for all thirty
    store = VectorStore(width=2, capacity=128, device=CPU)

    store.insert(crowd[:, :20], vectors_for(crowd[:, :20]))
    store.insert(crowd[:, 20:], vectors_for(crowd[:, 20:]))

    assert torch.equal(store.vectors(store.find(crowd)), vectors_for(crowd))


def test_equal_first_halves_are_told_apart_by_the_second():
    store = VectorStore(width=2, capacity=8, device=CPU)
    store.insert(torch.tensor([[5], [6]]), torch.ones(1, 2))

    assert store.find(torch.tensor([[5, 5], [6, 7]])).tolist() == [0, -1]


@pytest.mark.parametrize("first", [0, -1, -(2**63), 2**63 - 1])
def test_every_digest_can_be_held(first):
    store = VectorStore(width=2, capacity=8, device=CPU)
    digest = torch.tensor([[first], [0]])

    assert store.find(digest).tolist() == [-1]
    store.insert(digest, torch.ones(1, 2))
    assert store.find(digest).tolist() == [0]


def test_the_memory_asked_for_is_not_exceeded():
    capacity = capacity_of(megabytes=1, width=32)
    store = VectorStore(width=32, capacity=capacity, device=CPU)

    held = sum(tensor.nbytes for tensor in vars(store).values() if isinstance(tensor, Tensor))
    assert 0.7 * 2**20 < held <= 2**20
