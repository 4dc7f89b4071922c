"""Tables are planned from sizes alone: where they go, what they take, what does not fit and what would make it fit."""

import logging
from dataclasses import replace

import pytest

from recsys.sharding.cluster import Bandwidths, Cluster
from recsys.sharding.planned_tables import TableToPlace
from recsys.sharding.table_plan import TablePlan, plan_tables
from recsys.sharding.torchrec_planner import TableSearch

GB, ANY_MEMORY, DIVIDED = 10**9, ("fused", "uvm", "uvm_caching"), ("table_wise", "row_wise")
SPEED = Bandwidths(2e12, 2e11, 3e10, 3e11, 2.5e10)
CPUS = Cluster("cpu", 1, 2, 0, 2_000_000, SPEED, reserved_share=0.5)  # 500 kB for each of two processes
GPUS = Cluster("cuda", 1, 8, 80 * GB, 2000 * GB, SPEED, reserved_share=0.15)
LOUD = ("MethodLogger-NullHandler", "Cap01Logger-NullHandler")  # with every call's arguments
# The weights of the first four are 2 TB.
LARGE = {"user": 2 * 10**9, "item": 10**9, "ad": 5 * 10**8, "site": 4 * 10**8, "country": 250}


def table(name: str, rows: int, width: int = 16, types: tuple[str, ...] = ("table_wise",), **more) -> TableToPlace:
    return TableToPlace("head.ebc", name, rows, width, types, **more)


def large(**more) -> list[TableToPlace]:
    return [table(name, rows, 128, DIVIDED, **more) for name, rows in LARGE.items()]


def places(plan: TablePlan) -> dict[str, tuple[str, str, list[int]]]:
    return {
        each.table.name: (each.sharding, each.kernel, [shard.rank for shard in each.shards]) for each in plan.placements
    }


def test_whole_tables_are_spread_and_each_process_holds_what_its_tables_take():
    tables = [table("small", 1000), table("large", 6000), table("middle", 3000)]

    plan = plan_tables(tables, CPUS, batch_rows=1, dense_bytes=1000)

    assert plan.fits
    # The largest comes first, and the next goes to the process whose step is shorter so far.
    assert {name: place[2] for name, place in places(plan).items()} == {"small": [0], "large": [0], "middle": [1]}
    # Rows of 16 numbers and an accumulator, 4 bytes each; a batch of a row from either process: ids of 8 bytes, and
    # what was looked up.
    row, in_exchange = 17 * 4, 2 * (8 + 16 * 4)
    assert [load.host_bytes for load in plan.ranks] == [7000 * row + 2 * in_exchange, 3000 * row + in_exchange]
    assert [load.device_bytes for load in plan.ranks] == [0, 0]
    assert plan.free_host_bytes == 500_000 - 1000
    assert plan.milliseconds == max(load.milliseconds for load in plan.ranks) > 0


def test_rows_are_divided_on_cpus_too_and_never_so_that_a_process_gets_none():
    tables = [table("divided", 4000, types=("row_wise",)), table("tiny", 1, types=("row_wise",))]

    plan = plan_tables(tables, CPUS, batch_rows=1, dense_bytes=0)

    assert places(plan)["divided"] == ("row_wise", "fused", [0, 1])
    assert [shard.rows for shard in plan.placements[0].shards] == [2000, 2000]
    assert places(plan)["tiny"][0] == "table_wise"
    alone = plan_tables([table("divided", 4000, types=DIVIDED)], replace(CPUS, devices_per_node=1), 1, 0)
    assert places(alone)["divided"] == ("table_wise", "fused", [0])


@pytest.mark.parametrize(
    ("more", "bytes_per_row"),
    [
        ({"optimizer": "rowwise_adagrad"}, 16 * 4 + 4),
        ({"optimizer": "adagrad"}, 16 * 4 + 16 * 4),
        ({"optimizer": "sgd"}, 16 * 4),
        ({"optimizer": None}, 16 * 4),
        ({"precision": "float16"}, 16 * 2 + 4),
        ({"precision": "float16", "optimizer": "adagrad"}, 16 * 2 + 16 * 4),
        ({"precision": "float16", "optimizer": "sgd"}, 16 * 2),
    ],
)
def test_a_row_takes_its_weights_and_float32_accumulators(more: dict, bytes_per_row: int):
    (placement,) = plan_tables([table("one", 1000, **more)], CPUS, batch_rows=1, dense_bytes=0).placements
    assert placement.shards[0].host_bytes - 2 * (8 + 16 * 4) == 1000 * bytes_per_row


def test_a_replicated_table_takes_its_gradient_as_well_in_every_process():
    (placement,) = plan_tables([table("one", 1000, types=("data_parallel",))], CPUS, 1, 0).placements
    assert [shard.rank for shard in placement.shards] == [0, 1]
    assert {shard.host_bytes - (8 + 16 * 4) for shard in placement.shards} == {1000 * (16 * 4 + 4 + 16 * 4)}


