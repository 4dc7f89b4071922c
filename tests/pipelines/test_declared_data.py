"""Archives behind `data.raw` are unpacked once, and dates of the configuration take the place of the schema's."""

import os
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.config import RunConfig
from recsys.config.compose import compose_config
from recsys.errors import DataError, UsageError
from recsys.progress import silent
from recsys.run import prepare
from tests.datasets.archives.releases import RATINGS, write_100k, write_csv
from tests.datasets.made_up_shop import LINE_COLUMNS, shop_lines


def configured(folder: Path, *words: str) -> RunConfig:
    return compose_config([f"data.raw={folder}/raw", f"runtime.encoded={folder}/encoded", *words])


def test_a_release_becomes_tables_once_until_it_changes(tmp_path: Path) -> None:
    config = configured(tmp_path, "data=movielens")
    assert prepare.prepared(config) is None
    raw = write_100k(tmp_path / "raw")

    first = prepare.raw_folder(config, silent)
    assert {path.name for path in first.iterdir()} == {"ratings.parquet", "users.parquet", "movies.parquet"}
    before = os.stat(first / "ratings.parquet").st_mtime_ns
    assert prepare.raw_folder(config, silent) == first
    assert os.stat(first / "ratings.parquet").st_mtime_ns == before

    (raw / "u.data").write_text("1\t7\t3\t100\n")
    assert pq.read_table(prepare.raw_folder(config, silent) / "ratings.parquet").num_rows == 1


def test_a_release_without_users_is_refused_with_the_schema_that_it_has(tmp_path: Path) -> None:
    write_csv(tmp_path / "raw")
    with pytest.raises(DataError, match=r"raw: this release tells nothing of its users .*movielens_csv\.yaml"):
        prepare.raw_folder(configured(tmp_path, "data=movielens"), silent)

    words = ["data=movielens", "data.schema_path=data/schemas/movielens_csv.yaml"]
    ratings = pq.read_table(prepare.raw_folder(configured(tmp_path, *words), silent) / "ratings.parquet")
    assert ratings.num_rows == len(RATINGS)


def write_lines(folder: Path) -> None:
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(shop_lines(), schema=LINE_COLUMNS), folder / "transactions.parquet")


def test_a_folder_that_has_the_tables_files_is_read_as_it_is_whatever_lies_beside_them(tmp_path: Path) -> None:
    write_lines(tmp_path / "raw")
    with zipfile.ZipFile(tmp_path / "raw" / "online+retail+ii.zip", "w") as archive:
        archive.writestr("letter.txt", "x")

    assert prepare.raw_folder(configured(tmp_path, "data=online_retail"), silent) == tmp_path / "raw"


def test_a_parquet_file_may_be_named_itself(tmp_path: Path) -> None:
    write_lines(tmp_path / "raw")
    config = configured(tmp_path, "data=online_retail", f"data.raw={tmp_path}/raw/transactions.parquet")

    assert pq.read_table(prepare.raw_folder(config, silent) / "transactions.parquet").num_rows == len(shop_lines())


def dates_of(config: RunConfig) -> dict[str, str]:
    splits = prepare.table_layout(config.data).splits
    return {name: str(moment) for name, moment in splits.dates.items()}


def test_dates_that_are_given_take_the_place_of_the_schemas_and_go_along_in_its_text() -> None:
    assert dates_of(compose_config(["data=online_retail"])) == {
        "train_start": "2010-03-01 00:00:00",
        "validation_start": "2011-07-01 00:00:00",
        "test_start": "2011-08-15 00:00:00",
        "test_end": "2011-10-01 00:00:00",
    }
    config = compose_config(["data=online_retail", "data.test_end=2011-09-01"])
    assert dates_of(config)["test_end"] == "2011-09-01 00:00:00"
    assert dates_of(config)["test_start"] == "2011-08-15 00:00:00"
    assert "2011-09-01" in prepare.table_layout(config.data).text


def test_shares_in_the_order_of_time_may_give_way_to_dates() -> None:
    dates = ["data.validation_start=1998-01-01", "data.test_start=1998-03-01"]
    assert dates_of(compose_config(["data=movielens", *dates])) == {
        "train_start": "None",
        "validation_start": "1998-01-01 00:00:00",
        "test_start": "1998-03-01 00:00:00",
        "test_end": "None",
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data=online_retail", "data.test_start=2011-06-01"], "with the dates of `data`.*must rise"),
        (["data=online_retail", "data.test_end=2011-02-30"], "expected a UTC date or time"),
        (["data=movielens", "data.test_end=1998-01-01"], "validation_start"),
        (["data=ml_100k", "data.test_end=1998-01-01"], r"`data\.test_end` is a date to split by.*in another way"),
    ],
)
def test_dates_that_cannot_be_meant_are_refused(words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){told}"):
        prepare.table_layout(compose_config(words).data)
