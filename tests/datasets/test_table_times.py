"""Every type of time that a file may hold means the same instant."""

import datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from recsys.errors import DataError
from recsys.features.plain_arrays import plain_numbers
from tests.datasets.small_table import feature, read_table

# Before 1970; in the hour that Berlin skips in spring; in the one that it has twice in autumn, both times; the last
# microsecond of a day.
MOMENTS = [
    datetime.datetime(1969, 7, 20, 20, 17, 40),
    datetime.datetime(2026, 3, 29, 1, 30),
    datetime.datetime(2026, 10, 25, 0, 30),
    datetime.datetime(2026, 10, 25, 1, 30),
]
EVERY = {"column": "fold", "train": [1], "validation": [2], "test": [3]}


def times(folder: Path, at: pa.Array, unit: str = "timestamp") -> list[datetime.datetime]:
    columns = {"at": at, "fold": [1, 1, 2, 3]}
    rows, _ = read_table(folder, columns, {"splits": EVERY, "time": {"column": "at", "unit": unit}})
    assert (rows["day"] == rows["at"].dt.normalize()).all()
    return [moment.to_pydatetime() for moment in rows["at"]]


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin", "+02:00", "America/St_Johns"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_every_unit_and_zone_of_a_timestamp_is_the_same_instant(tmp_path: Path, unit: str, zone: str | None) -> None:
    column = pa.array(MOMENTS).cast(pa.timestamp(unit))
    assert (
        times(
            tmp_path, column if zone is None else column.cast(pa.timestamp(unit, "UTC")).cast(pa.timestamp(unit, zone))
        )
        == MOMENTS
    )


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_what_pandas_writes_is_a_time(tmp_path: Path, zone: str | None) -> None:
    column = pd.Series(MOMENTS).astype("datetime64[ns]").dt.tz_localize("UTC").dt.tz_convert(zone)
    assert times(tmp_path, pa.Array.from_pandas(column)) == MOMENTS


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_nanoseconds_are_cut_off_and_never_reach_the_next_day(tmp_path: Path, zone: str | None) -> None:
    midnight = 1_767_225_600_000_000_000  # 2026-01-01
    nanoseconds = [-1, -1_000_000_000, 999, midnight - 1]
    expected = [
        datetime.datetime(1969, 12, 31, 23, 59, 59),
        datetime.datetime(1969, 12, 31, 23, 59, 59, 999_999),
        datetime.datetime(1970, 1, 1),
        datetime.datetime(2025, 12, 31, 23, 59, 59, 999_999),
    ]
    assert times(tmp_path, pa.array(nanoseconds, pa.timestamp("ns", zone))) == expected


def test_no_digit_of_nanoseconds_is_lost_by_dividing_them(tmp_path: Path) -> None:
    # So far from 1970 that a float no longer tells neighbouring microseconds' nanoseconds apart.
    first = 4_102_444_800_000_000_000
    nanoseconds = [first, first + 999, first + 1_000, first + 1_999]
    micros = [
        int((moment - datetime.datetime(1970, 1, 1)) / datetime.timedelta(microseconds=1))
        for moment in times(tmp_path, pa.array(nanoseconds, pa.timestamp("ns", "UTC")))
    ]
    assert micros == [nanosecond // 1000 for nanosecond in nanoseconds]


@pytest.mark.parametrize("form", [pa.date32(), pa.date64()])
def test_a_date_is_its_midnight(tmp_path: Path, form: pa.DataType) -> None:
    days = [
        datetime.date(1969, 12, 31),
        datetime.date(1970, 1, 1),
        datetime.date(2024, 2, 29),
        datetime.date(2026, 1, 1),
    ]
    assert times(tmp_path, pa.array(days).cast(form)) == [
        datetime.datetime.combine(day, datetime.time()) for day in days
    ]


@pytest.mark.parametrize(
    ("unit", "numbers"),
    [
        ("seconds", pa.array([-1, 0, 1, 2])),
        ("seconds", pa.array([-1.0, 0.0, 1.0, 2.0])),
        ("ms", pa.array([-1000, 0, 1000, 2000], pa.int32())),
        ("us", pa.array([-1_000_000, 0, 1_000_000, 2_000_000])),
        ("seconds", pa.array(["-1", "0", "1", "2"]).cast(pa.decimal128(12, 3))),
    ],
)
def test_numbers_are_times_by_their_unit(tmp_path: Path, unit: str, numbers: pa.Array) -> None:
    expected = [datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=second) for second in (-1, 0, 1, 2)]
    assert times(tmp_path, numbers, unit) == expected


def test_a_fraction_of_a_second_in_decimals_is_kept(tmp_path: Path) -> None:
    numbers = pa.array(["0.25", "0.5", "1.75", "2"]).cast(pa.decimal128(12, 3))
    assert [moment.microsecond for moment in times(tmp_path, numbers, "seconds")] == [250_000, 500_000, 750_000, 0]


def test_a_missing_time_stops(tmp_path: Path) -> None:
    column = pa.array([None, *MOMENTS[1:]]).cast(pa.timestamp("ns", "UTC"))
    with pytest.raises(DataError, match=r"column `at` holds no value .* in 1 of 4 rows; expected a time in every row"):
        times(tmp_path, column)


@pytest.mark.parametrize(
    "form", [pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("ns", "Europe/Berlin"), pa.date32()], ids=str
)
def test_a_time_is_a_dense_feature_in_seconds_as_for_a_served_model(tmp_path: Path, form: pa.DataType) -> None:
    seen = pa.array([0, 86_400, None, 172_800], pa.timestamp("s")).cast(form)
    features = [
        feature("user_id", "sparse"),
        feature("item_id", "sparse"),
        feature("seen_at", fill=0),
        feature("at_seconds"),
    ]
    rows, _ = read_table(tmp_path, {"seen_at": seen}, {"columns": {"at_seconds": "at"}}, features=features)

    assert rows["seen_at"].fillna(-1).tolist() == [0, 86_400, -1, 172_800]
    assert rows["seen_at"].dropna().tolist() == plain_numbers(seen, "").drop_null().to_pylist()
    assert rows["at_seconds"].tolist() == [0, 86_400, 172_800, 259_200]
