"""A DataFrame where a path is asked for: written as Parquet, once, under the digest of what it holds."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import DataError, UsageError
from recsys.files import ensure_writable, fingerprint_of, published_directory, sha256_of_file

SCHEMA = "schema.yaml"
"""The file of `stored_frames`' text."""


def is_path(rows: Any) -> bool:
    """Whether rows are named by a path or a URI rather than handed over."""
    return isinstance(rows, str | Path)


def stored_frames(frames: Mapping[str, Any], below: Path, text: str = "") -> Path:
    """Write each frame as `<name>.parquet` into one folder below `below`; return the folder.

    Equal frames lead to the same folder, which is written once.

    Args:
        frames: pandas, polars or Arrow tables, or anything else that offers its columns by the Arrow PyCapsule
            interface, by name.
        text: kept beside them as `SCHEMA`, where it is not empty.

    Raises:
        UsageError: something else than a frame.
        DataError: a column holds values of several kinds, stands twice, or has a type that no file keeps; names it.
        CannotWriteError: `below` cannot be written.
    """
    ensure_writable(below)
    with TemporaryDirectory(dir=below, prefix=".frames-") as work:
        for name, frame in frames.items():
            pq.write_table(arrow_table(frame), Path(work, f"{name}.parquet"))
        digests = {name: sha256_of_file(Path(work, f"{name}.parquet")) for name in frames}
        final = below / f"frames-{fingerprint_of([digests, text])}"
        if not final.is_dir():
            with published_directory(final) as folder:
                for name in frames:
                    Path(work, f"{name}.parquet").rename(folder / f"{name}.parquet")
                if text:
                    (folder / SCHEMA).write_text(text, encoding="utf-8")
    return final


def arrow_table(frame: Any) -> pa.Table:
    """Return a frame's columns as an Arrow table, without what its library notes beside them.

    Levels of a pandas index that have a name are columns too; one without a name is left out. Categories are written
    out, and a polars LazyFrame is collected.

    Raises:
        UsageError, DataError: see `stored_frames`.
    """
    if type(frame).__name__ == "LazyFrame":
        frame = frame.collect()
    try:
        if isinstance(frame, pd.DataFrame):
            named = [name for name in frame.index.names if name is not None and name not in frame.columns]
            table = pa.Table.from_pandas(frame.reset_index(named) if named else frame, preserve_index=False)
        elif hasattr(frame, "__arrow_c_stream__") and (hasattr(frame, "columns") or hasattr(frame, "read_all")):
            table = pa.table(frame)
        else:
            # A Series has the stream of one column, and no columns.
            raise UsageError(
                f"Found {type(frame).__name__} where rows are expected: a pandas or polars DataFrame, an Arrow table, "
                "a path, or a URI."
            )
        table = pa.table([_without_categories(column) for column in table.columns], names=table.column_names)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError) as error:
        raise DataError(
            f"The frame's columns cannot be read: {'; '.join(map(str, error.args))}. Give every column values of one "
            "kind, and a name of its own."
        ) from error
    _require_columns(table)
    return table


def _without_categories(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column with its values instead of numbers of categories."""
    if not pa.types.is_dictionary(column.type):
        return column
    kind = column.type.value_type
    # Arrow cannot yet take from, or write, categories of polars' own kind of string.
    kind = pa.string() if pa.types.is_string_view(kind) else kind
    return pa.chunked_array([each.dictionary.cast(kind).take(each.indices) for each in column.chunks], type=kind)


def _require_columns(table: pa.Table) -> None:
    """Refuse columns that no file of rows could hold with their meaning."""
    names = table.column_names
    if not names:
        raise DataError("The frame has no columns. Expected those that the schema names.")
    for field in table.schema:
        if names.count(field.name) > 1:
            raise DataError(f"The frame's column `{field.name}` stands twice. Give every column a name of its own.")
        if isinstance(field.type, pa.BaseExtensionType) and field.type.extension_name.startswith("pandas."):
            raise DataError(
                f"The frame's column `{field.name}` has type {field.type}, which other programs read as other values. "
                "Convert it: a period with `.dt.to_timestamp()`, an interval to one of its ends."
            )
