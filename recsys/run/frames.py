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
            interface, by name; the index of a pandas frame is left out.
        text: kept beside them as `SCHEMA`, where it is not empty.

    Raises:
        UsageError: something else than a frame.
        DataError: a column holds values of several kinds; names it.
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

    Raises:
        UsageError, DataError: see `stored_frames`.
    """
    try:
        if isinstance(frame, pd.DataFrame):
            table = pa.Table.from_pandas(frame, preserve_index=False)
        elif hasattr(frame, "__arrow_c_stream__"):
            table = pa.table(frame)
        else:
            raise UsageError(
                f"Found {type(frame).__name__} where rows are expected: a pandas or polars DataFrame, an Arrow table, "
                "a path, or a URI."
            )
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError) as error:
        raise DataError(
            f"The frame's columns cannot be read: {error}. Give every column values of one kind, and a name of its own."
        ) from error
    return table.replace_schema_metadata(None)
