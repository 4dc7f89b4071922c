"""Several processes train by the planner's plan, all by the first one's, and refuse together what has no plan."""

from dataclasses import replace

import pytest
from torchrec.modules.embedding_configs import PoolingType

from recsys.errors import UsageError
from recsys.sharding.inventory import inventory_of
from recsys.sharding.plan_rules import PlanRules, tables_to_place
from recsys.sharding.replicated import ReplicatedTables
from recsys.sharding.table_plan import plan_tables
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from tests.sharding.tables import TwoParts
from tests.sharding.test_wrap import BOTH, CLUSTER, planning
from tests.sharding.two_processes import run_in_two

ROWWISE = dict.fromkeys(BOTH, TableOptimizer("rowwise_adagrad", 0.1))
WHOLE = PlanRules(dict.fromkeys(BOTH, ("table_wise",)), {})
RULES = dict.fromkeys(BOTH, "rowwise_adagrad")


def shards_of(wrapped):
    return sorted(
        (shard.table.split(".")[-2], shard.rows.start, shard.rows.stop) for shard in wrapped.inventory.shards()
    )


def wrapped_in(context, **how):
    return wrap_ranker(TwoParts(PoolingType.MEAN), ROWWISE, context, **how)


def plan_in_two(context):
    found = {}
    for types in ("table_wise", "row_wise"):
        wrapped = wrapped_in(context, planning=planning(types))
        found[types] = shards_of(wrapped)
        found[f"{types} bytes"] = sum(s.weight.nbytes + s.state.nbytes for s in wrapped.inventory.shards())
    by_table = planning("table_wise", table_types={"item_rows": ("row_wise",)})
    found["by table"] = shards_of(wrapped_in(context, planning=by_table))
    # What a process finds of its machine is its own affair: the first one's plan counts, here a wide one of rows.
    other = planning("row_wise" if context.is_first else "table_wise")
    found["the first one's"] = shards_of(wrapped_in(context, planning=other))
    replicated = planning("data_parallel")
    collections = inventory_of(wrapped_in(context, planning=replicated)).collections.values()
    found["replicated"] = [isinstance(each, ReplicatedTables) for each in collections]
    for name, refused in {
        "memory": planning("row_wise", replace(CLUSTER, host_bytes=900)),
        "columns": planning("column_wise"),
        "unknown": planning("row_wise", table_kernels={"nobodys_rows": ("uvm",)}),
    }.items():
        with pytest.raises(UsageError) as caught:
            wrapped_in(context, planning=refused)
        found[name] = str(caught.value)
    return found


def test_each_process_holds_its_share_of_the_first_ones_plan_and_its_bytes_or_all_refuse_it(tmp_path):
    first, second = run_in_two(plan_in_two, tmp_path)

    whole = {("item_rows", 0, 5), ("brand_rows", 0, 3), ("user_rows", 0, 3)}
    assert {tuple(each) for each in first["table_wise"] + second["table_wise"]} == whole
    assert 0 < len(first["table_wise"]) < 3
    halves = [[["brand_rows", 0, 2], ["item_rows", 0, 3], ["user_rows", 0, 2]]]
    halves += [[["brand_rows", 2, 3], ["item_rows", 3, 5], ["user_rows", 2, 3]]]
    assert [first["row_wise"], second["row_wise"]] == halves
    assert [first["the first one's"], second["the first one's"]] == halves
    assert ["item_rows", 0, 3] in first["by table"]
    assert ["item_rows", 3, 5] in second["by table"]
    assert len(first["by table"] + second["by table"]) == 4
    assert first["replicated"] == second["replicated"] == [True, True]
    planned = plan_tables(tables_to_place(TwoParts(PoolingType.MEAN), RULES, "float32", WHOLE), CLUSTER, 1, 0)
    for rank, load in enumerate(planned.ranks):
        on_their_way = sum(
            2 * len(each.table.ids_per_row) * (8 + 4 * each.table.width)
            for each in planned.placements
            if each.shards[0].rank == rank
        )
        assert [first, second][rank]["table_wise bytes"] == load.host_bytes - on_their_way
    whole_bytes = 5 * (8 + 1) * 4 + 3 * (8 + 1) * 4 + 3 * (4 + 1) * 4
    assert first["row_wise bytes"] + second["row_wise bytes"] == whole_bytes
    for name in ("memory", "columns", "unknown"):
        assert first[name] == second[name]
    assert "of the tables do not fit into 2 processes: `item_rows`" in first["memory"]
    assert "another optimizer for every number of processes, and no checkpoint of it" in first["columns"]
    assert "`sharding.tables` names `nobodys_rows`, and there is no such table. There are item_rows" in first["unknown"]


def test_a_table_says_what_it_is_and_what_may_be_done_with_it():
    rules = PlanRules(
        {"embedding_tower": ("row_wise",)},
        {"embedding_tower": ("fused", "uvm")},
        {"brand_rows": ("table_wise",)},
        {"item_rows": ("uvm_caching",)},
        cache_share=0.5,
        ids_per_row={"recent": 3},
    )

    items, brands, users = tables_to_place(TwoParts(PoolingType.SUM), RULES, "float16", rules)

    assert (items.part, items.name, items.rows, items.width, items.types) == (
        *("embedding_tower", "item_rows", 5, 8),
        ("row_wise",),
    )
    assert (items.kernels, items.precision, items.optimizer) == (("uvm_caching",), "float16", "rowwise_adagrad")
    assert (items.ids_per_row, items.cache_share) == ((1.0, 3.0), 0.5)
    assert (brands.types, brands.kernels) == (("table_wise",), ("fused", "uvm"))
    assert (users.types, users.kernels) == (("table_wise",), ("fused",))
    frozen = tables_to_place(TwoParts(PoolingType.SUM), RULES | {"embedding_tower": None}, "float16", rules)
    assert (frozen[0].precision, frozen[0].optimizer) == ("float32", None)
