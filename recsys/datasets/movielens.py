"""MovieLens releases as their publisher ships them: 100k, 1m, and the csv layout of 20m, 25m and the latest ones.

A release's folder or its zip is enough; the files in it show the layout. The label is a rating above 3, and the
splits are 80, 10 and 10 % of the ratings in global time order. What is counted of the past is *live history*: it
knows every rating of strictly earlier time.

Source: Harper and Konstan, "The MovieLens Datasets: History and Context" (ACM TiiS 5(4), 2015).
"""

import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import duckdb
import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.database import fetch_one, load, quoted, quoted_files, store, view
from recsys.datasets.history_features import CONTRIBUTES, MOMENT, ROW, HistoryFeature, HistoryKind, add_history
from recsys.datasets.movielens_layouts import LAYOUTS, Layout
from recsys.datasets.segments import earlier_count, segment_by_activity
from recsys.datasets.source import DAY, SPLIT, TEST, TRAIN, VALIDATION, SourceRows
from recsys.errors import DataError, UsageError
from recsys.features.schema import FeatureSchema
from recsys.files import sha256_of_file
from recsys.progress import Progress

AGE_SEGMENTS = ("under_25", "25_34", "35_plus")
ACTIVITY_SEGMENTS: Mapping[str, int] = MappingProxyType({"new": 0, "light": 1, "regular": 20, "heavy": 100})
"""Segments where the release tells no ages: by the user's ratings at strictly earlier times."""

HISTORY = (
    HistoryFeature("recent_item_ids", HistoryKind.RECENT, ("user_id",), of="item_id", length=20),
    HistoryFeature("item_mean", HistoryKind.MEAN, ("item_id",), of="label", prior_rows=10),
    HistoryFeature("item_rows", HistoryKind.COUNT, ("item_id",)),
    HistoryFeature("user_mean", HistoryKind.MEAN, ("user_id",), of="label", prior_rows=10),
    HistoryFeature("user_rows", HistoryKind.COUNT, ("user_id",)),
    HistoryFeature("user_genre_mean", HistoryKind.MEAN, ("user_id", "genres"), of="label", prior_rows=20),
)
"""What is counted of the past, for those features that the schema declares."""

_TRAIN_SHARE, _VALIDATION_SHARE = 0.8, 0.1
_IDS = ("user_id", "item_id")
_HEADER = "userId,movieId,rating,timestamp"
# The largest release unpacks to 1.2 GB of what is read; a zip that declares far more is none of them.
_MOST_UNPACKED_BYTES = 8 << 30


@dataclass(frozen=True)
class MovielensSource:
    """Reads a release from its folder, from a folder that holds it or its zip, or from the zip itself."""

    raw: Path

    def read(self, connection: Backend, schema: FeatureSchema, progress: Progress) -> SourceRows:
        """Return one row per rating; see `Source.read`."""
        origin, layout = _find(self.raw)
        _require_segments(schema, layout)
        progress("reading ratings", 0, 0)
        with _unpacked(origin, layout) as folder:
            table = _joined(connection, folder, layout)
            digests = {f"{layout.name}/{name}": sha256_of_file(folder / name) for name in layout.files}
        rows = store(connection, "movielens_rows", _shaped(table, layout))
        rows = add_history(
            connection,
            rows,
            [feature for feature in HISTORY if feature.name in {declared.name for declared in schema.features}],
            schema.label,
            progress,
        )
        return SourceRows(
            rows=rows,
            extras=("user_key",),
            description={"source": "movielens", "layout": layout.name, "history": "live", "files": digests},
        )


def _find(raw: Path) -> tuple[Path, Layout]:
    """The release's folder or zip, and its layout."""
    inside = sorted(raw.iterdir()) if raw.is_dir() else []
    for place in (raw, *inside):
        if place.is_dir():
            names = {path.name for path in place.iterdir()}
        elif place.suffix == ".zip":
            names = {PurePosixPath(name).name for name in _members(place)}
        else:
            continue
        for layout in LAYOUTS:
            if set(layout.files) <= names:
                return place, layout
    expected = " or ".join(", ".join(layout.files) for layout in LAYOUTS)
    found = ", ".join(path.name for path in inside[:10]) or ("nothing" if raw.is_dir() else "no such folder or zip")
    raise DataError(
        f"{raw} holds no MovieLens release (found: {found}). Expected the files {expected}, or the publisher's zip: "
        "`recsys fetch movielens-100k`."
    )


def _members(path: Path) -> dict[str, int]:
    """Names of a zip's members with their declared sizes."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {member.filename: member.file_size for member in archive.infolist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as a zip ({error}). Remove it and fetch it again.") from error


@contextmanager
def _unpacked(origin: Path, layout: Layout) -> Iterator[Path]:
    """Yield a folder with the layout's files; those of a zip are unpacked for the time of reading."""
    if origin.is_dir():
        yield origin
        return
    members = {PurePosixPath(name).name: name for name in _members(origin)}
    size = sum(_members(origin)[members[name]] for name in layout.files)
    if size > _MOST_UNPACKED_BYTES:
        raise DataError(
            f"{origin} declares {size} bytes of ratings, users and movies; expected at most {_MOST_UNPACKED_BYTES}. "
            "This is no MovieLens release: fetch it from its publisher."
        )
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(origin) as archive:
        try:
            for name in layout.files:
                # Under the plain name, never the member's: a member's path could lead out of the folder.
                Path(folder, name).write_bytes(archive.read(members[name]))
        except zipfile.BadZipFile as error:
            raise DataError(f"{origin}: {error}. The zip is torn: remove it and fetch it again.") from error
        yield Path(folder)


