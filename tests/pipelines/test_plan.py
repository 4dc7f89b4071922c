"""`recsys plan`: its page, its JSON, tables from a model that is still to be made, from a schema and from data."""

import json

import pytest
import torch

from pipelines.cli import main
from recsys.config.compose import compose_config
from recsys.errors import UsageError
from recsys.features.schema import load_schema
from recsys.progress import silent
from recsys.run import prepare
from recsys.run.cluster_plan import StatedTables, plan
from recsys.run.planned_cluster import cluster_of, planning_of
from recsys.sharding.processes import ProcessContext

TWO_TERABYTES = "item_id=1_000_000_000x128,user_id=2_000_000_000x128,ad_id=900_000_000x128,country=250x16"
EIGHT = "cluster=gpus_8x80gb"
AUTO = "training.table_kernels.embedding_tower=auto"
TWO_CPUS = ["cluster.device=cpu", "cluster.devices_per_node=2", "cluster.host_gb=0.002", "training.batch_size=1"]


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    code = main(["plan", "--json", *words])
    found = json.loads(capsys.readouterr().out)
    assert code == (0 if found["fits"] else 2)
    return found


def test_the_page_places_two_terabytes_on_eight_gpus_and_their_host(capsys):
    assert main(["plan", "--tables", TWO_TERABYTES, EIGHT, AUTO]) == 0
    page = capsys.readouterr().out
    assert "Planned for 1 x 8 GPUs of 80.0 GB, with 2,000.0 GB of host memory on each node; 15% of each" in page
    assert "All tables fit; they take" in page
    (row,) = [line for line in page.splitlines() if "user_id" in line]
    assert [word in row for word in ("2,000,000,000", "1,024.0 GB", "by rows", "host", "129.0 GB")] == [True] * 5
    assert "0 to 7" in page


def test_the_page_names_what_does_not_fit_and_the_settings_that_would_make_it_fit(capsys):
    assert main(["plan", "--tables", TWO_TERABYTES, EIGHT]) == 2
    page = capsys.readouterr().out
    assert "Does not fit: embedding_tower user_id, 1,024.0 GB, not even alone." in page
    assert f"Would fit with tables in the host's memory where the GPU's is full: {AUTO}" in page
    assert "Not enough: weights in half precision: training.table_precision=float16" in page
    assert "Would fit with 4 nodes in place of 1: cluster.nodes=4" in page

    assert planned(capsys, "--tables", TWO_TERABYTES, EIGHT, "cluster.nodes=4")["fits"]


def test_the_json_has_every_table_every_process_and_what_would_help(capsys):
    whole = [*TWO_CPUS, "sharding.types.head=[table_wise]"]
    found = planned(capsys, "--tables", "head.small=1000x16,head.large=8000x16", *whole)

    assert found["cluster"] == {
        "device": "cpu",
        "nodes": 1,
        "devices_per_node": 2,
        "device_bytes": 0,
        "host_bytes": 2_000_000,
        "reserved_share": 0.15,
    }
    small = found["tables"][0]
    assert (small["part"], small["table"], small["sharding"], small["bytes"]) == ("head", "small", "table_wise", 64_000)
    # Rows with their accumulators, and of a batch of one row from either process ids and vectors.
    assert small["shards"][0]["host_bytes"] == 1000 * 17 * 4 + 2 * (8 + 16 * 4)
    assert sum(load["host_bytes"] for load in found["ranks"]) == 9000 * 17 * 4 + 4 * (8 + 16 * 4)
    assert [load["free_host_bytes"] for load in found["ranks"]] == [849_999, 849_999]
    assert found["fits"]
    assert found["unplaced"] == found["remedies"] == []

    too_much = planned(capsys, "--tables", "head.small=1000x16,head.huge=13000x16", *whole)
    assert not too_much["fits"]
    assert [each["table"] for each in too_much["tables"]] == ["small"]
    huge = {"part": "head", "table": "huge", "rows": 13_000, "width": 16, "bytes": 832_000, "fits_alone": False}
    assert too_much["unplaced"] == [huge]
    half = {"change": "weights in half precision", "settings": ["training.table_precision=float16"], "fits": True}
    assert half in too_much["remedies"]
    # What a run on CPUs refuses is no remedy.
    assert not any("row_wise" in setting for each in too_much["remedies"] for setting in each["settings"])


def test_tables_of_a_schema_need_no_data_where_all_rows_are_stated(capsys, small_world, tmp_path):
    nowhere = [f"data.raw={tmp_path}/nowhere", f"runtime.encoded={tmp_path}/encoded"]
    rows = "item_id=1_000_000_000,user_id=2_000_000,category=500,tags=9000"

    mixed = ["training_mode=by_segment", "training_mode.rungs={families: all, others: frozen}"]

    found = planned(capsys, "--rows", rows, EIGHT, *small_world, *nowhere, *mixed)

    sizes = {(each["part"], each["table"]): (each["rows"], each["width"]) for each in found["tables"]}
    assert sizes["embedding_tower", "tower_item_id"] == (1_000_000_000, 8)
    # At most, as nothing says yet which items families meet.
    assert sizes["tower_copies", "tower_item_id"] == (1_000_000_000, 8)
    assert sizes["interaction_network", "network_user_id"] == (2_000_000, 8)
    assert sizes["interaction_network", "network_user segment"] == (4, 8)
    assert sizes["head", "first_order_recent_item_ids"] == (1_000_000_000, 4)
    assert list(tmp_path.iterdir()) == []


