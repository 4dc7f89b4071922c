"""What the commands do in two processes is what they do in one: towers, runs, scores and lists, each written once."""

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys.config.compose import compose_config
from recsys.errors import DataError
from recsys.progress import silent
from recsys.run import evaluate, prepare, pretrain, recommend, score, train
from recsys.run.curves import load_curves
from recsys.run.folder import TABLE_PLAN, load_result, new_run
from recsys.run.recommend import Request
from recsys.run.record import open_store
from recsys.sharding.first_process import by_first, is_first
from recsys.sharding.processes import ProcessContext
from recsys.training import loop
from tests.purchases import Purchases
from tests.recorded import recorded_table
from tests.sharding.two_processes import run_in_several, run_in_two

# The rows of a step are the same in any number of processes; of the last one they are few.
IN_STEP = ["training.row_order=time", "training.batch_size=104", "training.report_every=1", "training.patience=99"]
STOP_AT = 4  # of seven steps
ASKED = Request(date="2024-03-26", users=None, top=7, retrieve=0, is_new_only=False)


def overrides_in(shop: Purchases, root: Path) -> list[str]:
    """Its rows are prepared once; all that is learnt lies in a folder of its own."""
    return [*shop.overrides, *IN_STEP, f"runtime.runs={root}/runs", f"runtime.towers={root}/towers"]


def trained(overrides: Sequence[str]) -> dict[str, Any]:
    config = compose_config(overrides)
    identity = new_run(config)
    result = train.run(config, identity, silent)
    artifact = pretrain.run(config, prepare.run(config, silent), silent)
    return {"folder": str(identity.folder), "scores": result.scores, "tower": artifact.provenance}


