"""The checks before training, over a shop's files: what was prepared of them, and their newest day's raw events."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from recsys.config.compose import compose_config
from recsys.errors import DataError
from recsys.nightly.check import CheckReport, _of_the_calendar, run_checks
from recsys.progress import silent
from recsys.run import prepare
from tests.datasets.small_table import SCHEMA, TABLE

DATE = datetime.date(2024, 6, 1)
NEWEST = datetime.datetime(2024, 5, 31)
NOW = datetime.datetime(2024, 6, 1, 3, tzinfo=datetime.UTC)
ROWS, DAYS = 60, 17
Change = Callable[[pd.DataFrame], pd.DataFrame]


def shop() -> pd.DataFrame:
    """So many rows a day up to the newest one, each day at its own minutes."""
    rng = np.random.default_rng(0)
    rows = ROWS * DAYS
    return pd.DataFrame(
        {
            "user_id": rng.integers(40, size=rows),
            "item_id": [f"i{number}" for number in rng.integers(30, size=rows)],
            "price": rng.lognormal(size=rows),
            "group": np.where(rng.random(rows) < 0.4, "new", "old"),
            "bought": rng.integers(2, size=rows),
            "at": [NEWEST - datetime.timedelta(days=row // ROWS, minutes=-(row % ROWS)) for row in range(rows)],
        }
    )


def checked(root: Path, change: Change, **limits: Any) -> CheckReport:
    """The report on the shop, its newest day's rows changed."""
    rows = shop()
    is_newest = rows["at"] >= NEWEST
    rows = pd.concat([rows[~is_newest], change(rows[is_newest].copy())])
    (root / "raw").mkdir()
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), root / "raw" / "rows.parquet")
    (root / "schema.yaml").write_text(yaml.safe_dump({**SCHEMA, "table": TABLE}), encoding="utf-8")
    config = compose_config(
        [
            "data=table",
            f"data.schema_path={root}/schema.yaml",
            f"data.raw={root}/raw",
            *(f"runtime.{name}={root}/{name}" for name in ("runs", "encoded", "towers")),
            "runtime.threads=1",
            "daily.checks.weeks=2",
            "data.train_start=2024-05-15",
            "data.validation_start=2024-05-24",
            "data.test_start=2024-05-28",
            f"data.test_end={DATE}",
            *(f"daily.checks.{name}={limit}" for name, limit in limits.items()),
        ]
    )
    return run_checks(config, prepare.run(config, silent), DATE, root, silent, NOW)


def written(root: Path) -> dict[str, Any]:
    document = json.loads((root / "checks.json").read_text(encoding="utf-8"))
    return {each["name"]: each for each in document["checks"]}


def test_clean_day_passes_and_every_result_is_written(tmp_path: Path) -> None:
    report = checked(tmp_path, lambda rows: rows)

    report.require_passed()
    assert (report.failed, report.warnings, report.tags()) == ((), (), {"checks": "ok"})
    names = ["rows", "label_rate", "null_share", "unseen_share", "segment_mix", "drift"]
    assert [*written(tmp_path)] == [*names, "duplicate_share", "future_share"]
    assert [*report.metrics()] == [f"check/{name}" for name in written(tmp_path)]
    assert report.metrics()["check/rows"] == 0
    assert [*written(tmp_path)["null_share"]["values"]] == ["user_id", "item_id", "price"]
    assert written(tmp_path)["drift"]["warn"] == 0.25


def test_renumbered_ids_fail_and_a_moved_feature_goes_on_with_a_tag(tmp_path: Path) -> None:
    report = checked(tmp_path, lambda rows: rows.assign(item_id="I-" + rows["item_id"], price=rows["price"] * 10))

    assert report.tags() == {"checks": "fail: unseen_share of item_id; warn: drift of price"}
    assert report.metrics()["check/unseen_share"] == 1
    assert "price has a population stability index of " in report.warnings[0]
    with pytest.raises(DataError) as found:
        report.require_passed()
    assert str(found.value).startswith(
        "The rows of 2024-05-31 fail their checks, and nothing is trained. unseen_share: 100.0% of the 60 ids in "
        "item_id of 2024-05-31 stand in no training row, and 0.0% of those of the 7 days between. That is 1, and at "
        "most 0.6 may be (daily.checks.unseen_share.fail)."
    )


def test_file_that_came_twice_and_times_of_the_future_are_found_in_the_raw_events(tmp_path: Path) -> None:
    def change(rows: pd.DataFrame) -> pd.DataFrame:
        late = rows.head(3).assign(at=datetime.datetime(2031, 1, 1))
        return pd.concat([rows, rows, late])

    report = checked(tmp_path, change)

    assert report.tags() == {"checks": "fail: duplicate_share; warn: rows, future_share"}
    assert report.metrics()["check/duplicate_share"] == 0.5
    # Twice the rows is as far off as half of them.
    assert report.metrics()["check/rows"] == 0.5
    assert report.metrics()["check/future_share"] == 3 / 120
    assert "later than now (2024-06-01 03:00 UTC), up to 2031-01-01 00:00" in report.warnings[1]


def test_empty_column_is_counted_before_it_is_filled(tmp_path: Path) -> None:
    report = checked(tmp_path, lambda rows: rows.assign(price=[None, float("nan")] * (ROWS // 2)), drift="{warn: null}")

    assert report.tags() == {"checks": "fail: null_share of price"}
    assert report.metrics()["check/null_share"] == 1


def test_day_without_rows_is_named(tmp_path: Path) -> None:
    report = checked(tmp_path, lambda rows: rows.head(0))

    assert report.tags() == {"checks": "fail: rows"}
    with pytest.raises(DataError, match="rows: 0 rows for 2024-05-31, 60 expected by Fridays of the 2 weeks before"):
        report.require_passed()
    assert written(tmp_path)["duplicate_share"]["sentence"] == "Not judged: 0 events on 2024-05-31."


def test_a_month_that_has_just_begun_is_no_unseen_id(tmp_path: Path) -> None:
    layout = {
        **TABLE,
        "derive": {"month": "month(at)", "month_of_a_price": "month(at) * price"},
    }
    schema = {
        **SCHEMA,
        "features": [
            *SCHEMA["features"],
            {"name": "month", "kind": "sparse", "used_by": ["interaction_network"]},
            {"name": "month_of_a_price", "kind": "dense", "used_by": ["interaction_network"]},
        ],
    }
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump({**schema, "table": layout}), encoding="utf-8")
    data = compose_config(["data=table", f"data.schema_path={tmp_path}/schema.yaml", "data.raw=nowhere"]).data
    assert _of_the_calendar(prepare.table_layout(data)) == {"month"}
