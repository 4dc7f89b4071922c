"""MovieLens releases as their publisher ships them: 100k, 1m, and the csv layout of 20m, 25m and the latest ones.

A release's folder or its zip is enough; the files in it show the layout. The label is a rating above 3, and the
splits are 80, 10 and 10 % of the ratings in global time order. What is counted of the past is *live history*: it
knows every rating of strictly earlier time.

Source: Harper and Konstan, "The MovieLens Datasets: History and Context" (ACM TiiS 5(4), 2015).
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from recsys.datasets.archives.movielens_release import unpack_release
from recsys.datasets.database import folder_of, parquet_rows, store, view
from recsys.datasets.history_features import CONTRIBUTES, MOMENT, ROW, HistoryFeature, HistoryKind, add_history
from recsys.datasets.segments import earlier_count, segment_by_activity
from recsys.datasets.source import DAY, SPLIT, TEST, TRAIN, VALIDATION, SourceRows
from recsys.errors import UsageError
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


@dataclass(frozen=True)
class MovielensSource:
    """Reads a release from its folder, from a folder that holds it or its zip, or from the zip itself."""

    raw: Path

    def read(self, connection: Backend, schema: FeatureSchema, progress: Progress) -> SourceRows:
        """Return one row per rating; see `Source.read`."""
        with tempfile.TemporaryDirectory(dir=folder_of(connection)) as unpacked:
            folder = Path(unpacked)
            unpack_release(self.raw, folder, progress)
            has_users = (folder / "users.parquet").exists()
            _require_segments(schema, has_users)
            digests = {path.name: sha256_of_file(path) for path in sorted(folder.iterdir())}
            rows = store(connection, "movielens_rows", _shaped(_joined(connection, folder), has_users))
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
            description={"source": "movielens", "history": "live", "files": digests},
        )


def _require_segments(schema: FeatureSchema, has_users: bool) -> None:
    expected = AGE_SEGMENTS if has_users else tuple(ACTIVITY_SEGMENTS)
    if schema.segments != expected:
        name = "movielens" if has_users else "movielens_csv"
        raise UsageError(
            f"Schema `{schema.name}` declares the segments {', '.join(schema.segments)}, but this MovieLens release "
            f"has {', '.join(expected)}. Set `data.schema_path` to data/schemas/{name}.yaml."
        )


def _joined(connection: Backend, folder: Path) -> ir.Table:
    """Ratings beside their user and movie."""
    table = view(connection, "movielens_ratings", f"SELECT * FROM {parquet_rows([folder / 'ratings.parquet'])}")
    for name, key in (("users", "user_id"), ("movies", "item_id")):
        if (file := folder / f"{name}.parquet").exists():
            side = view(connection, f"movielens_{name}", f"SELECT * FROM {parquet_rows([file])}")
            table = table.left_join(side, key).drop(f"{key}_right")
    return table


def _shaped(table: ir.Table, has_users: bool) -> ir.Table:
    moment = (table["seconds"] * 1_000_000).name("moment")
    time = table["seconds"].as_timestamp("s").cast("timestamp(6)")
    # Cut by position, not by time: the shares are exact, and one second's ratings may lie on both sides.
    position = ibis.row_number().over(order_by=[table["seconds"], table["user_id"], table["item_id"]])
    share = position / table.count().over()
    split = ibis.cases(
        (share < _TRAIN_SHARE, TRAIN), (share < _TRAIN_SHARE + _VALIDATION_SHARE, VALIDATION), else_=TEST
    )
    if has_users:
        bounds = zip((25, 35), AGE_SEGMENTS, strict=False)
        # A rating by somebody whom the user table lacks has no age, and so no segment: the check of the rows says so.
        unknown = (table["age"].isnull(), ibis.null("string"))
        by_age = ((table["age"] < bound, name) for bound, name in bounds)
        segment = ibis.cases(unknown, *by_age, else_=AGE_SEGMENTS[-1])
    else:
        segment = segment_by_activity(earlier_count(table["user_id"], table["seconds"]), ACTIVITY_SEGMENTS)
    empty = ibis.literal([], type="array<string>")
    of_users = {name: table[name] for name in ("age", "gender", "occupation") if has_users}
    return table.select(
        "user_id",
        "item_id",
        "release_year",
        **of_users,
        **({"zip_prefix": table["zip"].substr(0, 3)} if has_users else {}),
        genres=table["genres"].fill_null(empty),
        title_words=table["title_words"].fill_null(empty),
        segment=segment,
        label=(table["rating"] > 3).cast("int8"),
        time=time,
        user_key=table["user_id"],
        **{SPLIT: split, DAY: time.date(), ROW: position, MOMENT: moment, CONTRIBUTES: ibis.literal(True)},
    )
