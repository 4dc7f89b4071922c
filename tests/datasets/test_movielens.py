"""Small releases in each of the publisher's layouts."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from recsys.datasets.database import temporary_database
from recsys.datasets.movielens import MovielensSource
from recsys.datasets.staging import stage
from recsys.errors import DataError, UsageError
from recsys.features.schema import load_schema
from recsys.progress import silent

SCHEMAS = Path(__file__).parents[2] / "data" / "schemas"

# Ten ratings, one a second: the first eight are train, the ninth validation, the tenth test.
RATINGS = [
    (1, 7, 5, 100),
    (1, 8, 3, 101),
    (2, 7, 4, 102),
    (2, 8, 2, 103),
    (3, 7, 1, 104),
    (3, 8, 5, 105),
    (1, 9, 4, 106),
    (2, 9, 4, 107),
    (3, 9, 3, 108),
    (1, 7, 4, 109),
]


def flags(*places: int) -> str:
    return "|".join("1" if place in places else "0" for place in range(19))


def write_100k(folder: Path, ratings: list[tuple[int, int, int, int]] = RATINGS) -> Path:
    folder.mkdir()
    # The publisher's file is in no order; the source must find time order itself.
    lines = ["\t".join(map(str, row)) for row in reversed(ratings)]
    (folder / "u.data").write_text("\n".join(lines) + "\n")
    (folder / "u.user").write_text("1|24|M|technician|85711\n2|25|F|other|T8H1N\n3|35|M|writer|32067\n")
    movies = [
        f"7|Amélie (2001)|01-Jan-2001||http://x|{flags(5, 14)}",
        f"8|Toy Story (1995)|01-Jan-1995||http://x|{flags(3)}",
        f"9|unknown||||{flags(0)}",
    ]
    (folder / "u.item").write_bytes(("\n".join(movies) + "\n").encode("latin-1"))
    return folder


def write_1m(folder: Path) -> Path:
    folder.mkdir()
    (folder / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in RATINGS))
    (folder / "users.dat").write_text("1::M::18::4::85711\n2::F::25::0::55117\n3::M::56::16::32067\n")
    movies = "7::Amélie (2001)::Comedy|Romance\n8::Toy Story (1995)::Animation\n9::Heat (1995)::Crime\n"
    (folder / "movies.dat").write_bytes(movies.encode("latin-1"))
    return folder


def write_csv(folder: Path, ratings: list[tuple[int, int, int, int]] = RATINGS) -> Path:
    folder.mkdir()
    rows = "".join(f"{user},{item},{rating}.5,{time}\n" for user, item, rating, time in ratings)
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
    movies = '7,"Amélie, or Fate (2001)",Comedy|Romance\n8,Toy Story (1995),Animation\n9,Untitled,(no genres listed)\n'
    (folder / "movies.csv").write_text("movieId,title,genres\n" + movies, encoding="utf-8")
    return folder


def read(raw: Path, schema_name: str = "movielens") -> pd.DataFrame:
    """The rows as `encode` would see them, in time order."""
    schema = load_schema(SCHEMAS / f"{schema_name}.yaml")
    with temporary_database(raw.parent, "500MB", 1) as connection:
        rows = stage(connection, MovielensSource(raw).read(connection, schema, silent), schema).table
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


def test_a_zip_and_a_folder_around_it_read_like_the_release_itself(tmp_path: Path) -> None:
    folder = write_100k(tmp_path / "ml-100k")
    around = tmp_path / "raw"
    around.mkdir()
    with zipfile.ZipFile(around / "ml-100k.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"ml-100k/{path.name}")

    expected = read(folder)
    pd.testing.assert_frame_equal(read(around / "ml-100k.zip"), expected)
    pd.testing.assert_frame_equal(read(around), expected)


def test_a_folder_without_a_release_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "u.data").write_text("")
    with pytest.raises(DataError, match=r"holds no MovieLens release \(found: u.data\).*recsys fetch movielens-100k"):
        read(tmp_path / "raw")


def test_a_torn_zip_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "ml.zip").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(DataError, match=r"ml.zip cannot be read as a zip"):
        read(tmp_path / "ml.zip")


@pytest.mark.parametrize("write", [write_100k, write_1m])
def test_any_name_of_a_folder_is_just_a_name(write: Callable[[Path], Path], tmp_path: Path) -> None:
    (tmp_path / "user_id=5").mkdir()
    assert read(write(tmp_path / "user_id=5" / "[*] it's"))["user_id"].nunique() == 3


def test_another_header_is_refused(tmp_path: Path) -> None:
    folder = write_csv(tmp_path / "ml")
    text = (folder / "ratings.csv").read_text()
    (folder / "ratings.csv").write_text(text.replace("userId,movieId", "movieId,userId", 1))
    with pytest.raises(DataError, match=r"ratings.csv begins with 'movieId,userId.*expected 'userId,movieId,rating"):
        read(folder, "movielens_csv")


def test_a_torn_line_is_refused_with_file_and_line(tmp_path: Path) -> None:
    folder = write_100k(tmp_path / "ml")
    (folder / "u.user").write_text("1|24|M|technician|85711\n2|25|F\n")
    with pytest.raises(DataError, match=r"u.user, line 2: 3 fields between `\|`; expected 5"):
        read(folder)


def test_a_word_in_place_of_a_rating_is_refused_with_its_file(tmp_path: Path) -> None:
    folder = write_100k(tmp_path / "ml")
    (folder / "u.data").write_text("1\t7\tgood\t100\n")
    with pytest.raises(DataError, match=r"u.data cannot be read.*unpack the publisher's zip again"):
        read(folder)


@pytest.mark.parametrize("user", ["1.5", "1152921504606846977.0", "1e3", "9223372036854775808", "-1", "x"])
def test_a_user_that_is_no_whole_number_is_refused_where_a_cast_would_round_it(user: str, tmp_path: Path) -> None:
    folder = write_100k(tmp_path / "ml")
    (folder / "u.data").write_text(f"{user}\t7\t3\t100\n")
    with pytest.raises(DataError, match=rf"u\.data cannot be read.*{user}"):
        read(folder)


def test_an_empty_ratings_file_is_refused(tmp_path: Path) -> None:
    folder = write_100k(tmp_path / "ml")
    (folder / "u.data").write_text("")
    with pytest.raises(DataError, match=r"u\.data"):
        read(folder)


def test_the_schema_of_another_layout_is_refused_with_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"layout csv has new, light, regular, heavy.*movielens_csv.yaml"):
        read(write_csv(tmp_path / "ml"), "movielens")