def test_tables_of_prepared_data_have_its_rows_and_those_that_are_stated(small_world):
    config = compose_config(small_world)
    rows = prepare.run(config, silent).contract.table_rows

    state = torch.random.get_rng_state()
    found = plan(config, StatedTables(rows={"tags": 12_345}), silent)

    assert torch.equal(torch.random.get_rng_state(), state)
    sizes = {each.table.name: each.table.rows for each in found.placements}
    assert sizes["tower_user_id"] == sizes["network_user_id"] == rows["user_id"]
    assert sizes["tower_tags"] == 12_345
    assert found.fits


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tables", "a=10x6"], ["`a` with 10 rows of 6 numbers", "multiple of 4", "such as 8"]),
        (["--tables", "a=10"], ["`--tables` has 'a=10'", "item_id=1_000_000_000x128"]),
        (["--tables", "nowhere.a=10x4"], ["`nowhere.a` is of no part", "embedding_tower, interaction_network, head"]),
        (["--rows", "a=0"], ["`--rows` gives `a` no row"]),
        (["--rows", "a=5"], ["Rows are stated for `a`", "It has user_id, item_id, category, tags"]),
        (["--rows", "a=5", "--tables", "a=5x4"], ["stated in two ways"]),
        (["--optimizer", "adam"], ["'adam'; expected one of rowwise_adagrad, adagrad, sgd"]),
        (["--tables", "a=5x4", "cluster.device=cuda"], ["no GPU whose memory", "cluster=gpus_8x80gb"]),
        (["--tables", "a=5x4", "sharding.tables={b: {kernel: uvm}}"], ["`sharding.tables` names `b`", "There are a."]),
        (
            ["--tables", "a=5x4", "sharding.types.embedding_tower=[column_wise]"],
            ["another optimizer for every number of processes", "Shard it table_wise or row_wise, or use adagrad"],
        ),
        (
            ["--tables", "a=5x4", "sharding.types.head=[data_parallel,row_wise]"],
            ["allows data_parallel, row_wise for one part", "all or none"],
        ),
        (["--tables", "a=5x4", "sharding.types.head=[diagonal]"], ["sharding.types.head", "'diagonal'"]),
    ],
)
def test_what_cannot_be_planned_is_refused(words: list[str], says: list[str], capsys):
    assert main(["plan", "data=simulated", "runtime.device=cpu", *words]) == 2
    message = capsys.readouterr().err
    for text in says:
        assert text in message


def test_columns_may_be_divided_where_every_number_has_its_own_accumulator(capsys):
    words = ["--tables", "head.a=100x16", "--optimizer", "adagrad", "sharding.types.head=[column_wise]", *TWO_CPUS]
    (table,) = planned(capsys, *words)["tables"]
    assert [(shard["rows"], shard["columns"]) for shard in table["shards"]] == [(100, 8), (100, 8)]


def test_one_process_asks_for_no_plan_and_two_are_planned_for_what_they_are(small_world, monkeypatch):
    schema = load_schema(prepare.schema_file(compose_config(small_world).data))
    one, two = (ProcessContext(0, size, torch.device("cpu")) for size in (1, 2))
    assert planning_of(compose_config([*small_world, EIGHT, AUTO]), schema, one) is None
    # On a GPU one process asks where a table may lie in more than one memory, or in another one than its part's.
    gpu = ProcessContext(0, 1, torch.device("cuda"))
    sized = [*small_world, "cluster.device_gb=80", "cluster.device=cuda"]
    assert planning_of(compose_config(sized), schema, gpu) is None
    for word in (AUTO, "sharding.tables={network_item_id: {kernel: uvm}}"):
        of_one = planning_of(compose_config([*sized, word]), schema, gpu)
        assert of_one is not None
        assert of_one.cluster.world_size == 1

    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    words = ["training.batch_size=64", "sharding.types.head=[data_parallel]", AUTO]
    planning = planning_of(compose_config([*small_world, *words]), schema, two)

    assert planning is not None
    assert (planning.cluster.device, planning.cluster.nodes, planning.cluster.devices_per_node) == ("cpu", 1, 2)
    assert planning.batch_rows == 32
    # Of a last batch processes on CPUs have different shares, which pieces of rows cannot be gathered for.
    assert planning.rules.types["embedding_tower"] == ("table_wise",)
    with pytest.raises(UsageError, match=r"`sharding.types.head` is \[row_wise\], and 2 processes on CPUs"):
        planning_of(compose_config([*small_world, "sharding.types.head=[row_wise]"]), schema, two)
    assert planning.rules.replicated == {"head": "data_parallel"}
    assert planning.rules.kernels["embedding_tower"] == ("fused", "uvm", "uvm_caching")
    assert planning.rules.ids_per_row["tags"] > planning.rules.ids_per_row["item_id"] == 1
    with pytest.raises(UsageError, match=r"`cluster.device` is cuda, and the run has cpu: 2 processes on cpu"):
        planning_of(compose_config([*small_world, EIGHT]), schema, two)
    with pytest.raises(UsageError, match=r"`cluster.nodes` is 3, and the run has 1"):
        planning_of(compose_config([*small_world, "cluster.nodes=3"]), schema, two)


def test_a_cluster_is_this_machine_where_nothing_else_is_said(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    cluster = cluster_of(compose_config(["runtime.device=cpu", "cluster.host_gb=64"]))
    assert (cluster.device, cluster.nodes, cluster.devices_per_node) == ("cpu", 1, 1)
    assert cluster.host_bytes_for_use == 64 * 10**9 * 0.85
