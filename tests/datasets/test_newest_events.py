"""Raw events of one day: repeats, and times that have not come, whatever the files are."""

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

from recsys.datasets.database import temporary_database
from recsys.datasets.newest_events import NewestEvents, newest_events
from recsys.datasets.table_layout import TableLayout
from recsys.features.schema import FeatureSchema
from recsys.progress import silent
from tests.datasets.small_table import SCHEMA, TABLE

DAY = datetime.date(2024, 5, 31)
NOW = datetime.datetime(2024, 6, 1, 3, tzinfo=datetime.UTC)
AT = [
    datetime.datetime(2024, 5, 30, 23, 59, 59),
    datetime.datetime(2024, 5, 31),
    datetime.datetime(2024, 5, 31, 23, 59, 59),
    datetime.datetime(2024, 5, 31, 23, 59, 59),
    datetime.datetime(2024, 6, 1, 2, 59, 59),
    datetime.datetime(2024, 6, 1, 3, 0, 1),
    datetime.datetime(2030, 1, 1),
]
NEWEST = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def events(at: Any = AT) -> pa.Table:
    """The third and the fourth are equal, but for a column that no schema names."""
    return pa.table(
        {
            "user_id": [1, 1, 2, 2, 3, 3, 3],
            "item_id": ["a", "b", "c", "c", "a", "b", "c"],
            "price": [1.0, 2.0, None, None, 1.0, 2.0, 3.0],
            "group": ["new"] * 7,
            "bought": [1, 0, 1, 1, 0, 0, 1],
            "at": at,
            "line": range(7),
        }
    )


def counted(folder: Path, files: str = "*.parquet", unit: str = "timestamp", **table: Any) -> NewestEvents:
    document = {**SCHEMA, "table": {**TABLE, "files": files, "time": {"column": "at", "unit": unit}, **table}}
    schema = FeatureSchema.from_document(document)
    layout = TableLayout.from_document(document, schema)
    (folder / "database").mkdir(exist_ok=True)
    with temporary_database(folder / "database", "200MB", 1) as connection:
        return newest_events(connection, folder, layout, schema, DAY, NOW, silent)


def figures(found: NewestEvents) -> tuple[int, int, int, datetime.datetime | None]:
    return found.events, found.duplicates, found.future, found.newest


@pytest.mark.parametrize("zone", [None, "UTC", "America/St_Johns"])
def test_events_of_a_day_their_repeats_and_those_of_the_future_are_counted(tmp_path: Path, zone: str | None) -> None:
    at = pa.array(AT).cast(pa.timestamp("us", "UTC"))
    rows = events(pa.array(AT) if zone is None else at.cast(pa.timestamp("us", zone)))
    pq.write_table(rows, tmp_path / "rows.parquet")

    assert figures(counted(tmp_path)) == (3, 1, 2, NEWEST)


def test_csv_and_times_in_seconds_give_the_same_counts(tmp_path: Path) -> None:
    seconds = [int(moment.replace(tzinfo=datetime.UTC).timestamp()) for moment in AT]
    pc.write_csv(events(pa.array(seconds)), tmp_path / "rows.csv")

    assert figures(counted(tmp_path, "*.csv", "seconds")) == (3, 1, 2, NEWEST)


def test_day_that_is_delivered_in_two_files_is_counted_twice(tmp_path: Path) -> None:
    rows = events()
    for name, order in (("a", [1, 2]), ("b", [2, 1]), ("c", [0])):
        (tmp_path / f"part={name}").mkdir()
        pq.write_table(rows.take(order), tmp_path / f"part={name}" / "rows.parquet")

    found = counted(tmp_path, "**/*.parquet")
    assert figures(found) == (4, 2, 0, None)
    assert "part=a/rows.parquet" in found.where


def test_repeats_are_counted_before_they_are_merged(tmp_path: Path) -> None:
    pq.write_table(events(), tmp_path / "rows.parquet")

    merge = {"by": ["user_id", "item_id", "at"], "keep": {"price": "max", "group": "max", "bought": "max"}}
    assert figures(counted(tmp_path, merge=merge))[:2] == (3, 1)


def test_day_without_events_has_none(tmp_path: Path) -> None:
    pq.write_table(events().slice(0, 1), tmp_path / "rows.parquet")

    assert figures(counted(tmp_path)) == (0, 0, 0, None)
