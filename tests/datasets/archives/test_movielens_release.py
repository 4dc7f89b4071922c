"""Releases in each of the publisher's layouts become the same three tables; a damaged one is refused by name."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.datasets.archives import movielens_release, unpack
from recsys.errors import DataError
from recsys.progress import silent
from tests.datasets.archives.releases import RATINGS, write_1m, write_100k, write_csv

Write = Callable[[Path], Path]


def read(raw: Path) -> dict[str, pa.Table]:
    """The tables by the names of their files, which are all that stays in the folder."""
    target = raw.parent / f"{raw.name}_tables"
    target.mkdir(parents=True)
    unpack("movielens", raw, target, silent)
    return {path.stem: pq.read_table(path) for path in sorted(target.iterdir())}


@pytest.mark.parametrize("write", [write_100k, write_1m, write_csv])
def test_ratings_are_whole_ids_stars_and_seconds_in_the_order_of_the_file(write: Write, tmp_path: Path) -> None:
    ratings = read(write(tmp_path / "ml"))["ratings"]

    half, backwards = 0.5 * (write is write_csv), write is write_100k
    expected = [(user, item, stars + half, second) for user, item, stars, second in RATINGS]
    assert [tuple(row.values()) for row in ratings.to_pylist()] == (expected[::-1] if backwards else expected)
    assert dict(zip(ratings.column_names, map(str, ratings.schema.types), strict=True)) == {
        "user_id": "int64",
        "item_id": "int64",
        "rating": "double",
        "seconds": "int64",
    }


def test_users_and_movies_are_told_as_far_as_the_layout_tells_them(tmp_path: Path) -> None:
    first, second, third = (read(write(tmp_path / write.__name__)) for write in (write_100k, write_1m, write_csv))

    assert first["users"].to_pylist()[1] == {
        "user_id": 2,
        "age": 25.0,
        "gender": "F",
        "occupation": "other",
        "zip": "T8H1N",
    }
    assert second["users"].column("occupation").to_pylist() == ["occupation_4", "occupation_0", "occupation_16"]
    assert set(third) == {"ratings", "movies"}
    both = ["Comedy", "Romance"]
    assert third["movies"].to_pylist() == [
        {
            "item_id": 7,
            "title_words": ["amélie", "or", "fate"],
            "release_year": 2001.0,
            "genres": both,
        },
        {"item_id": 8, "title_words": ["toy", "story"], "release_year": 1995.0, "genres": ["Animation"]},
        {"item_id": 9, "title_words": ["untitled"], "release_year": None, "genres": []},
    ]


def test_a_zip_and_a_folder_around_it_read_like_the_release_itself(tmp_path: Path) -> None:
    folder = write_100k(tmp_path / "ml-100k")
    around = tmp_path / "raw"
    around.mkdir()
    with zipfile.ZipFile(around / "ml-100k.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"../ml-100k/{path.name}")

    expected = read(folder)
    assert read(around) == expected
    assert read(around / "ml-100k.zip") == expected


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
def test_any_name_of_a_folder_is_just_a_name(write: Write, tmp_path: Path) -> None:
    (tmp_path / "user_id=5").mkdir()
    assert read(write(tmp_path / "user_id=5" / "[*] it's"))["ratings"].num_rows == len(RATINGS)


def test_another_header_is_refused(tmp_path: Path) -> None:
    folder = write_csv(tmp_path / "ml")
    text = (folder / "ratings.csv").read_text()
    (folder / "ratings.csv").write_text(text.replace("userId,movieId", "movieId,userId", 1))
    with pytest.raises(DataError, match=r"ratings.csv begins with 'movieId,userId.*expected 'userId,movieId,rating"):
        read(folder)


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


@pytest.mark.parametrize("user", ["1.5", "1152921504606846977.0", "1e3", "9223372036854775808", "-1", "0x1F", "x", ""])
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


@pytest.mark.parametrize("line", ["7,Heat", "7,Heat,Crime,too", "x,Heat,Crime"])
def test_a_movie_that_is_torn_is_refused_with_its_file(line: str, tmp_path: Path) -> None:
    folder = write_csv(tmp_path / "ml")
    (folder / "movies.csv").write_text(f"movieId,title,genres\n{line}\n")
    with pytest.raises(DataError, match=r"movies\.csv: .*unpack|Unpack the publisher's zip again"):
        read(folder)


def test_a_file_inside_a_zip_is_named_with_its_zip(tmp_path: Path) -> None:
    folder = write_100k(tmp_path / "ml")
    (folder / "u.data").write_text("1\t7\tgood\t100\n")
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"ml-100k/{path.name}")
    with pytest.raises(DataError, match=r"ml\.zip, ml-100k/u\.data cannot be read: .*'good'"):
        read(tmp_path / "ml.zip")


def test_a_zip_that_declares_too_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movielens_release, "_MOST_UNPACKED_BYTES", 1_000_000)
    with zipfile.ZipFile(tmp_path / "ml.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("u.data", "u.user", "u.item"):
            archive.writestr(name, b"0" * 500_000)
    with pytest.raises(DataError, match=r"ml\.zip declares 1500000 bytes of ratings, users and movies"):
        read(tmp_path / "ml.zip")