def test_a_cached_table_takes_the_host_whole_and_the_gpu_by_its_share():
    (placement,) = plan_tables(
        [table("one", 10**9, 128, ("row_wise",), kernels=("uvm_caching",))], GPUS, 1, 0
    ).placements
    shard = placement.shards[0]
    assert shard.host_bytes == 10**9 // 8 * 129 * 4
    # Weights and accumulators of a fifth, and the cache's own tables: 4 bytes for each row, 16 for each that it holds.
    assert shard.device_bytes == pytest.approx(10**9 / 8 * (0.2 * 129 * 4 + 4 + 0.2 * 16), rel=1e-3)


def test_tables_that_do_not_fit_are_named_the_largest_first_and_the_others_are_placed():
    tables = [table("two", 6000), table("huge", 8000), table("one", 7000), table("three", 400)]

    plan = plan_tables(tables, CPUS, batch_rows=1, dense_bytes=0)

    assert not plan.fits
    assert [each.name for each in plan.unplaced] == ["huge"]
    assert [each.name for each in plan.too_large] == ["huge"]
    assert set(places(plan)) == {"one", "two", "three"}
    beside = plan_tables([table(name, 5000) for name in "abc"], CPUS, batch_rows=1, dense_bytes=0)
    assert [len(beside.unplaced), len(beside.too_large)] == [1, 0]


def test_every_remedy_was_planned_and_says_whether_it_is_enough():
    plan = plan_tables([table("huge", 8000), table("other", 400)], CPUS, batch_rows=1, dense_bytes=0)

    assert {each.change: (each.settings, each.fits) for each in plan.remedies} == {
        "weights in half precision": (("training.table_precision=float16",), True),
        "vectors of huge 1/2 as wide": ((), True),
    }, "neither more nodes help a table that may not be divided, nor a division that a run on CPUs refuses"
    assert TableSearch(CPUS, 1, 0).place([table("huge", 8000, types=DIVIDED), table("other", 400)]) is not None


def test_a_change_of_one_part_is_made_there_and_one_of_all_parts_everywhere():
    tables = [
        table("large", 6000, types=DIVIDED),
        replace(table("wide", 6000, types=DIVIDED), path="embedding_tower.ebc"),
    ]

    plan = plan_tables([*tables, table("more", 4500, types=DIVIDED)], CPUS, batch_rows=1, dense_bytes=0)

    # 16,500 rows of 68 bytes are 1.1 MB, of 36 bytes 0.6: half of one part's would still be too much.
    assert {each.change: each.fits for each in plan.remedies}["weights in half precision"]


def test_nodes_are_added_until_divided_tables_fit():
    plan = plan_tables([table("huge", 40_000, types=("row_wise",))], CPUS, batch_rows=1, dense_bytes=0)

    (nodes,) = [each for each in plan.remedies if "nodes" in each.change]
    # 2.72 MB in processes of 500 kB: six of them, on three nodes.
    assert (nodes.change, nodes.settings) == ("3 nodes in place of 1", ("cluster.nodes=3",))


def test_two_terabytes_do_not_fit_into_eight_gpus_alone_and_do_with_the_host_behind_them():
    plan = plan_tables(large(), GPUS, batch_rows=2048, dense_bytes=GB)

    assert sum(each.weight_bytes for each in large()) > 1.99e12
    assert [each.name for each in plan.unplaced] == ["user", "item"]
    found = {each.change: each.fits for each in plan.remedies}
    assert found["tables in the host's memory where the GPU's is full"]
    assert not found["weights in half precision"]
    assert found["4 nodes in place of 1"]

    with_host = plan_tables(large(kernels=ANY_MEMORY), GPUS, batch_rows=2048, dense_bytes=GB)

    assert with_host.fits
    assert with_host.remedies == ()
    assert {place[0] for place in places(with_host).values()} == {"row_wise"}
    assert {places(with_host)[name][1] for name in ("user", "item")} <= {"uvm", "uvm_caching"}
    for load in with_host.ranks:
        assert load.device_bytes <= with_host.free_device_bytes == 67 * GB
        assert load.host_bytes <= with_host.free_host_bytes == 2000 * GB * 0.85 / 8
    total = sum(load.device_bytes + load.host_bytes for load in with_host.ranks)
    assert total > 1.99e12


def test_a_plan_is_found_where_only_one_way_to_use_both_memories_is_left():
    # One table fits into the host beside a cached one, and neither two cached ones nor two on the GPUs do.
    tight = replace(GPUS, reserved_share=0.1)
    plan = plan_tables(large(kernels=ANY_MEMORY), tight, batch_rows=8192, dense_bytes=GB)
    assert plan.fits


def test_where_nothing_fits_and_several_changes_do_together_they_are_named_together():
    plan = plan_tables([replace(each, types=("table_wise",)) for each in large()], GPUS, 2048, GB)

    (together,) = [each for each in plan.remedies if " and " in each.change and each.fits]
    assert together.settings == (
        "training.table_kernels.head=auto",
        "sharding.types.head=[table_wise,row_wise]",
    )
    assert not any(each.fits for each in plan.remedies if len(each.settings) == 1)


def test_the_planner_says_nothing_beside_its_plan(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder):
    plan_tables([table("one", 1000, types=("data_parallel",))], CPUS, batch_rows=1, dense_bytes=0)
    assert not plan_tables([table("huge", 9000)], CPUS, batch_rows=1, dense_bytes=0).fits
    assert [each.message for each in caplog.records if each.name in LOUD or each.levelno >= logging.WARNING] == []
    assert [str(each.message) for each in recwarn] == []
