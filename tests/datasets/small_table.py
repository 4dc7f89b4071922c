"""A user's table of a few rows, read as `encode` would see it."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.datasets.database import temporary_database
from recsys.datasets.staging import stage
from recsys.datasets.table import TableSource
from recsys.datasets.table_layout import load_table_layout
from recsys.features.schema import load_schema
from recsys.progress import silent

# Four rows of four days; the first two are for training.
ROWS: dict[str, Any] = {
    "user_id": [1, 1, 2, 2],
    "item_id": ["a", "b", "a", "c"],
    "price": [5.0, -1.0, 2.5, 999.0],
    "group": ["new", "old", "new", "old"],
    "bought": [1, 0, 1, 0],
    "at": pa.array([0, 1, 2, 3], pa.int64()).cast(pa.int32()).cast(pa.date32()).cast(pa.timestamp("us")),
}
TABLE: dict[str, Any] = {
    "files": "*.parquet",
    "label": "bought",
    "time": {"column": "at", "unit": "timestamp"},
    "segment": {"column": "group"},
    "splits": {"validation_start": "1970-01-03", "test_start": "1970-01-04"},
}


def feature(name: str, kind: str = "dense", **keys: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "used_by": ["user_tower", "item_tower", "interaction_network"], **keys}


SCHEMA: dict[str, Any] = {
    "name": "small",
    "segment": "group",
    "segments": ["new", "old"],
    "label": "bought",
    "time": "at",
    "user": "user_id",
    "item": "item_id",
    "features": [feature("user_id", "sparse"), feature("item_id", "sparse"), feature("price", fill=0)],
}


def read_table(
    folder: Path, columns: dict[str, Any] | None = None, table: dict[str, Any] | None = None, **schema: Any
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The rows in the order of their time, and what was counted on the way.

    Args:
        columns: in place of some of `ROWS`, or of all where they are of another number of rows.
        table: keys of the `table:` block in place of some of `TABLE`; None removes one.
        schema: keys of the schema in place of some of `SCHEMA`.
    """
    block = {key: value for key, value in {**TABLE, **(table or {})}.items() if value is not None}
    path = folder / "schema.yaml"
    # Every JSON text is YAML.
    path.write_text(json.dumps({**SCHEMA, **schema, "table": block}), encoding="utf-8")
    columns = columns or {}
    number = len(next(iter(columns.values()))) if columns else len(ROWS["at"])
    same = {name: values for name, values in ROWS.items() if len(values) == number}
    pq.write_table(pa.table({**same, **columns}), folder / "rows.parquet")
    return read_rows(folder, path)


def read_rows(folder: Path, path: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """As `read_table`, of files that stand already."""
    declared = load_schema(path)
    layout = load_table_layout(path, declared)
    with temporary_database(folder, "500MB", 1) as connection:
        source = TableSource(folder, layout).read(connection, declared, silent)
        staged = stage(connection, source, declared)
        rows = connection.con.sql(connection.compile(staged.table)).df()
    return rows.sort_values(declared.time, ignore_index=True), staged.source.counts
