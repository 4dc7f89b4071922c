"""A digest is a plain formula over a tensor's bits, finds one changed bit, and needs neither a copy nor the whole."""

import copy
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torchrec.modules.embedding_configs import PoolingType

from recsys.sharding.state_digests import digests_of, tensor_sums, whole_digests
from recsys.sharding.whole_state import whole_state
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from tests.sharding.tables import BAGS, TwoParts, keyed_ids, loss_of
from tests.sharding.two_processes import run_in_two
from tests.sharding.whole_loads import table_optimizer_state

MASK = 2**64 - 1


def multipliers(position):
    """SplitMix64's output for a state of `position`, and its halves swapped; odd."""
    z = (position + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
    z ^= z >> 31
    return z | 1, (z << 32 | z >> 32) & MASK | 1


def sums_by_hand(numbers):
    """The two sums of a matrix of integers."""
    totals = [0, 0]
    for (row, values), half in product(enumerate(numbers), (0, 1)):
        for column, value in enumerate(values):
            totals[half] += value * multipliers(row)[half] * multipliers(2**62 + column)[half]
    return [total & MASK for total in totals]


def unsigned(sums):
    return [number & MASK for number in sums.tolist()]


def test_the_sums_are_those_of_the_formula():
    table = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))

    assert unsigned(tensor_sums(table)) == sums_by_hand(table.view(torch.int32).tolist())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8])
def test_tensors_of_every_width_have_digests_that_one_changed_number_changes(dtype):
    tensor = torch.arange(12).view(4, 3).to(dtype)
    other = tensor.clone()
    other[2, 1] = 0 if other[2, 1] else 1

    assert digests_of({"it": tensor}) == digests_of({"it": tensor.clone()}) != digests_of({"it": other})


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**16), st.integers(1, 60), st.data())
def test_blocks_and_shards_change_no_sum_and_one_flipped_bit_does(rows, columns, seed, block, data):
    bits = torch.randint(-(2**31), 2**31, (rows, columns), generator=torch.Generator().manual_seed(seed))
    table = bits.to(torch.int32).view(torch.float32)
    row, column = data.draw(st.integers(0, rows)), data.draw(st.integers(0, columns))
    shards = [
        tensor_sums(table[first:last, begin:end], first, begin, block)
        for (first, last), (begin, end) in product(((0, row), (row, rows)), ((0, column), (column, columns)))
    ]
    flipped = table.clone().view(torch.int32)
    flipped[row % rows, column % columns] ^= 1 << (seed % 31)

    assert torch.equal(tensor_sums(table, block=block), tensor_sums(table))
    assert torch.equal(torch.stack(shards).sum(dim=0), tensor_sums(table))
    assert all(one != other for one, other in zip(tensor_sums(flipped), tensor_sums(table), strict=True))


def test_type_shape_order_and_sign_of_zero_count():
    vector = torch.tensor([0.0, 1.0, 2.0, 3.0])
    others = [
        vector.double(),
        vector.view(2, 2),
        vector.view(4, 1),
        vector.flip(0),
        torch.tensor([-0.0, 1.0, 2.0, 3.0]),
        -vector,
    ]

    found = digests_of({str(number): tensor for number, tensor in enumerate([vector, *others])})

    assert len(set(found.values())) == 1 + len(others)


def test_equal_bits_have_equal_digests_also_of_what_is_no_number_and_of_nothing():
    odd = {"nan": torch.tensor(float("nan")), "empty": torch.empty(0, 4), "count": torch.tensor(7)}

    assert digests_of(odd) == digests_of({name: tensor.clone() for name, tensor in odd.items()})


class LargestMade(TorchDispatchMode):
    """Notes the bytes of the largest tensor that is made within it."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not function.is_view:
            self.largest = max(self.largest, result.numel() * result.element_size())
        return result


def test_nothing_as_large_as_a_table_is_made():
    table = torch.zeros(120_000, 16)

    with LargestMade() as made:
        tensor_sums(table)

    assert made.largest <= table.numel() * table.element_size() / 10


def everything(wrapped):
    return {**whole_state(wrapped), **table_optimizer_state(wrapped)}


def in_two(context):
    optimizer, found = TableOptimizer("adagrad", 0.1), []
    for sharding in ("table_wise", "row_wise", "column_wise", "data_parallel"):
        kinds = dict.fromkeys(("embedding_tower", "interaction_network"), sharding)
        wrapped = wrap_ranker(TwoParts(PoolingType.MEAN), dict.fromkeys(kinds, optimizer), context, kinds)
        loss_of(wrapped, keyed_ids(BAGS[context.rank])).backward()
        found.append([whole_digests(wrapped, with_accumulators=True), digests_of(everything(wrapped))])
    return found


def test_two_processes_find_the_whole_tensors_digests_however_they_are_sharded(tmp_path):
    for process in run_in_two(in_two, tmp_path):
        for whole, expected in process:
            assert whole == expected


def test_a_wrapped_model_has_the_digests_of_its_plain_one(context):
    plain = TwoParts(PoolingType.MEAN)
    rule = TableOptimizer("sgd", 0.1)
    wrapped = wrap_ranker(copy.deepcopy(plain), {"embedding_tower": rule, "interaction_network": rule}, context)

    assert whole_digests(wrapped) == digests_of(plain.state_dict()) == whole_digests(plain)
