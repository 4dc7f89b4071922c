"""A made-up shop's rows in files, and how the source of kind `table` reads them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recsys.datasets.database import temporary_database
from recsys.datasets.source import SourceRows
from recsys.datasets.staging import stage
from recsys.datasets.table import TableSource
from recsys.datasets.table_layout import load_table_layout
from recsys.features.schema import load_schema
from recsys.progress import silent

BY_FILE = {"train": "train.*", "validation": "valid.*", "test": "test.*"}


def shop(rows: int = 60) -> pd.DataFrame:
    """Rows of ten days, in time order, each with a price of its own."""
    draw = np.random.default_rng(0)
    users = draw.integers(1, 9, rows)
    start = pd.Timestamp("2026-01-01 06:00:00")
    return pd.DataFrame(
        {
            "user_id": users,
            "item_id": draw.integers(1, 7, rows),
            "price": np.round(draw.lognormal(2, 0.5, rows), 3) + np.arange(rows) / 1000,
            "group": np.array(["new", "light", "heavy"])[users % 3],
            "bought": np.arange(rows) % 2,
            "at": (start + pd.to_timedelta(np.arange(rows) * 4, unit="h")).astype("datetime64[us]"),
        }
    )


def schema_document(**table: Any) -> dict[str, Any]:
    """The schema file; `table` replaces keys of its block, None removes one."""
    block: dict[str, Any] = {
        "files": "**/*.*",
        "label": "bought",
        "time": {"column": "at", "unit": "timestamp"},
        "segment": {"column": "group"},
        "splits": {"validation_start": "2026-01-08", "test_start": "2026-01-09"},
    }
    block.update(table)
    if isinstance(block["files"], dict) and "splits" not in table:
        del block["splits"]
    both = ["interaction_network"]
    return {
        "name": "shop",
        "segment": "group",
        "segments": ["new", "light", "heavy"],
        "label": "label",
        "time": "at",
        "user": "user_id",
        "item": "item_id",
        "features": [
            {"name": "user_id", "kind": "sparse", "used_by": both},
            {"name": "item_id", "kind": "sparse", "used_by": both},
            {"name": "price", "kind": "dense", "fill": 0, "used_by": both},
        ],
        "table": {key: value for key, value in block.items() if value is not None},
    }


def source_rows(raw: Path, work: Path, document: dict[str, Any] | None = None) -> tuple[pd.DataFrame, SourceRows]:
    """The rows as `encode` would see them, in the order of their times and prices, and what the source says of them."""
    work.mkdir(exist_ok=True, parents=True)
    path = work / "schema.yaml"
    path.write_text(json.dumps(document or schema_document()), encoding="utf-8")
    schema = load_schema(path)
    with temporary_database(work, "500MB", 1) as connection:
        source = TableSource(raw, load_table_layout(path, schema)).read(connection, schema, silent)
        rows = stage(connection, source, schema).table
        frame = connection.con.sql(connection.compile(rows)).df()
    return frame.sort_values(["at", "price"], ignore_index=True), source


def read(raw: Path, work: Path, **table: Any) -> pd.DataFrame:
    """The rows alone, by a schema with these keys in its block."""
    return source_rows(raw, work, schema_document(**table))[0]
