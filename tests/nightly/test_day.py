"""Nights over a small shop: each done once, in stages or at once, from the champion's weights, and told where it is."""

import datetime
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pipelines.cli import main
from recsys.config.compose import compose_config
from recsys.errors import UsageError
from recsys.nightly import day
from recsys.nightly.nightly_log import DayOutcome
from recsys.nightly.status import status
from recsys.progress import silent
from recsys.run.record import open_store
from recsys.scheduling.window import Readiness
from recsys.tracking import names
from tests.datasets.small_table import SCHEMA, TABLE
from tests.nightly.shop import MONDAY, NightlyShop

TUESDAY = MONDAY + datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> NightlyShop:
    return NightlyShop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def monday(shop: NightlyShop) -> day.DailyResult:
    return day.run(shop.config(), MONDAY, silent)


@pytest.fixture(scope="module")
def tuesday(shop: NightlyShop, monday: day.DailyResult) -> day.DailyResult:
    return day.run(shop.config(), TUESDAY, silent)


def runs_of(shop: NightlyShop, kind: str = "daily") -> list:
    client = open_store(shop.config()).open()
    ids = [each.experiment_id for each in client.search_experiments()]
    return client.search_runs(ids, f"tags.{names.TAG_KIND} = '{kind}'", order_by=["attributes.start_time ASC"])


def test_the_first_night_begins_from_scratch_and_its_model_becomes_the_champion(shop, monday) -> None:
    assert monday.readiness is Readiness.GO
    assert monday.decision is not None
    assert monday.decision.promote
    champion = shop.root.champions.current()
    assert (champion.date, shop.root.champions.folder(champion)) == (MONDAY, monday.folder.path)
    assert monday.folder.inputs.start == ""
    assert max(monday.folder.inputs.days) == "2024-03-17"


def test_no_row_of_a_night_is_of_its_date_or_later(shop, monday) -> None:
    splits = [path for path in shop.config().runtime.encoded.glob("shop-*/rows/split=*/day=*") if path.is_dir()]
    assert splits
    assert all(path.name < f"day={TUESDAY}" for path in splits)


def test_the_run_carries_its_checks_comparison_and_decision(shop, monday) -> None:
    (run, *_) = runs_of(shop)
    tags, metrics = run.data.tags, run.data.metrics
    assert tags[names.TAG_DECISION] == "promoted"
    assert names.TAG_CHECKS in tags
    assert run.info.status == "FINISHED"
    assert {name.split("/")[0] for name in metrics} >= {"test_auc", "check", "champion", "valid_auc"}
    client = open_store(shop.config()).open()
    kept = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert {"inputs.json", "checks.json", "comparison.json"} <= kept


def test_the_next_night_starts_from_the_champion_on_the_newest_days(shop, monday, tuesday) -> None:
    assert tuesday.folder.inputs.start == monday.folder.path.name
    assert tuesday.folder.inputs.window["train"] == "2024-03-10 up to 2024-03-15"
    assert json.loads((tuesday.folder.path / "comparison.json").read_text())["champion"] == monday.folder.path.name
    start = [run.data.tags.get(names.TAG_START) for run in runs_of(shop)]
    assert start[0] is None
    assert start[1]


def test_started_twice_a_night_is_done_once(shop, monday, tuesday, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in shop.root.path.rglob("*") if path.is_file()}
    assert main(["daily", "--from", str(MONDAY), "--to", str(TUESDAY), *shop.words]) == 0
    assert capsys.readouterr().out.count("already done") == 2
    changed = {path.name for path in before if path.stat().st_mtime_ns != before[path]}
    assert changed <= {"log.jsonl", ".daily.lock"}


def test_stages_one_by_one_come_to_the_same_weights_as_all_at_once(shop, tuesday, tmp_path: Path) -> None:
    apart = [*shop.words, f"runtime.runs={tmp_path}/runs", f"runtime.towers={tmp_path}/towers"]
    for stage in ("prepare", "check", "pretrain", "train", "train", "evaluate", "promote"):
        assert main(["daily", "--date", str(MONDAY), "--stage", stage, "--json", *apart]) == 0
    (model,) = tmp_path.glob("runs/shop/daily/2024-03-18-*/model/**/weights.safetensors")
    (whole,) = shop.root.path.glob("2024-03-18-*/model/**/weights.safetensors")
    mine, theirs = load_file(model), load_file(whole)
    assert mine.keys() == theirs.keys()
    assert all(bool((mine[name] == theirs[name]).all()) for name in mine)


