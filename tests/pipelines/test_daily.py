"""A scheduled run over a made-up shop: does its work once, compares with the champion, and waits for data."""

import datetime
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.errors import UsageError
from recsys.nightly import day as daily
from recsys.progress import silent
from recsys.run import prepare
from recsys.run.record import open_store
from recsys.scheduling.champion_file import ChampionFile
from recsys.scheduling.window import Readiness, window_before
from recsys.tracking import names
from tests.datasets.small_table import SCHEMA, TABLE

FIRST = datetime.datetime(2011, 1, 3)
DAYS = 150


def write_shop(path: Path) -> None:
    """About six invoices a day of 40 customers who each like some of 30 products."""
    rng = np.random.default_rng(0)
    liking = rng.dirichlet(np.full(30, 0.3), size=40)
    rows = []
    for number in range(DAYS * 6):
        day, customer = number // 6, int(rng.integers(40))
        time = FIRST + datetime.timedelta(days=day, hours=9, minutes=int(rng.integers(400)))
        for product in rng.choice(30, size=3, replace=False, p=0.9 * liking[customer] + 0.1 / 30):
            rows.append(
                (str(500000 + number), str(20000 + product), f"THING {product}", 2, time, 1.5, 13000 + customer)
            )
    names = ("invoice", "stock_code", "description", "quantity", "invoice_date", "unit_price", "customer_id")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    table = table.append_column("country", pa.array(["United Kingdom"] * table.num_rows))
    pq.write_table(table, path)


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("shop")
    (root / "raw").mkdir()
    write_shop(root / "raw" / "transactions.parquet")
    return [
        "data=online_retail",
        "experiment=smoke",
        f"data.raw={root}/raw",
        f"runtime.runs={root}/runs",
        f"runtime.encoded={root}/encoded",
        f"runtime.towers={root}/towers",
        "runtime.device=cpu",
        "runtime.threads=1",
        "tower.epochs=1",
        "tower.batch_size=512",
        "network.hidden_widths=[16]",
        "tracking.system_metrics=false",
        "ablation.resamples=50",
        "daily.train_days=40",
        "daily.validation_days=7",
        "daily.test_days=7",
    ]


@pytest.fixture(scope="module")
def config(overrides: list[str]) -> RunConfig:
    return compose_config(overrides)


def champions(config: RunConfig) -> ChampionFile:
    return ChampionFile(config.runtime.runs / "online_retail" / "daily" / "champion.json")


@pytest.fixture(scope="module")
def first_day(config: RunConfig) -> daily.DailyResult:
    return daily.run(config, datetime.date(2011, 5, 20), silent)


def test_the_first_run_has_no_rival_and_becomes_the_champion(config: RunConfig, first_day: daily.DailyResult):
    assert first_day.readiness is Readiness.GO
    assert first_day.decision is not None
    assert first_day.decision.promote
    champion = champions(config).current()
    assert champion is not None
    assert champions(config).folder(champion) == first_day.folder


def test_each_score_names_the_rows_that_it_was_measured_on(config: RunConfig, first_day: daily.DailyResult):
    client = open_store(config).open()
    experiment = client.get_experiment_by_name("online_retail")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.{names.TAG_KIND} = 'daily'")
    splits = {use.dataset.name: use.tags[0].value for use in run.inputs.dataset_inputs}
    assert set(splits.values()) == {"train", "validation", "test", "ranking_test"}
    (output,) = run.outputs.model_outputs
    scores = {each.key: splits[each.dataset_name] for each in client.get_logged_model(output.model_id).metrics}
    assert scores[names.auc(names.TEST)] == "test"
    ranked = {split for key, split in scores.items() if key.startswith("ranking/")}
    assert ranked == {"ranking_test"}
    assert run.data.params["daily.train_days"] == "40"


def test_no_row_of_the_run_is_from_its_date_or_later(first_day: daily.DailyResult, config: RunConfig):
    (encoded,) = config.runtime.encoded.glob("online_retail-*/rows")
    days = {split.name: sorted(day.name for day in split.iterdir()) for split in encoded.glob("split=*")}
    assert days["split=test"][-1] == "day=2011-05-19"
    assert days["split=validation"][-1] < days["split=test"][0]
    assert days["split=train"][-1] < days["split=validation"][0]


