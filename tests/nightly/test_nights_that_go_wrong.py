"""Late rows, lost days and lost runs: each is told in the log, by `recsys status`, in MLflow and to the hook."""

import datetime
import json
from pathlib import Path

import pytest

from pipelines.cli import main
from recsys.nightly import day
from recsys.nightly.nightly_log import DailyStage, DayOutcome
from recsys.nightly.status import State, status
from recsys.progress import silent
from recsys.run.record import open_store
from recsys.tracking import names
from recsys.tracking.run import start_run
from tests.nightly.shop import MONDAY, NightlyShop
from tests.nightly.test_day import runs_of

TUESDAY = MONDAY + datetime.timedelta(days=1)


@pytest.fixture
def shop(tmp_path: Path) -> NightlyShop:
    return NightlyShop(tmp_path)


def states(shop: NightlyShop) -> dict[str, State]:
    return {each.date: each.state for each in status(shop.config(), 30, silent)}


def test_late_rows_make_a_done_night_stale_and_it_is_done_again(shop: NightlyShop, capsys) -> None:
    first = day.run(shop.config(), MONDAY, silent)
    assert states(shop) == {"2024-03-18": State.DONE}
    shop.add_late_row(datetime.date(2024, 3, 12))

    told = []
    day.run(shop.config(), TUESDAY, silent, until=DailyStage.PREPARE, tell=told.append)
    (stale,) = [event for event in told if event.outcome is DayOutcome.STALE]
    assert stale.message.startswith("The run of 2024-03-18 is stale: rows of 2024-03-12 changed")
    assert states(shop)["2024-03-18"] is State.STALE

    again = day.run(shop.config(), MONDAY, silent)
    assert again.folder.path != first.folder.path
    assert again.decision.promote
    assert shop.root.champions.folder(shop.root.champions.current()) == again.folder.path
    assert states(shop)["2024-03-18"] is State.DONE
    assert main(["status", *shop.words[:3], "data.name=shop", f"runtime.runs={shop.table.root}/runs"]) == 0
    assert "2024-03-18" in capsys.readouterr().out
    assert (shop.root.path / "status.png").stat().st_size > 1000


def test_a_failed_check_stops_before_training_with_a_run_that_says_so_once(shop: NightlyShop, capsys) -> None:
    hook = f"daily.hooks.failure=cat >> '{shop.table.root}/told.jsonl'"
    words = [*shop.words, hook]
    shop.without_day(datetime.date(2024, 3, 17))

    for _ in range(2):
        assert main(["daily", "--date", str(MONDAY), *words]) == 65
        assert "2024-03-17" in capsys.readouterr().err
    told = [json.loads(line) for line in (shop.table.root / "told.jsonl").read_text().splitlines()]
    assert [event["outcome"] for event in told] == ["stopped", "stopped"]
    (run,) = runs_of(shop)
    assert run.info.status == "FAILED"
    assert "2024-03-17" in run.data.tags[names.TAG_END_REASON]
    assert states(shop) == {"2024-03-18": State.STOPPED}
    assert not [*shop.root.path.glob("2024-*/model")]


def test_a_night_ends_the_runs_that_a_dead_process_left_running(shop: NightlyShop) -> None:
    lost = start_run(open_store(shop.config()), "lost", {}, {names.TAG_KIND: "train"})
    lost.log_step(1, {"train/loss": 0.5})
    lost._spool.close()  # as the kernel does when a process dies: no end is written, the lock is free

    day.run(shop.config(), MONDAY, silent, until=DailyStage.PREPARE)
    (run,) = runs_of(shop, "train")
    assert run.info.status == "KILLED"


def test_a_promotion_calls_its_hook(shop: NightlyShop) -> None:
    told = shop.table.root / "told.json"
    day.run(shop.config(f"daily.hooks.promotion=cat > '{told}'"), MONDAY, silent)
    assert json.loads(told.read_text())["outcome"] == "promoted"