def test_json_is_a_line_per_decision(shop, tuesday, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["daily", "--date", str(TUESDAY), "--json", *shop.words]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["date"], line["outcome"]) for line in lines][-1] == (str(TUESDAY), "up to date")


def test_a_date_whose_rows_have_not_arrived_waits(shop, monday, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["daily", "--date", "2024-04-01", *shop.words]) == 0
    assert "not there yet: The data are complete before 2024-03-20" in capsys.readouterr().out


def test_another_ranker_than_the_champions_begins_from_scratch_and_says_why(shop, monday) -> None:
    changed = shop.config("network.hidden_widths=[4]")
    told = []
    wednesday = TUESDAY + datetime.timedelta(days=1)
    result = day.run(changed, wednesday, silent, until=day.DailyStage.PREPARE, tell=told.append)
    assert result.reason.startswith("Training on 2024-03-06 up to")
    (warning,) = [event.message for event in told if event.outcome is DayOutcome.WARNING]
    assert warning.startswith("The run begins from scratch.")
    assert "hidden_widths" in warning


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--date", "tomorrow"], "--date is 'tomorrow'; expected a day as YYYY-MM-DD"),
        (["--from", "2024-03-18"], "Expected a day, --date 2011-09-01, or several in order"),
        (["--date", "2024-03-18", "--to", "2024-03-19"], "Expected a day"),
        (["--from", "2024-03-18", "--to", "2024-03-01"], "expected a last date that is not before the first"),
        (["--date", "2024-03-18", "--stage", "fly"], "--stage is 'fly'; expected one of prepare, check"),
        (["--date", "0001-01-05"], "The window before 0001-01-05 would begin before the year 1"),
        (["--date", "2024-03-18", "data.test_start=2024-03-17"], "set the window"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, told: str, shop, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["daily", *words, *shop.words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("ml_100k", "the `table:` block of data/schemas/ml_100k.yaml splits the rows by files"),
        ("simulated", "split by its own days"),
    ],
)
def test_a_source_without_dates_to_move_is_told_where_its_splits_stand(data: str, told: str, tmp_path: Path) -> None:
    config = compose_config([f"data={data}", f"runtime.runs={tmp_path}/runs"])
    with pytest.raises(UsageError, match=f"`{data}` .* has none to move: .*{told}"):
        day.run(config, MONDAY, silent)
    assert not (tmp_path / "runs").exists()


def test_a_table_without_times_cannot_be_scheduled_and_is_told_what_it_lacks(tmp_path: Path) -> None:
    shares = {"shares": {"train": 0.8, "validation": 0.1, "test": 0.1}, "by": "user"}
    block = {**{key: value for key, value in TABLE.items() if key != "time"}, "splits": shares}
    (tmp_path / "schema.yaml").write_text(json.dumps({**SCHEMA, "table": block}))
    words = [f"data.schema_path={tmp_path}/schema.yaml", f"data.raw={tmp_path}", f"runtime.runs={tmp_path}/runs"]
    with pytest.raises(UsageError, match=r"declares no `time`\. Declare it if the rows have one, or train on each day"):
        day.run(compose_config(["data=table", *words]), MONDAY, silent)


def test_a_champion_that_was_taken_back_reads_so_in_the_status(shop, tuesday) -> None:
    decisions = {each.date: each.decision for each in status(shop.config(), 30, silent)}
    assert (decisions[str(MONDAY)], decisions[str(TUESDAY)]) == ("promoted", "promoted")
    shop.root.champions.roll_back("wrong prices")
    (found,) = [each for each in status(shop.config(), 30, silent) if each.date == str(TUESDAY)]
    assert (found.decision, found.champion, found.reason) == ("rolled back", str(MONDAY), "Rolled back: wrong prices")
