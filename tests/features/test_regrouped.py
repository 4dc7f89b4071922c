"""Vectors are regrouped alike by a GPU's kernel and by a CPU's concatenation, with their gradients."""

import torch
from torchrec.sparse.jagged_tensor import KeyedTensor

from recsys.features.regrouped import Regrouping

GROUPS = [["c", "a"], ["b", "c"]]


def test_both_ways_give_the_same_vectors_and_gradients_in_any_order_of_keys():
    draw, regroup = torch.Generator().manual_seed(0), Regrouping(GROUPS)
    for keys, widths in ((["a", "b", "c"], [4, 8, 4]), (["c", "b", "a"], [4, 8, 4])):
        values = torch.randn(5, 16, generator=draw)
        one, other = (values.clone().requires_grad_() for _ in range(2))

        concatenated = regroup(KeyedTensor(keys, widths, one))
        permuted = regroup.in_one_kernel(KeyedTensor(keys, widths, other))

        weights = [torch.randn(group.shape, generator=draw) for group in concatenated]
        for groups in (concatenated, permuted):
            torch.stack(
                [(group * weight).sum() for group, weight in zip(groups, weights, strict=True)]
            ).sum().backward()
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(concatenated, permuted, strict=True))
        torch.testing.assert_close(one.grad, other.grad)
