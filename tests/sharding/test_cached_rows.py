"""Tables whose rows a cache holds are read as the steps left them, and written so that the next step sees it."""

import pytest
import torch
from torch import nn
from torchrec.distributed.types import CacheParams
from torchrec.modules.embedding_configs import PoolingType

from recsys.errors import UsageError
from recsys.sharding.inventory import inventory_of, take_inventory
from recsys.sharding.sharding_plan import TableMemory, sharding_plan
from recsys.sharding.whole_state import table_weights, whole_state
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from tests.sharding.tables import BAGS, TwoParts, keyed_ids, loss_of
from tests.sharding.whole_loads import load_whole_state, table_optimizer_state
from tests.sharding.write_back import with_caches

OPTIMIZERS = dict.fromkeys(("embedding_tower", "interaction_network"), TableOptimizer("rowwise_adagrad", 0.1))
ITEMS = "embedding_tower.ebc.embedding_bags.item_rows.weight"


def wrapped_parts(context, **memory):
    return wrap_ranker(TwoParts(PoolingType.MEAN), OPTIMIZERS, context, memory=memory)


def trained(wrapped, steps=2):
    for step in range(steps):
        loss_of(wrapped, keyed_ids(BAGS[step % 2])).backward()
    return wrapped


def test_a_read_sees_what_the_steps_wrote_to_the_cache(context):
    plain, cached = trained(wrapped_parts(context)), wrapped_parts(context)
    with_caches(cached)

    trained(cached)

    for name, tensor in {**whole_state(plain), **table_optimizer_state(plain)}.items():
        assert torch.equal({**whole_state(cached), **table_optimizer_state(cached)}[name], tensor), name


def test_a_step_sees_what_a_load_wrote_behind_the_cache(context):
    source, cached = trained(wrapped_parts(context)), trained(wrapped_parts(context), steps=1)
    with_caches(cached)

    load_whole_state(cached, whole_state(source))

    ids = keyed_ids(BAGS[0])
    assert torch.equal(cached(ids), source(ids))
    assert torch.equal(table_weights(cached)[ITEMS], table_weights(source)[ITEMS])


def test_what_a_write_leaves_alone_stays_as_the_cache_has_it(context):
    cached = wrapped_parts(context)
    with_caches(cached)
    trained(cached)
    before = table_weights(cached)[ITEMS]

    with inventory_of(cached).writing() as shards:
        next(shard for shard in shards if shard.table == ITEMS).weight[0] = 7.0

    expected = torch.cat([torch.full((1, 8), 7.0), before[1:]])
    assert torch.equal(table_weights(cached)[ITEMS], expected)


def test_a_load_that_fails_half_way_still_empties_the_cache(context):
    cached = wrapped_parts(context)
    caches = with_caches(cached)

    with pytest.raises(RuntimeError, match="stopped"), inventory_of(cached).writing():
        raise RuntimeError("stopped")

    assert all(cache.resets == 1 for cache in caches)


def test_where_tables_lie_changes_no_number(context):
    memory = {part: TableMemory("uvm_caching", 0.5) for part in OPTIMIZERS}
    plain, elsewhere = trained(wrapped_parts(context)), trained(wrapped_parts(context, **memory))

    for name, tensor in whole_state(plain).items():
        assert torch.equal(whole_state(elsewhere)[name], tensor), name


def test_the_plan_gives_every_table_its_parts_kernel_and_cache(context):
    collections = {f"{part}.ebc": getattr(TwoParts(PoolingType.SUM), part).ebc for part in OPTIMIZERS}

    plan = sharding_plan(collections, {}, {"embedding_tower": TableMemory("uvm_caching", 0.25)}, context).plan

    places = {table: place for each in plan.values() for table, place in each.items()}
    assert {table: place.compute_kernel for table, place in places.items()} == {
        "item_rows": "fused_uvm_caching",
        "brand_rows": "fused_uvm_caching",
        "user_rows": "fused",
    }
    assert places["item_rows"].cache_params == CacheParams(load_factor=0.25)
    assert places["user_rows"].cache_params is None


def test_a_kernel_that_is_none_and_a_cache_of_nothing_are_refused_by_value():
    with pytest.raises(UsageError, match=r"no kernel `ssd`; expected one of fused, uvm, uvm_caching"):
        TableMemory("ssd")
    with pytest.raises(UsageError, match=r"cannot hold 0 of a table's rows"):
        TableMemory("uvm_caching", 0)


def test_tables_in_a_key_value_store_are_refused_by_name(context):
    wrapped = wrapped_parts(context)
    (lookup,) = wrapped.module.embedding_tower.ebc._lookups
    lookup._emb_modules[0]._emb_module = nn.Identity()

    with pytest.raises(UsageError, match="The tables item_rows, brand_rows lie in a Identity"):
        take_inventory(wrapped.module)