def trained_in_two(context: ProcessContext, overrides: list[str]) -> dict[str, Any]:
    return trained(overrides)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Purchases:
    return Purchases(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def one(shop: Purchases, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return trained(overrides_in(shop, tmp_path_factory.mktemp("one")))


@pytest.fixture(scope="module")
def two(shop: Purchases, one: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    root = tmp_path_factory.mktemp("two")
    return run_in_two(trained_in_two, root, overrides_in(shop, root))


def test_a_run_in_two_processes_learns_what_it_learns_in_one(one, two):
    first, second = two
    assert first == second
    mine, ours = (load_curves(Path(each["folder"])) for each in (one, first))
    assert mine.keys() == ours.keys()
    for name in ("train/loss", "train/rows_seen", "valid/log_loss", "grad_norm/whole"):
        assert mine[name][0] == ours[name][0]
        np.testing.assert_allclose(ours[name][1], mine[name][1], rtol=1e-5, err_msg=name)
    assert first["scores"] == pytest.approx(one["scores"], abs=1e-5)


def test_a_tower_that_two_processes_pre_train_is_the_one_that_one_does(one, two):
    # Each item's negatives are the items of both.
    mine, ours = one["tower"], two[0]["tower"]
    assert ours["validation_loss"] == pytest.approx(mine["validation_loss"], rel=1e-5)
    assert ours["validation_recall_20"] == pytest.approx(mine["validation_recall_20"])


def files_of(folder: Path) -> set[str]:
    """All but the checkpoints', of which every process writes its own."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if path.parts[0] != "checkpoints"}


def test_two_processes_leave_one_run_and_one_record(shop, one, two):
    folder = Path(two[0]["folder"])
    assert list(folder.parent.iterdir()) == [folder]
    left, mine = (files_of(each) for each in (folder, Path(one["folder"])))
    # One process has all tables, and plans nothing.
    assert left - {TABLE_PLAN} == mine
    store = open_store(compose_config(overrides_in(shop, folder.parents[2])))
    trains, pretrains = recorded_table(store, kind="train"), recorded_table(store, kind="pretrain")
    assert trains["status"].tolist() == pretrains["status"].tolist() == ["FINISHED"]
    plan = json.loads((folder / TABLE_PLAN).read_text())
    assert plan["fits"]
    assert [shard["rank"] for table in plan["tables"] for shard in table["shards"]].count(1) > 0
    assert trains["tag.table_plan"].tolist() == [plan["in_brief"]]
    assert plan["in_brief"].startswith(f"{len(plan['tables'])} tables planned for 2 processes (cpu): ")
    assert trains["tag.processes"].tolist() == pretrains["tag.processes"].tolist() == ["2"]
    records = [load_result(Path(each["folder"])).record for each in (one, two[0])]
    assert records[0].rows_seen == records[1].rows_seen
    assert records[0].ended == records[1].ended == "budget"


def used_in_two(context: ProcessContext, overrides: list[str], folder: str, rows: str, root: str) -> dict[str, Any]:
    return used(overrides, Path(folder), Path(rows), Path(root))


def used(overrides: list[str], folder: Path, rows: Path, root: Path) -> dict[str, Any]:
    config = compose_config(overrides)
    scores = evaluate.run(config, folder, "test", silent)
    scored = score.run(config, folder, rows, root / "scores.parquet", None, silent)
    # Two parts, one for each process.
    found = recommend.run(config, folder, ASKED, root / "lists", silent)
    return {
        "scores": scores.ranker,
        "baselines": scores.baselines,
        "scored": scored,
        "lists": [str(found.path), found.users, found.rows],
    }


def test_a_model_is_measured_and_used_by_two_processes_as_by_one(shop, one, tmp_path, monkeypatch):
    monkeypatch.setattr(recommend, "_PAIRS_AT_ONCE", 200)
    overrides, folder = overrides_in(shop, Path(one["folder"]).parents[2]), one["folder"]
    rows = pq.read_table(shop.raw / "purchases.parquet").select(["user_id", "item_id", "at", "country"]).slice(0, 91)
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=20)
    for name in ("alone", "together"):
        (tmp_path / name).mkdir()
    mine = used(overrides, Path(folder), tmp_path / "rows.parquet", tmp_path / "alone")

    places = [str(tmp_path / "rows.parquet"), str(tmp_path / "together")]
    first, second = run_in_two(used_in_two, tmp_path, overrides, folder, *places)

    assert first == second
    assert first["scores"] == pytest.approx(mine["scores"])
    assert first["baselines"] == {name: pytest.approx(each) for name, each in mine["baselines"].items()}
    assert first["scored"] == mine["scored"] == 91
    alone, together = (pq.read_table(tmp_path / name / "scores.parquet") for name in ("alone", "together"))
    assert together.drop(["probability"]) == alone.drop(["probability"])
    np.testing.assert_allclose(together["probability"], alone["probability"], rtol=1e-6)
    assert [path.name for path in (tmp_path / "together").iterdir() if "scores" in path.name] == ["scores.parquet"]
    assert first["lists"][1:] == mine["lists"][1:]
    lists = [
        pa.concat_tables(map(pq.read_table, sorted(Path(each["lists"][0]).glob("part-*")))) for each in (first, mine)
    ]
    assert lists[0].drop(["score", "probability"]) == lists[1].drop(["score", "probability"])
    np.testing.assert_allclose(lists[0]["score"], lists[1]["score"], rtol=1e-5)


def run_until_stopped(overrides: Sequence[str], step: int) -> dict[str, Any]:
    """Train until SIGTERM reaches every process in a step; returns the run's folder, and how far it came."""
    config = compose_config(overrides)
    identity = new_run(config)
    waits, calls = loop.wait_for_device, count(1)

    def wait(device: torch.device) -> None:
        if next(calls) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        waits(device)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "wait_for_device", wait)
        with pytest.raises(SystemExit):
            train.run(config, identity, silent)
    return {"folder": str(identity.folder)}


def run_again(overrides: Sequence[str], folder: str) -> dict[str, Any]:
    """Go on with a run to its end."""
    config = compose_config(overrides)
    result = train.run(config, replace(new_run(config), folder=Path(folder)), silent, resume=True)
    return {"folder": folder, "scores": result.scores, "rows_seen": result.record.rows_seen, "best": result.best_step}


def one_goes_on_and_another_stops(context: ProcessContext, overrides: list[str], folder: str) -> list[dict[str, Any]]:
    return [run_again(overrides, folder), run_until_stopped(overrides, STOP_AT)]


def stops(context: ProcessContext, overrides: list[str]) -> dict[str, Any]:
    return run_until_stopped(overrides, STOP_AT)


def test_a_run_that_was_stopped_ends_in_another_number_of_processes_as_if_it_never_was(shop, one, tmp_path):
    overrides = overrides_in(shop, Path(one["folder"]).parents[2])
    for name in ("two", "four"):
        (tmp_path / name).mkdir()
    by_one = run_until_stopped(overrides, STOP_AT)
    (by_two, _), (_, by_four) = (
        run_in_two(one_goes_on_and_another_stops, tmp_path / "two", overrides, by_one["folder"]),
        run_in_several(4, stops, tmp_path / "four", overrides)[:2],
    )
    ended = {
        "1 to 2": by_two[0],
        "2 to 1": run_again(overrides, by_two[1]["folder"]),
        "4 to 1": run_again(overrides, by_four["folder"]),
    }

    unbroken, mine = load_result(Path(one["folder"])), load_curves(Path(one["folder"]))
    for how, each in ended.items():
        ours = load_curves(Path(each["folder"]))
        assert ours["train/rows_seen"] == mine["train/rows_seen"], how
        np.testing.assert_allclose(ours["train/loss"][1], mine["train/loss"][1], rtol=1e-5, err_msg=how)
        np.testing.assert_allclose(ours["valid/log_loss"][1], mine["valid/log_loss"][1], rtol=1e-5, err_msg=how)
        assert each["scores"] == pytest.approx(one["scores"], abs=1e-5), how
        assert (each["rows_seen"], each["best"]) == (unbroken.record.rows_seen, unbroken.best_step), how
        assert len(list(Path(each["folder"]).glob("checkpoints/*"))) == 2, how  # where it stopped, and its end


def failing_in_first(context: ProcessContext) -> str:
    def work() -> None:
        raise DataError("rows.parquet is torn.")

    try:
        by_first(work)
    except DataError as error:
        return f"{is_first()} {error}"
    return ""


def test_what_the_first_process_fails_with_reaches_the_others(tmp_path: Path):
    assert run_in_two(failing_in_first, tmp_path) == [
        "True rows.parquet is torn.",
        "False The first process ended: rows.parquet is torn.",
    ]
