"""MovieLens releases as their publisher ships them: 100k, 1m, and the csv layout of 20m, 25m and the latest ones.

A release's folder or its zip is enough; the files in it show the layout.

Source: Harper and Konstan, "The MovieLens Datasets: History and Context" (ACM TiiS 5(4), 2015).
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from recsys.datasets.archives.release_layouts import LAYOUTS, Layout, ReleaseFile
from recsys.datasets.archives.zip_members import extract_member, member_sizes
from recsys.errors import DataError
from recsys.progress import Progress

RATINGS_SCHEMA = pa.schema(
    {"user_id": pa.int64(), "item_id": pa.int64(), "rating": pa.float64(), "seconds": pa.int64()}
)
"""Columns of `ratings.parquet`; `seconds` since 1970."""

_IDS = ("user_id", "item_id")
_HEADER = "userId,movieId,rating,timestamp"
# The largest release unpacks to 1.2 GB of what is read; a zip that declares far more is none of them.
_MOST_UNPACKED_BYTES = 8 << 30
_BLOCK_BYTES = 16 << 20


def unpack_release(raw: Path, target: Path, progress: Progress) -> None:
    """Write `ratings.parquet`, `movies.parquet` and, where the release tells who its users are, `users.parquet`.

    Args:
        raw: the release's folder or zip, or a folder that holds one of them.

    Raises:
        DataError: there is no release, or a file of it is damaged.
    """
    origin, layout = _find(raw)
    with _files(origin, layout, target) as files:
        _write_ratings(files[layout.ratings], layout, target / "ratings.parquet", progress)
        if layout.read_users:
            pq.write_table(layout.read_users(files[layout.users]), target / "users.parquet")
        pq.write_table(layout.read_movies(files[layout.movies]), target / "movies.parquet")


def _find(raw: Path) -> tuple[Path, Layout]:
    """The release's folder or zip, and its layout."""
    inside = sorted(raw.iterdir()) if raw.is_dir() else []
    for place in (raw, *inside):
        if place.is_dir():
            names = {path.name for path in place.iterdir()}
        elif place.suffix == ".zip":
            names = {PurePosixPath(name).name for name in member_sizes(place)}
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


@contextmanager
def _files(origin: Path, layout: Layout, scratch: Path) -> Iterator[dict[str, ReleaseFile]]:
    """Yield the layout's files by name; those of a zip are unpacked below `scratch` for the time of reading."""
    if origin.is_dir():
        yield {name: ReleaseFile(origin / name, str(origin / name)) for name in layout.files}
        return
    sizes = member_sizes(origin)
    members = {PurePosixPath(name).name: name for name in sizes}
    size = sum(sizes[members[name]] for name in layout.files)
    if size > _MOST_UNPACKED_BYTES:
        raise DataError(
            f"{origin} declares {size} bytes of ratings, users and movies; expected at most {_MOST_UNPACKED_BYTES}. "
            "This is no MovieLens release: fetch it from its publisher."
        )
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        for name in layout.files:
            extract_member(origin, members[name], Path(folder, name))
        yield {name: ReleaseFile(Path(folder, name), f"{origin}, {members[name]}") for name in layout.files}


def _write_ratings(file: ReleaseFile, layout: Layout, target: Path, progress: Progress) -> None:
    """Write the ratings in the order of the file, never holding more than some megabytes of them."""
    done = 0
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch, pq.ParquetWriter(target, RATINGS_SCHEMA) as writer:
        try:
            _require_header(file, layout)
            for batch in _batches(_with_tabs(file.path, layout, Path(scratch, "ratings.tsv")), layout):
                writer.write_batch(_typed(batch))
                done += batch.num_rows
                progress("reading ratings", done, 0)
        # Arrow's errors are ValueErrors, and so is that of text in another encoding.
        except ValueError as error:
            raise DataError(
                f"{file.shown} cannot be read: {str(error).splitlines()[0]}. Expected user, item, rating and seconds "
                f"since 1970 between {layout.delimiter!r}: unpack the publisher's zip again."
            ) from error
    if not done:
        raise DataError(f"{file.shown} holds no ratings (0 rows). Unpack the publisher's zip again.")


def _require_header(file: ReleaseFile, layout: Layout) -> None:
    with file.path.open(encoding="utf-8-sig") as stream:
        header = stream.readline(1000).strip() if layout.has_header else _HEADER
    if header != _HEADER:
        raise DataError(f"{file.shown} begins with {header!r}; expected {_HEADER!r}. Unpack the publisher's zip again.")


def _with_tabs(path: Path, layout: Layout, copy: Path) -> Path:
    """The ratings between single characters, which is all that Arrow reads; copied where the layout has two."""
    if len(layout.delimiter) == 1:
        return path
    with path.open("rb") as lines, copy.open("wb") as rewritten:
        rewritten.writelines(line.replace(layout.delimiter.encode(), b"\t") for line in lines)
    return copy


def _batches(path: Path, layout: Layout) -> Iterator[pa.RecordBatch]:
    # Ids are read as text and checked: a number's parser may take 0x1F for 31.
    types = {field.name: pa.string() if field.name in _IDS else field.type for field in RATINGS_SCHEMA}
    return pa_csv.open_csv(
        path,
        read_options=pa_csv.ReadOptions(
            column_names=RATINGS_SCHEMA.names, skip_rows=int(layout.has_header), block_size=_BLOCK_BYTES
        ),
        parse_options=pa_csv.ParseOptions(delimiter=layout.delimiter if len(layout.delimiter) == 1 else "\t"),
        convert_options=pa_csv.ConvertOptions(column_types=types),
    )


def _typed(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Whole ids as numbers; a value that is none, or none at all, becomes an error that shows it."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name in _IDS:
        strange = columns[name].filter(pc.invert(pc.match_substring_regex(columns[name], r"^\d+$")))
        if len(strange):
            raise ValueError(f"the id {strange[0].as_py()!r} of column {name} is no whole number")
        columns[name] = columns[name].cast(pa.int64())
    if empty := [name for name, values in columns.items() if values.null_count]:
        raise ValueError(f"column {empty[0]} has a row without a value")
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=RATINGS_SCHEMA)
