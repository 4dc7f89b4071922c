"""The three layouts in which MovieLens releases come: which files, and how users and movies are written in them."""

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from recsys.errors import DataError

# Order of the 19 flags that end a line of `u.item` (file `u.genre` of the release).
_GENRES_100K = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
_TITLE_YEAR = re.compile(r"^(?P<title>.*?)\s*\((?P<year>\d{4})\)\s*$")
_WORD = re.compile(r"\w+")

_USER_SCHEMA = pa.schema(
    {"user_id": pa.int64(), "age": pa.float32(), "gender": pa.string(), "occupation": pa.string(), "zip": pa.string()}
)
_MOVIE_SCHEMA = pa.schema(
    {
        "item_id": pa.int64(),
        "title_words": pa.list_(pa.string()),
        "release_year": pa.float32(),
        "genres": pa.list_(pa.string()),
    }
)


@dataclass(frozen=True)
class ReleaseFile:
    """A file to read, and where the user finds it: its own path, or the zip and its name in there."""

    path: Path
    shown: str


@dataclass(frozen=True)
class Layout:
    """One of the publisher's layouts; files are named relative to the release's folder.

    Attributes:
        ratings: user, item, rating (half stars or whole), seconds since 1970, in this order.
        users: empty where the release has no user table; then `read_users` is None.
        read_users, read_movies: one file -> an Arrow table.
    """

    name: str
    ratings: str
    users: str
    movies: str
    delimiter: str
    has_header: bool
    read_users: Callable[[ReleaseFile], pa.Table] | None
    read_movies: Callable[[ReleaseFile], pa.Table]

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that is read."""
        return tuple(filter(None, (self.ratings, self.users, self.movies)))


def _users_100k(file: ReleaseFile) -> pa.Table:
    fields = _fields(file, "|", 5, "latin-1")
    return _table(
        file,
        _USER_SCHEMA,
        ((int(user), float(age), gender, work, zip_code) for user, age, gender, work, zip_code in fields),
    )


def _users_1m(file: ReleaseFile) -> pa.Table:
    fields = _fields(file, "::", 5, "latin-1")
    return _table(
        file,
        _USER_SCHEMA,
        ((int(user), float(age), gender, f"occupation_{work}", code) for user, gender, age, work, code in fields),
    )


def _movies_100k(file: ReleaseFile) -> pa.Table:
    rows = _fields(file, "|", 5 + len(_GENRES_100K), "latin-1")
    return _table(
        file,
        _MOVIE_SCHEMA,
        (
            (
                int(row[0]),
                *_words_and_year(row[1]),
                [name for name, flag in zip(_GENRES_100K, row[5:], strict=True) if int(flag)],
            )
            for row in rows
        ),
    )


def _movies_1m(file: ReleaseFile) -> pa.Table:
    rows = _fields(file, "::", 3, "latin-1")
    movies = ((int(row[0]), *_words_and_year(row[1]), row[2].split("|")) for row in rows)
    return _table(file, _MOVIE_SCHEMA, movies)


def _movies_csv(file: ReleaseFile) -> pa.Table:
    with file.path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, restkey="")
        names = reader.fieldnames or ()
        if missing := [name for name in ("movieId", "title", "genres") if name not in names]:
            raise DataError(
                f"{file.shown}: column `{missing[0]}` is missing; found {', '.join(names)}. Expected the publisher's "
                "movieId, title, genres: unpack the release again."
            )
        return _table(file, _MOVIE_SCHEMA, (_movie_csv(row) for row in reader))


def _movie_csv(row: dict[str, Any]) -> tuple[Any, ...]:
    if None in row.values() or "" in row:
        raise ValueError(f"the row of movie {row['movieId']!r} has too few or too many fields")
    # The publisher writes "(no genres listed)" for none.
    genres = [] if row["genres"].startswith("(") else row["genres"].split("|")
    return int(row["movieId"]), *_words_and_year(row["title"]), genres


def _words_and_year(title: str) -> tuple[list[str], float | None]:
    match = _TITLE_YEAR.match(title)
    text, year = (match["title"], float(match["year"])) if match else (title, None)
    return [word.lower() for word in _WORD.findall(text)], year


def _fields(file: ReleaseFile, delimiter: str, count: int, encoding: str) -> Iterator[list[str]]:
    for number, line in enumerate(file.path.read_text(encoding=encoding).splitlines(), start=1):
        if not line:
            continue
        fields = line.split(delimiter)
        if len(fields) != count:
            raise DataError(
                f"{file.shown}, line {number}: {len(fields)} fields between `{delimiter}`; expected {count}. The file "
                "is torn or from another release: unpack the publisher's zip again."
            )
        yield fields


def _table(file: ReleaseFile, schema: pa.Schema, rows: Iterator[tuple[Any, ...]]) -> pa.Table:
    try:
        columns = list(zip(*rows, strict=True))
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"{file.shown}: {error}; expected a row of the release's table. Unpack the publisher's zip again."
        ) from error
    if not columns:
        raise DataError(f"{file.shown} holds no rows; expected the release's table. Unpack the publisher's zip again.")
    return pa.table(
        [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


LAYOUTS = (
    Layout("100k", "u.data", "u.user", "u.item", "\t", False, _users_100k, _movies_100k),
    Layout("1m", "ratings.dat", "users.dat", "movies.dat", "::", False, _users_1m, _movies_1m),
    Layout("csv", "ratings.csv", "", "movies.csv", ",", True, None, _movies_csv),
)
