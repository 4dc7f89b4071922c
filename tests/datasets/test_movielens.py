"""The rows of small releases in each of the publisher's layouts."""

from pathlib import Path

import pandas as pd
import pytest

from recsys.datasets.database import temporary_database
from recsys.datasets.staging import stage
from recsys.features.schema import load_schema
from recsys.progress import silent
from tests.datasets.archives.releases import SCHEMAS, release_source, write_1m, write_100k, write_csv


def read(raw: Path, schema_name: str = "movielens") -> pd.DataFrame:
    """The rows as `encode` would see them, in time order."""
    schema = load_schema(SCHEMAS / f"{schema_name}.yaml")
    with temporary_database(raw.parent, "500MB", 1) as connection:
        rows = stage(connection, release_source(raw, schema_name).read(connection, schema, silent), schema).table
        return connection.con.sql(connection.compile(rows)).df().sort_values("time", ignore_index=True)


def test_the_first_layout_is_read_with_its_users_and_movies(tmp_path: Path) -> None:
    rows = read(write_100k(tmp_path / "ml"))

    assert rows["label"].tolist() == [1, 0, 1, 0, 0, 1, 1, 1, 0, 1]
    assert rows["segment"].tolist()[:6] == ["under_25", "under_25", "25_34", "25_34", "35_plus", "35_plus"]
    assert rows["genres"][0].tolist() == ["Comedy", "Romance"]
    assert rows["title_words"][0].tolist() == ["amélie"]
    assert rows["zip_prefix"][2] == "T8H"
    assert rows["release_year"][0] == 2001
    assert rows["release_year"].isna()[6], "movie 9 has no year in its title"


def test_ratings_are_split_80_10_10_in_time_order(tmp_path: Path) -> None:
    assert read(write_100k(tmp_path / "ml"))["split"].tolist() == ["train"] * 8 + ["validation", "test"]


def test_history_counts_strictly_earlier_ratings_alone(tmp_path: Path) -> None:
    rows = read(write_100k(tmp_path / "ml"))

    assert rows["user_rows"].tolist() == [0, 1, 0, 1, 0, 1, 2, 2, 2, 3]
    assert rows["item_rows"].tolist() == [0, 0, 1, 1, 2, 2, 0, 1, 2, 3]
    # User 1 liked movie 7 at second 100 and movie 9 at second 106.
    assert rows["recent_item_ids"][9].tolist() == [7, 9]
    # Last row: movie 7 was liked by two of three, and 5 of all 9 ratings were likes: (2 + 10 * 5/9) / (3 + 10).
    assert rows["item_mean"][9] == pytest.approx((2 + 10 * 5 / 9) / 13)


def test_the_second_layout_gives_the_same_labels_and_segments_as_the_first(tmp_path: Path) -> None:
    first, second = read(write_100k(tmp_path / "a")), read(write_1m(tmp_path / "b"))

    assert second[["user_id", "item_id", "label", "segment", "split"]].equals(
        first[["user_id", "item_id", "label", "segment", "split"]]
    )
    assert second["genres"][0].tolist() == ["Comedy", "Romance"]
    assert second["occupation"][0] == "occupation_4"


def test_the_csv_layout_has_segments_by_past_activity(tmp_path: Path) -> None:
    rows = read(write_csv(tmp_path / "ml"), "movielens_csv")

    # Ratings above 3: 3.5 counts.
    assert rows["label"].tolist() == [1, 1, 1, 0, 0, 1, 1, 1, 1, 1]
    assert rows["segment"].tolist() == ["new", "light", "new", "light", "new", *["light"] * 5]
    assert rows["title_words"][0].tolist() == ["amélie", "or", "fate"]
    assert rows["genres"][6].tolist() == []