def _require_segments(schema: FeatureSchema, layout: Layout) -> None:
    expected = AGE_SEGMENTS if layout.users else tuple(ACTIVITY_SEGMENTS)
    if schema.segments != expected:
        name = "movielens" if layout.users else "movielens_csv"
        raise UsageError(
            f"Schema `{schema.name}` declares the segments {', '.join(schema.segments)}, but a MovieLens release in "
            f"layout {layout.name} has {', '.join(expected)}. Set `data.schema_path` to data/schemas/{name}.yaml."
        )


def _joined(connection: Backend, folder: Path, layout: Layout) -> ir.Table:
    """Ratings beside their user and movie, in a table of the database."""
    path = folder / layout.ratings
    header = path.open(encoding="utf-8-sig").readline().strip() if layout.has_header else _HEADER
    if header != _HEADER:
        raise DataError(f"{path} begins with {header!r}; expected {_HEADER!r}. Unpack the publisher's zip again.")
    columns = "{'user_id': 'VARCHAR', 'item_id': 'VARCHAR', 'rating': 'DOUBLE', 'seconds': 'BIGINT'}"
    rows = (
        f"read_csv({quoted_files([path])}, delim={quoted(layout.delimiter)}, header={layout.has_header}, "
        f"columns={columns}, hive_partitioning=false, auto_detect=false)"
    )
    try:
        ratings = view(connection, "movielens_file", f"SELECT * FROM {rows}")
        # Read as text and checked: as a number, DuckDB takes the id 1.5 for 2.
        ratings = store(connection, "movielens_ratings", ratings.mutate(**{n: _whole(ratings[n]) for n in _IDS}))
    except duckdb.Error as error:
        raise DataError(
            f"{path} cannot be read: {str(error).splitlines()[0]}. Expected user, item, rating and seconds since 1970 "
            f"between {layout.delimiter!r}: unpack the publisher's zip again."
        ) from error
    if not fetch_one(connection, ratings.aggregate(rows=ratings.count()))["rows"]:
        raise DataError(f"{path} holds no ratings (0 rows). Unpack the publisher's zip again.")
    users = load(connection, "movielens_users", layout.read_users(folder / layout.users))
    movies = load(connection, "movielens_movies", layout.read_movies(folder / layout.movies))
    joined = ratings.left_join(users, "user_id").drop("user_id_right")
    return joined.left_join(movies, "item_id").drop("item_id_right")


def _whole(text: ir.StringValue) -> ir.IntegerValue:
    """The number that the text is; text that is none becomes an error of the cast, which names it."""
    return text.re_search(r"^\d+$").ifelse(text, ibis.literal("id ") + text).cast("int64")


def _shaped(table: ir.Table, layout: Layout) -> ir.Table:
    moment = (table["seconds"] * 1_000_000).name("moment")
    time = table["seconds"].as_timestamp("s").cast("timestamp(6)")
    # Cut by position, not by time: the shares are exact, and one second's ratings may lie on both sides.
    position = ibis.row_number().over(order_by=[table["seconds"], table["user_id"], table["item_id"]])
    share = position / table.count().over()
    split = ibis.cases(
        (share < _TRAIN_SHARE, TRAIN), (share < _TRAIN_SHARE + _VALIDATION_SHARE, VALIDATION), else_=TEST
    )
    if layout.users:
        bounds = zip((25, 35), AGE_SEGMENTS, strict=False)
        # A rating by somebody whom the user table lacks has no age, and so no segment: the check of the rows says so.
        unknown = (table["age"].isnull(), ibis.null("string"))
        by_age = ((table["age"] < bound, name) for bound, name in bounds)
        segment = ibis.cases(unknown, *by_age, else_=AGE_SEGMENTS[-1])
    else:
        segment = segment_by_activity(earlier_count(table["user_id"], table["seconds"]), ACTIVITY_SEGMENTS)
    empty = ibis.literal([], type="array<string>")
    return table.select(
        "user_id",
        "item_id",
        "age",
        "gender",
        "occupation",
        "release_year",
        zip_prefix=table["zip"].substr(0, 3),
        genres=table["genres"].fill_null(empty),
        title_words=table["title_words"].fill_null(empty),
        segment=segment,
        label=(table["rating"] > 3).cast("int8"),
        time=time,
        user_key=table["user_id"],
        **{SPLIT: split, DAY: time.date(), ROW: position, MOMENT: moment, CONTRIBUTES: ibis.literal(True)},
    )
