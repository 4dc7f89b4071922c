"""What the commands do in two processes is what they do in one: towers, runs, scores and lists, each written once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.config.compose import compose_config
from recsys.errors import DataError
from recsys.progress import silent
from recsys.run import evaluate, prepare, pretrain, recommend, score, train
from recsys.run.curves import load_curves
from recsys.run.folder import load_result, new_run
from recsys.run.recommend import Request
from recsys.run.record import open_store
from recsys.sharding.first_process import by_first, is_first
from recsys.sharding.processes import ProcessContext
from tests.purchases import Purchases
from tests.recorded import recorded_table
from tests.sharding.two_processes import run_in_two

# The rows of a step are the same in both; of the last one they are few, and shared unevenly.
IN_STEP = ["training.row_order=time", "training.batch_size=102", "training.report_every=1", "training.patience=99"]
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
    assert left == mine
    store = open_store(compose_config(overrides_in(shop, folder.parents[2])))
    assert recorded_table(store, kind="train")["status"].tolist() == ["FINISHED"]
    assert recorded_table(store, kind="pretrain")["status"].tolist() == ["FINISHED"]
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
