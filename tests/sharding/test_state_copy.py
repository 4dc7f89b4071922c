"""A copy of the state comes back whole, in the memory of the one before, in one process and in two."""

import pytest
import torch
from torchrec.modules.embedding_configs import PoolingType

from recsys.errors import DataError
from recsys.sharding.state_copy import StateCopy
from recsys.sharding.whole_state import whole, whole_state
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from tests.sharding.tables import BAGS, TwoParts, keyed_ids, loss_of
from tests.sharding.two_processes import run_in_two
from tests.sharding.whole_loads import fill, shapes_of
from tests.sharding.write_back import with_caches

PARTS = ("embedding_tower", "interaction_network")


def wrapped_parts(context, seed=0, sharding="table_wise"):
    rules = dict.fromkeys(PARTS, TableOptimizer("adagrad", 0.1))
    return wrap_ranker(TwoParts(PoolingType.MEAN, seed=seed), rules, context, dict.fromkeys(PARTS, sharding))


def is_same(one, other):
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def places_of(copy):
    return {name: [piece.tensor.data_ptr() for piece in part.pieces] for name, part in copy.parts().items()}


def test_a_copy_comes_back_and_the_next_one_takes_its_memory(context):
    wrapped = wrapped_parts(context)
    copy, started = StateCopy(wrapped), whole_state(wrapped)
    copy.take()
    places = places_of(copy)
    loss_of(wrapped, keyed_ids(BAGS[0])).backward()
    learnt = whole_state(wrapped)

    copy.put_back()
    assert is_same(whole_state(wrapped), started)
    fill(copy.room(shapes_of(learnt)), learnt)
    copy.put_back()

    assert is_same(whole_state(wrapped), learnt)
    assert not is_same(learnt, started)
    assert places_of(copy) == places


def test_a_copy_of_cached_rows_is_of_what_the_steps_left_and_goes_back_to_what_they_read(context):
    wrapped = wrapped_parts(context)
    with_caches(wrapped)
    copy, ids = StateCopy(wrapped), keyed_ids(BAGS[0])
    loss_of(wrapped, ids).backward()
    logits = wrapped(ids)

    copy.take()
    loss_of(wrapped, ids).backward()
    assert not torch.equal(wrapped(ids), logits)
    copy.put_back()

    assert torch.equal(wrapped(ids), logits)


def test_a_state_of_another_model_is_refused_by_name(context):
    wrapped = wrapped_parts(context)

    with pytest.raises(DataError, match=r"holds `head\.bias`"):
        StateCopy(wrapped).room({**shapes_of(whole_state(wrapped)), "head.bias": (1,)})


def there_and_back_in_two(context):
    found = []
    for sharding in ("table_wise", "row_wise", "column_wise", "data_parallel"):
        wrapped, other = wrapped_parts(context, sharding=sharding), wrapped_parts(context, 1, sharding)
        copy, started = StateCopy(wrapped), whole_state(wrapped)
        copy.take()
        passed_on = StateCopy(other)
        fill(passed_on.room(shapes_of(started)), started)
        passed_on.put_back()
        found.append(is_same(whole(copy.parts()), started) and is_same(whole_state(other), started))
    return found


def test_two_processes_copy_their_shards_and_put_the_whole_together(tmp_path):
    assert run_in_two(there_and_back_in_two, tmp_path) == [[True] * 4] * 2