def test_started_twice_it_does_the_work_once(overrides, first_day, capsys: pytest.CaptureFixture[str]):
    result = first_day.folder / "result.json"
    before = result.stat().st_mtime_ns
    assert main(["daily", "--date", "2011-05-20", *overrides]) == 0
    assert "already done" in capsys.readouterr().out
    assert result.stat().st_mtime_ns == before


def other_shop(config: RunConfig, folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> RunConfig:
    """The same run over raw rows that were changed."""
    rows = pd.read_parquet(config.data.raw / "transactions.parquet")
    change(rows).to_parquet(folder / "transactions.parquet")
    return replace(config, data=replace(config.data, raw=folder))


def test_rows_that_arrive_after_its_window_do_not_do_a_day_again(
    config: RunConfig, first_day: daily.DailyResult, tmp_path: Path
):
    def one_more(rows: pd.DataFrame) -> pd.DataFrame:
        later = rows.tail(1).assign(invoice="999999", invoice_date=lambda row: row.invoice_date + pd.Timedelta(days=3))
        return pd.concat([rows, later])

    again = daily.run(other_shop(config, tmp_path, one_more), datetime.date(2011, 5, 20), silent)
    assert (again.readiness, again.folder) == (Readiness.ALREADY_DONE, first_day.folder)
    assert again.decision == first_day.decision


def test_rows_that_are_corrected_inside_of_its_window_make_it_another_day(
    config: RunConfig, first_day: daily.DailyResult, tmp_path: Path
):
    def fewer_sold(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows.invoice != rows[rows.invoice_date >= "2011-05-01"].invoice.iloc[0]]

    window = window_before(datetime.date(2011, 5, 20), train_days=40, validation_days=7, test_days=7)
    changed = daily._dated(other_shop(config, tmp_path, fewer_sold), window)
    folder = daily._folder(first_day.folder.parent, datetime.date(2011, 5, 20), changed, prepare.run(changed, silent))
    assert folder.name.startswith("2011-05-20-")
    assert folder != first_day.folder


def test_a_later_run_is_compared_with_the_champion_on_rows_that_neither_was_trained_on(config, first_day):
    later = daily.run(config, datetime.date(2011, 5, 29), silent)
    assert later.decision is not None
    document = json.loads((later.folder / "decision.json").read_text())
    assert document["reasons"][0].startswith("Over all rows the challenger is")
    current = champions(config).current()
    assert current is not None
    expected = later.folder if later.decision.promote else first_day.folder
    assert champions(config).folder(current) == expected


def test_a_date_whose_data_have_not_arrived_waits(overrides, capsys: pytest.CaptureFixture[str]):
    assert main(["daily", "--date", "2012-01-01", *overrides]) == 0
    assert "not there yet" in capsys.readouterr().out


def test_a_date_that_is_none_is_refused(overrides, capsys: pytest.CaptureFixture[str]):
    assert main(["daily", "--date", "tomorrow", *overrides]) == 2
    assert "YYYY-MM-DD" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("ml_100k", "the `table:` block of data/schemas/ml_100k.yaml splits the rows by files"),
        ("simulated", "split by its own days"),
    ],
)
def test_a_source_without_dates_to_move_cannot_be_scheduled_and_is_told_where_its_splits_stand(
    data: str, told: str, tmp_path: Path
):
    config = compose_config([f"data={data}", f"runtime.runs={tmp_path}"])
    with pytest.raises(UsageError, match=f"`{data}` .* has none to move: .*{told}"):
        daily.run(config, datetime.date(2011, 5, 20), silent)


def test_a_table_without_times_cannot_be_scheduled_and_is_told_what_it_lacks(tmp_path: Path):
    shares = {"shares": {"train": 0.8, "validation": 0.1, "test": 0.1}, "by": "user"}
    block = {**{key: value for key, value in TABLE.items() if key != "time"}, "splits": shares}
    (tmp_path / "schema.yaml").write_text(json.dumps({**SCHEMA, "table": block}))
    words = [f"data.schema_path={tmp_path}/schema.yaml", f"data.raw={tmp_path}", f"runtime.runs={tmp_path}/runs"]
    with pytest.raises(UsageError, match=r"declares no `time`\. Declare it if the rows have one, or train on each day"):
        daily.run(compose_config(["data=table", *words]), datetime.date(2011, 5, 20), silent)


def test_a_window_that_would_begin_before_time_does_is_refused(overrides, capsys: pytest.CaptureFixture[str]):
    assert main(["daily", "--date", "0001-01-20", *overrides]) == 2
    assert "The window before 0001-01-20 would begin before the year 1" in capsys.readouterr().err
